"""Make a record fit for a page: only what JSON and HTML can hold, in a bounded size. No torch.

This is the one place that bounds a page, whatever was recorded: captions, warnings and settings may
be long, previews many, and a page that is compared may come from anywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

from coinage.report.charts import LARGEST
from coinage.report.measures import column, mean_of, without_gaps
from coinage.report.record import Curves, Image, Record, Shot

MOST_BYTES = 5_000_000  # of a page
# Bytes of a record without pictures. Its texts stand in the page twice, and HTML writes some signs
# longer.
MOST_WORD_BYTES = 1_000_000
MOST_NUMBERS = 24_000  # of the curves, about 20 bytes each
MOST_POINTS = 600  # of a curve
HTML_PER_PICTURE = 400  # bytes around one
THUMBNAIL_SHARE = 0.3  # of the room for pictures, where the previews need the rest
PICTURE_STARTS = (
    "data:image/png;base64,",
    "data:image/jpeg;base64,",
    "data:image/webp;base64,",
    "data:image/gif;base64,",
)
T = TypeVar("T")
Pair = TypeVar("Pair", bound=tuple[Any, float])
UNSAFE_SIGNS = "<>\"'&\\ \n"
# Letters of a text and entries of a list; the first pair with which the words fit
WORD_LIMITS = ((4000, 400), (1000, 200), (250, 100), (100, 50), (60, 12))


def fit_words(record: Record) -> Record:
    """Return all but the pictures in a bounded size.

    Characters and numbers that a page cannot hold are replaced, curves thinned, long texts and
    lists cut.
    """
    tools = []
    for tool in record.tools:
        # An infinite difference is shown, as a large one
        difference = tool.difference and min(tool.difference, LARGEST)
        tools.append(replace(tool, difference=difference))
    clean: Record = _clean(replace(record, tools=tools))
    clean = _without_gaps(clean)
    clean = replace(clean, curves=_thinned(clean.curves))
    for letters, entries in WORD_LIMITS:
        cut = _cut(clean, letters, entries)
        if len(without_pictures(cut).as_json()) <= MOST_WORD_BYTES:
            break
    return cut


def fit_pictures(record: Record, room: int) -> Record:
    """Return the record with the previews and training images that fit.

    Args:
        record: of `fit_words`. Data URLs of anything but a picture are dropped.
        room: bytes for pictures.
    """
    images = [replace(image, thumbnail=_picture(image.thumbnail) or "") for image in record.images]
    shots = []
    for shot in record.shots:
        pictures = [_picture(url) for url in shot.pictures[: len(record.prompts)]]
        heat = [_picture(url) for url in shot.heat[: len(record.prompts)]]
        shots.append(replace(shot, pictures=pictures, heat=heat))
    costs = [2 * (len(image.thumbnail) + HTML_PER_PICTURE) for image in images]
    shown_shots = _shots_within(shots, room - min(sum(costs), int(THUMBNAIL_SHARE * room)))
    shown_images = pick_evenly(images, _most_within(costs, room - _cost(shown_shots)))
    lost = Counter(shots=len(shots) - len(shown_shots), images=len(images) - len(shown_images))
    if shown_shots:
        lost["pictures"] = _drawn(shots[-1]) - _drawn(shown_shots[-1])
    return replace(
        record,
        images=shown_images,
        shots=shown_shots,
        left_out=dict(Counter(record.left_out) + lost),
    )


def without_pictures(record: Record) -> Record:
    """Return the record with every picture gone; the places of previews stay."""
    images = [replace(image, thumbnail="") for image in record.images]
    shots = []
    for shot in record.shots:
        shots.append(replace(shot, pictures=[None] * len(shot.pictures), heat=[]))
    return replace(record, images=images, shots=shots)


def pick_evenly(entries: Sequence[T], most: int) -> list[T]:
    """Return at most so many entries: first, last, and others evenly between."""
    count = len(entries)
    if most >= count:
        return list(entries)
    if most <= 1:
        return [entries[-1]] if most else []
    return [entries[number * (count - 1) // (most - 1)] for number in range(most)]


def _most_within(sizes: Sequence[int], room: int) -> int:
    """Return how many entries, picked evenly, fit into so many bytes."""
    most = len(sizes)
    while most and sum(pick_evenly(sizes, most)) > room:
        most -= 1
    return most


def _shots_within(shots: Sequence[Shot], room: int) -> list[Shot]:
    """Return the shots that fit; of the last one alone, its first pictures."""
    if not shots:
        return []
    last = shots[-1]
    most = _most_within([_size(shot) for shot in shots], room - _size(last))
    if most:
        return pick_evenly(shots, most)
    pictures: list[str | None] = []
    for url in last.pictures:
        fits = 2 * _size(replace(last, pictures=[*pictures, url], heat=[])) <= room
        pictures.append(url if fits else None)
    return [replace(last, pictures=pictures, heat=[])] if any(pictures) else []


def _cost(shots: Sequence[Shot]) -> int:
    """Return the bytes of shots: once in the record, and the last once more in the page itself."""
    return sum(map(_size, shots)) + sum(map(_size, shots[-1:]))


def _size(shot: Shot) -> int:
    return sum(len(url) + HTML_PER_PICTURE for url in (*shot.pictures, *shot.heat) if url)


def _drawn(shot: Shot) -> int:
    return sum(url is not None for url in shot.pictures)


def _picture(url: str | None) -> str | None:
    """Return the data URL of a picture, None for anything else."""
    if not url or not url.startswith(PICTURE_STARTS) or not url.isascii():
        return None
    return None if any(sign in url for sign in UNSAFE_SIGNS) else url


def _clean(value: Any) -> Any:
    """Return the same with numbers that are not measurements gone, and text that UTF-8 can hold."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) and abs(value) <= LARGEST else None
    return _mapped(value, _clean)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a list, tuple, dict or dataclass with each of its entries changed."""
    if isinstance(value, list | tuple):
        return type(value)(map(change, value))
    if isinstance(value, dict):
        return {change(key): change(entry) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {entry.name: change(getattr(value, entry.name)) for entry in fields(value)}
        return replace(value, **changed)
    return value


def _without_gaps(record: Record) -> Record:
    """Drop entries that lost a number which they need."""
    rows = []
    for row in record.rows:
        rows.append(replace(row, first=_complete(row.first), now=_complete(row.now)))
    vocabulary = dict(record.vocabulary)
    for key, lengths in record.vocabulary.items():
        if None in lengths:
            del vocabulary[key]
    return replace(
        record,
        rows=rows,
        measured=_complete(record.measured),
        vocabulary=vocabulary,
        seconds=record.seconds or 0.0,
    )


def _complete(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs whose number was not lost."""
    return [pair for pair in pairs if pair[1] is not None]


