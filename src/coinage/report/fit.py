"""Make a record fit for a page: only what JSON and HTML can hold, in a bounded size. No torch.

This is the one place that bounds a page, whatever was recorded: captions, warnings and settings may
be long, previews many, and a page that is compared may come from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from coinage.report.charts import LARGEST
from coinage.report.measures import column
from coinage.report.record import Curves, Image, Record, Shot

MOST_BYTES = 5_000_000  # of a page
# Bytes of a record without pictures. Its texts stand in the page twice, and HTML writes some signs
# longer.
MOST_WORD_BYTES = 1_000_000
MOST_NUMBERS = 24_000  # of the curves, about 20 bytes each
MOST_POINTS = 600  # of a curve
HTML_PER_PICTURE = 400  # bytes around one
THUMBNAIL_SHARE = 0.3  # of the room for pictures, where the previews need the rest
PICTURE_STARTS = tuple(f"data:image/{kind};base64," for kind in ("png", "jpeg", "webp", "gif"))
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
        shots.append(replace(shot, pictures=pictures))
    costs = [2 * (len(image.thumbnail) + HTML_PER_PICTURE) for image in images]
    kept_shots = _shots_within(shots, room - min(sum(costs), int(THUMBNAIL_SHARE * room)))
    rest = room - _cost(kept_shots)
    places = _most_that_fit(len(images), lambda places: sum(costs[i] for i in places) <= rest)
    lost = {"shots": len(shots) - len(kept_shots), "images": len(images) - len(places)}
    if kept_shots:
        lost["pictures"] = _drawn(shots[-1]) - _drawn(kept_shots[-1])
    return replace(
        record,
        images=[images[place] for place in places],
        shots=kept_shots,
        left_out=_added(record.left_out, lost),
    )


def without_pictures(record: Record) -> Record:
    """Return the record with every picture gone; the places of previews stay."""
    images = [replace(image, thumbnail="") for image in record.images]
    shots = [replace(shot, pictures=[None] * len(shot.pictures)) for shot in record.shots]
    return replace(record, images=images, shots=shots)


def evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the places 0 to count - 1: first, last, and others evenly between."""
    if most >= count:
        return list(range(count))
    if most <= 1:
        return [count - 1] if most else []
    return [number * (count - 1) // (most - 1) for number in range(most)]


def _most_that_fit(count: int, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return the largest even selection of places that fits."""
    for most in range(count, 0, -1):
        places = evenly(count, most)
        if fits(places):
            return places
    return []


def _shots_within(shots: Sequence[Shot], room: int) -> list[Shot]:
    """Return the shots that fit; of the last one alone, its first pictures."""
    sizes = [_size(shot) for shot in shots]
    places = _most_that_fit(
        len(shots), lambda places: sum(sizes[i] for i in places) + sizes[-1] <= room
    )
    if places or not shots:
        return [shots[place] for place in places]
    pictures: list[str | None] = []
    for url in shots[-1].pictures:
        fits = 2 * _size(replace(shots[-1], pictures=[*pictures, url])) <= room
        pictures.append(url if fits else None)
    return [replace(shots[-1], pictures=pictures)] if any(pictures) else []


def _cost(shots: Sequence[Shot]) -> int:
    """Return the bytes of shots: once in the record, and the last once more in the page itself."""
    return sum(map(_size, shots)) + sum(map(_size, shots[-1:]))


def _size(shot: Shot) -> int:
    return sum(len(url) + HTML_PER_PICTURE for url in shot.pictures if url)


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
        return type(value)(change(entry) for entry in value)
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
        first = [word for word in row.first if word[1] is not None]
        now = [word for word in row.now if word[1] is not None]
        rows.append(replace(row, first=first, now=now))
    measured = [point for point in record.measured if point[1] is not None]
    vocabulary = {key: lengths for key, lengths in record.vocabulary.items() if None not in lengths}
    seconds = record.seconds or 0.0
    return replace(record, rows=rows, measured=measured, vocabulary=vocabulary, seconds=seconds)


def _thinned(curves: Curves) -> Curves:
    """Return as many points as the numbers of one leave room for; each stands for some steps."""
    lists = {entry.name: getattr(curves, entry.name) for entry in fields(curves)}
    numbers = sum(_width(values) for values in lists.values())
    most = max(2, min(MOST_POINTS, MOST_NUMBERS // max(numbers, 1)))
    count = len(curves.step)
    if count <= most:
        return curves
    edges = [number * count // most for number in range(most + 1)]
    thin: dict[str, list[Any]] = {}
    for name, values in lists.items():
        parts = [values[first:end] for first, end in pairwise(edges)]
        thin[name] = [_joined(name, part) for part in parts if part]
    return Curves(**thin)


def _width(values: Sequence[Any]) -> int:
    """Return the numbers of a point."""
    return max((len(value) if isinstance(value, list) else 1 for value in values), default=0)


def _joined(name: str, part: list[Any]) -> Any:
    """Return the value of a curve for some points in a row."""
    if name == "bands":
        longest = max(map(len, part))
        return [_mean(column(part, band)) for band in range(longest)]
    if name not in ("loss", "low", "high"):
        return part[-1]  # where the points end
    known = [value for value in part if value is not None]
    if name == "loss":
        return _mean(known)
    return (min if name == "low" else max)(known, default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


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
    images = [record.images[place] for place in evenly(len(record.images), entries)]
    changed["images"] = _shortened(images, letters, entries)
    changed["shots"] = [record.shots[place] for place in evenly(len(record.shots), entries)]
    places = evenly(len(record.measured), MOST_POINTS)
    changed["measured"] = [record.measured[place] for place in places]
    lost = {}
    for name in ("warnings", "prompts", "rows", "tools", "images", "shots"):
        lost[name] = len(getattr(record, name)) - len(changed[name])
    return replace(record, **changed, left_out=_added(record.left_out, lost))


def _shortened(value: Any, letters: int, entries: int) -> Any:
    """Return a value with its texts and lists cut."""

    def shorten(entry: Any) -> Any:
        return _shortened(entry, letters, entries)

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


def _added(before: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Return the counts together, without those that are 0."""
    counts = dict(before)
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count
    return {name: count for name, count in counts.items() if count}
