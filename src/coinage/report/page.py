"""A run as one HTML page that is its own record, and several runs on one page. No network needed; imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from coinage.errors import CoinageError
from coinage.report import measures
from coinage.report.charts import number
from coinage.report.figures import journey, learning, overlays, row_names
from coinage.report.fit import LIMIT, fit_pictures, fit_words, without_pictures
from coinage.report.previews import pictures_of, stage_of, stage_of_runs
from coinage.report.record import Record, from_json
from coinage.system.text_files import read_limited
from coinage.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment

# No text of a run can look like this: the page escapes it
OPENING = '<script type="application/json" id="record">'
LARGEST = 16 * 2**20  # bytes that are read of a file; a page has at most 5 MB
COMPARED = 16_000_000  # bytes of a page of several runs
SHOWN_ROWS, SHOWN_IMAGES = 6, 24  # more can be unfolded
SHOWN_STANDINGS = 12
LEFT_OUT = {
    "shots": "preview step",
    "pictures": "preview picture",
    "images": "training image",
    "prompts": "prompt",
    "rows": "vector",
    "warnings": "warning",
    "tools": "tool",
}


def render(record: Record) -> str:
    """The page of a run; below 5 MB in UTF-8, whatever the record: what does not fit is left out, and the page says so."""
    words = fit_words(record)
    bare = len(_page(without_pictures(words)).encode())
    return _page(fit_pictures(words, LIMIT - bare - 1000))


def read(path: Path) -> Record:
    """The record in a report. Nothing in the file is run.

    Raises:
        CoinageError: the file cannot be read or is no report.
    """
    hint = "give the NAME-report.html that a run has written"
    data = read_limited(path, most=LARGEST)
    _, found, rest = data.partition(OPENING.encode())
    text, closed, _ = rest.partition(b"</script")
    if not found or not closed:
        raise CoinageError("not a report of a run", str(path), hint)
    try:
        return from_json(text.decode())
    except ValueError as error:
        raise CoinageError(
            f"the report holds no record that can be read: {error}", str(path), hint
        ) from None


def compare(records: Sequence[Record], paths: Sequence[Path] = ()) -> str:
    """Return a page with several runs side by side, below 16 MB in UTF-8; the paths of their reports tell them apart."""
    fitted = [fit_words(replace(record, images=[])) for record in records]
    names = measures.names_of(fitted, paths)
    bare = len(_compared([without_pictures(record) for record in fitted], names).encode())
    room = (COMPARED - bare - 1000) // max(1, len(records))
    return _compared([fit_pictures(record, min(room, LIMIT)) for record in fitted], names)


def _page(record: Record) -> str:
    cards = list(zip(row_names(record), record.rows, strict=True))
    stage = stage_of(record)
    return (
        environment()
        .get_template("report.html")
        .render(
            record=record,
            refresh=15 if record.status == "training" else 0,
            told=_told(record),
            facts=_facts(record),
            next_steps=next_steps(record),
            stage=stage,
            journey=journey(record),
            learning=learning(record),
            rows=[card for card in cards if card[1].first or card[1].now],
            shown_standings=SHOWN_STANDINGS,
            shown_rows=SHOWN_ROWS,
            shown_images=SHOWN_IMAGES,
            left_out=_left_out(record),
            works=measures.works_in(record),
        )
    )


def _compared(records: Sequence[Record], names: Sequence[str]) -> str:
    return (
        environment()
        .get_template("compare.html")
        .render(
            runs=[
                {"name": name, "record": record} | _summary(record)
                for name, record in zip(names, records, strict=True)
            ],
            stage=stage_of_runs(records),
            pictures=pictures_of(records),
            figures=overlays(records, names),
            differences=differences(records),
            tools=_tools(records),
            rows=[list(zip(row_names(record), record.rows, strict=True)) for record in records],
        )
    )


@cache
def environment() -> Environment:
    """Return what renders all pages: a name that a template does not get is an error, and text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("coinage.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"number": number, "duration": duration, "moment": moment, "counted": counted}
    return made


def duration(seconds: float) -> str:
    """A time as people say it: `45 s`, `12 min 3 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(iso: str) -> str:
    """Day and minute of a time in ISO 8601."""
    return iso[:16].replace("T", " ")


def _told(record: Record) -> str:
    """The state of a run in a sentence."""
    left = ""
    if record.step and record.total_steps > record.step and record.seconds > 0:
        seconds = record.seconds / record.step * (record.total_steps - record.step)
        left = f", about {duration(60 * round(seconds / 60) if seconds > 90 else seconds).removesuffix(' 0 s')} left"
    return {
        "training": f"training{left}",
        "finished": "finished early: its loss has settled" if record.ended_early else "finished",
        "stopped": "stopped before its end",
        "failed": "failed",
    }[record.status]


def _facts(record: Record) -> list[tuple[str, str]]:
    """What a run is, as pairs of name and value; without those that are unknown."""
    speed = measures.images_per_second(record)
    images = record.image_count or len(record.images)
    found = [
        (
            "step",
            f"{record.step:,} of {record.total_steps:,}"
            if record.total_steps
            else f"{record.step:,}",
        ),
        ("epoch", f"{record.epoch:,} of {record.total_epochs:,}"),
        ("time", duration(record.seconds) if record.seconds else ""),
        ("speed", f"{number(speed)} images/s" if speed else ""),
        ("learned from", counted(images, "image") if images else ""),
        ("began", moment(record.began)),
        ("last written" if record.status == "training" else "ended", moment(record.written)),
        ("kind", record.family),
        ("model", record.model),
        ("device", record.device),
        ("folder", folder_of(record.file)),
    ]
    return [(name, value) for name, value in found if value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What to do with a run now.

    Attributes:
        file: to use, its name alone; "" where there is none yet.
        why: it is the one to use.
        tools: where to put it and what to write, a line for each tool.
        calls: the same for diffusers, in Python.
    """

    file: str = ""
    why: str = ""
    tools: Sequence[tuple[str, str]] = ()
    calls: str = ""


def next_steps(record: Record) -> Next | None:
    """Return what to do with the word of a finished run; None where it is not finished or its file was not tried."""
    if record.status != "finished" or not record.file:
        return None
    name = PurePosixPath(record.file.replace("\\", "/")).name
    at = next(
        (number for number, line in enumerate(record.usage) if line.startswith("diffusers:")),
        len(record.usage),
    )
    tools = [(tool, how) for tool, _, how in (line.partition(": ") for line in record.usage[:at])]
    return Next(
        file=name,
        why=_why(record, name),
        tools=tools,
        calls="\n".join(record.usage[at:]).removeprefix("diffusers:").strip(),
    )


def _why(record: Record, name: str) -> str:
    """Why a file is the one to use; "" where it is the only one."""
    best = record.standings[0] if record.standings else None
    if best is None or best.loss is None or name not in best.file.split(", "):
        return ""
    if best.step == record.step:
        return f"Its loss is the lowest, at the last step, {best.step:,} ({best.loss:.4f})."
    last = next(
        (
            one.file.split(", ")[0]
            for one in record.standings
            if one.step == record.step and one.file
        ),
        "",
    )
    rest = f" The word of the last step, {record.step:,}, is in {last}." if last else ""
    return f"Its loss is the lowest, at step {best.step:,} ({best.loss:.4f}): try it first.{rest}"


def folder_of(path: str) -> str:
    """Return the folder of a path of this system or another; "" for none."""
    return re.sub(r"[\\/]?[^\\/]*$", "", path)


def _left_out(record: Record) -> list[str]:
    """Sentences on what is not in the page."""
    found = [
        counted(count, LEFT_OUT[name])
        for name, count in record.left_out.items()
        if name in LEFT_OUT and count > 0
    ]
    return [f"To keep this page small, something is left out: {', '.join(found)}."] if found else []


def _summary(record: Record) -> dict[str, Any]:
    """A run's line in the table."""
    return {
        "loss": measures.last_loss(record),
        "turned": measures.last(measures.turned(record)),
        "length": measures.last(measures.relative_lengths(record)),
        "fixed": measures.fixed_loss(record),
        "works": measures.works_in(record),
    }


def differences(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with each run's value; "" where it is unknown or the default."""
    tables: list[dict[str, str]] = []
    for record in records:
        own = {
            "word": record.token,
            "model": record.model,
            "family": record.family,
            "device": record.device,
        }
        own |= {
            "vectors": str(len(record.rows) or ""),
            "images": str(record.image_count or ""),
            "coinage": record.coinage,
        }
        tables.append(own | {flag: value for _, group in record.settings for flag, value in group})
    rows = [(name, [table.get(name, "") for table in tables]) for name in _in_order(tables)]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _tools(records: Sequence[Record]) -> list[tuple[str, list[Any]]]:
    """For every tool, how each run's file does in it; None where it was not tried."""
    tables = [{tool.tool: tool for tool in record.tools} for record in records]
    return [(name, [table.get(name) for table in tables]) for name in _in_order(tables)]


def _in_order(tables: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, as they first come."""
    return list(dict.fromkeys(name for table in tables for name in table))


def plain(record: Record) -> dict[str, Any]:
    """The record without pictures, as JSON holds it."""
    values: dict[str, Any] = json.loads(without_pictures(record).as_json())
    return values