def _thinned(curves: Curves) -> Curves:
    """Return as many points as the numbers of one leave room for; each stands for some steps."""
    numbers = sum(map(_width, vars(curves).values()))
    most = max(2, min(MOST_POINTS, MOST_NUMBERS // max(numbers, 1)))
    count = len(curves.step)
    if count <= most:
        return curves
    thin = Curves()
    for name, values in vars(curves).items():
        for place in range(most):
            part = values[place * count // most : (place + 1) * count // most]
            if part:
                getattr(thin, name).append(_joined(name, part))
    return thin


def _width(values: Sequence[Any]) -> int:
    """Return the numbers of a point."""
    widest = 0
    for value in values:
        widest = max(widest, len(value) if isinstance(value, list) else 1)
    return widest


def _joined(name: str, part: list[Any]) -> Any:
    """Return the value of a curve for some points in a row."""
    if name == "bands":
        longest = max(map(len, part))
        return [mean_of(column(part, band)) for band in range(longest)]
    if name not in ("loss", "low", "high"):
        return part[-1]  # where the points end
    if name == "loss":
        return mean_of(part)
    extreme = min if name == "low" else max
    return extreme(without_gaps(part), default=None)


def _cut(record: Record, letters: int, entries: int) -> Record:
    """Return the record with texts and lists cut; pictures stay as they are.

    Args:
        record: to cut.
        letters: of a text, at most.
        entries: of a list, at most.
    """
    whole = {"curves", "shots", "measured", "images", "left_out", "status", "version"}
    changed: dict[str, Any] = {}
    for entry in fields(record):
        if entry.name not in whole:
            changed[entry.name] = _shortened(getattr(record, entry.name), letters, entries)
    images = pick_evenly(record.images, entries)
    changed["images"] = _shortened(images, letters, entries)
    changed["shots"] = pick_evenly(record.shots, entries)
    changed["measured"] = pick_evenly(record.measured, MOST_POINTS)
    lost: Counter[str] = Counter()
    for name in ("warnings", "prompts", "rows", "tools", "images", "shots"):
        lost[name] = len(getattr(record, name)) - len(changed[name])
    return replace(record, **changed, left_out=dict(Counter(record.left_out) + lost))


def _shortened(value: Any, letters: int, entries: int) -> Any:
    """Return a value with its texts and lists cut."""
    shorten = partial(_shortened, letters=letters, entries=entries)
    if isinstance(value, str):
        return value if len(value) <= letters else value[: letters - 1] + "…"
    if isinstance(value, list | tuple):
        return _mapped(value[:entries], shorten)
    if isinstance(value, dict):
        return _mapped(dict(list(value.items())[:entries]), shorten)
    changed = _mapped(value, shorten)
    if isinstance(value, Image):
        return replace(changed, thumbnail=value.thumbnail)
    return changed
