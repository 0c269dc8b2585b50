"""Render a run as one HTML page that is its own record. It needs no network; imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coinage.errors import CoinageError
from coinage.report import measures
from coinage.report.charts import number
from coinage.report.environment import duration, environment, moment
from coinage.report.figures import learning_figures, movement_figures, vector_names
from coinage.report.fit import MOST_BYTES, fit_pictures, fit_words, without_pictures
from coinage.report.previews import stage_of
from coinage.report.record import Record, Standing, from_json
from coinage.system.text_files import read_limited
from coinage.wording import counted

# No text of a run can look like this: the page escapes it
OPENING = '<script type="application/json" id="record">'
LARGEST_FILE = 16 * 2**20  # bytes that are read of a file; a page has at most 5 MB
MARGIN = 1000  # bytes by which a page with pictures may be longer than they are
SHOWN_VECTORS, SHOWN_IMAGES, SHOWN_STANDINGS = 6, 24, 12  # more can be unfolded
REFRESH = 15  # seconds between two looks at the page of a run that goes on
LEFT_OUT_NOUNS = {
    "shots": "preview step",
    "pictures": "preview picture",
    "images": "training image",
    "prompts": "prompt",
    "rows": "vector",
    "warnings": "warning",
    "tools": "tool",
}


def render_report(record: Record) -> str:
    """Return the page of a run, below 5 MB in UTF-8.

    What does not fit is left out, and the page says so.
    """
    words = fit_words(record)
    size = len(_page(without_pictures(words)).encode())
    return _page(fit_pictures(words, MOST_BYTES - size - MARGIN))


def read_report(path: Path) -> Record:
    """Return the record in a report. Nothing in the file is run.

    Raises:
        CoinageError: the file cannot be read, or is not a report.
    """
    hint = "give the NAME-report.html that a run has written"
    data = read_limited(path, most=LARGEST_FILE)
    _, opening, rest = data.partition(OPENING.encode())
    text, closing, _ = rest.partition(b"</script")
    if not opening or not closing:
        raise CoinageError("not a report of a run", str(path), hint)
    try:
        return from_json(text.decode())
    except ValueError as error:
        what = f"the report holds no record that can be read: {error}"
        raise CoinageError(what, str(path), hint) from None


def as_plain(record: Record) -> dict[str, Any]:
    """Return the record without pictures, as JSON holds it."""
    values: dict[str, Any] = json.loads(without_pictures(record).as_json())
    return values


def _page(record: Record) -> str:
    rows = []
    for name, row in zip(vector_names(record), record.rows, strict=True):
        if row.first or row.now:
            rows.append((name, row))
    template = environment().get_template("report.html")
    return template.render(
        record=record,
        refresh=REFRESH if record.status == "training" else 0,
        status_line=_status_line(record),
        facts=_facts(record),
        next_steps=next_steps(record),
        stage=stage_of(record),
        journey=movement_figures(record),
        learning=learning_figures(record),
        rows=rows,
        shown_standings=SHOWN_STANDINGS,
        shown_rows=SHOWN_VECTORS,
        shown_images=SHOWN_IMAGES,
        left_out=_left_out(record),
        works=measures.works_in(record),
    )


def _status_line(record: Record) -> str:
    """Return the state of a run in a few words."""
    if record.status == "training":
        return f"training{_time_left(record)}"
    if record.status == "finished":
        return "finished early: the loss no longer improved" if record.ended_early else "finished"
    return "stopped before its end" if record.status == "stopped" else "failed"


def _time_left(record: Record) -> str:
    steps_left = record.total_steps - record.step
    if not record.step or steps_left <= 0 or record.seconds <= 0:
        return ""
    seconds = record.seconds / record.step * steps_left
    if seconds > 90:  # whole minutes are enough
        seconds = 60 * round(seconds / 60)
    return f", about {duration(seconds).removesuffix(' 0 s')} left"


def _facts(record: Record) -> list[tuple[str, str]]:
    """Return what a run is, as pairs of name and value; without those that are unknown."""
    speed = measures.images_per_second(record)
    images = record.image_count or len(record.images)
    step = f"{record.step:,}"
    if record.total_steps:
        step += f" of {record.total_steps:,}"
    facts = [
        ("step", step),
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
    return [(name, value) for name, value in facts if value]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextSteps:
    """What to do with a finished run.

    Attributes:
        file: to use, its name alone.
        why: it is the one to use; "" where it is the only one.
        tools: where to put it and what to write, a pair for each tool.
        calls: the same for diffusers, in Python.
    """

    file: str = ""
    why: str = ""
    tools: Sequence[tuple[str, str]] = ()
    calls: str = ""


def next_steps(record: Record) -> NextSteps | None:
    """Return what to do with the word of a finished run.

    None where it is not finished, or where its file was not tried in the tools.
    """
    if record.status != "finished" or not record.file:
        return None
    name = PurePosixPath(record.file.replace("\\", "/")).name
    tools = []
    calls: list[str] = []
    for line in record.usage:
        if calls or line.startswith("diffusers:"):
            calls.append(line)
        else:
            tool, _, usage = line.partition(": ")
            tools.append((tool, usage))
    python = "\n".join(calls).removeprefix("diffusers:").strip()
    return NextSteps(file=name, why=_why(record, name), tools=tools, calls=python)


def _why(record: Record, name: str) -> str:
    """Return why a file is the one to use; "" where it is the only one."""
    best = record.standings[0] if record.standings else None
    if best is None or best.loss is None or name not in _files(best):
        return ""
    if best.step == record.step:
        return f"Its loss is the lowest, at the last step, {best.step:,} ({best.loss:.4f})."
    why = f"Its loss is the lowest, at step {best.step:,} ({best.loss:.4f}): try it first."
    for standing in record.standings:
        if standing.step == record.step and standing.file:
            last = _files(standing)[0]
            return f"{why} The word of the last step, {record.step:,}, is in {last}."
    return why


def _files(standing: Standing) -> list[str]:
    return standing.file.split(", ")


def folder_of(path: str) -> str:
    """Return the folder of a path of this system or another; "" for none."""
    return re.sub(r"[\\/]?[^\\/]*$", "", path)


def _left_out(record: Record) -> list[str]:
    """Return sentences on what is not in the page."""
    counts = []
    for name, count in record.left_out.items():
        if name in LEFT_OUT_NOUNS and count > 0:
            counts.append(counted(count, LEFT_OUT_NOUNS[name]))
    if not counts:
        return []
    return [f"To keep this page small, something is left out: {', '.join(counts)}."]
