"""A record made fit for a page: nothing that JSON or HTML cannot hold, and a bounded size. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from coinage.report.charts import LARGEST
from coinage.report.record import Curves, Image, Record, Shot

MOST_BYTES = 5_000_000  # bytes of a page
# Bytes of a record without pictures; its texts stand in the page twice, and HTML writes some signs longer
WORDS = 1_000_000
NUMBERS = 24_000  # of the curves, about 20 bytes each
POINTS = 600  # of a curve
PER_PICTURE = 400  # bytes of HTML around one
THUMBNAILS = 0.3  # of the room for pictures, where the previews need the rest
KINDS = tuple(f"data:image/{kind};base64," for kind in ("png", "jpeg", "webp", "gif"))
# Letters of a text, entries of a list
TIGHTER = ((4000, 400), (1000, 200), (250, 100), (100, 50), (60, 12))


def fit_words(record: Record) -> Record:
    """All but the pictures: strange characters and numbers mended, curves thinned, long texts and lists cut."""
    # infinite: told as such
    tools = [
        replace(tool, difference=tool.difference and min(tool.difference, LARGEST))
        for tool in record.tools
    ]
    clean: Record = _mended(replace(record, tools=tools))
    clean = replace(clean, curves=_thinned(clean.curves))
    for letters, entries in TIGHTER:
        cut = _cut(clean, letters, entries)
        if len(without_pictures(cut).as_json()) <= WORDS:
            break
    return cut


def fit_pictures(record: Record, room: int) -> Record:
    """Previews and training images that fit, and only pictures: a data URL of another kind is dropped."""
    images = [replace(image, thumbnail=_picture(image.thumbnail) or "") for image in record.images]
    shots = [
        replace(shot, pictures=[_picture(url) for url in shot.pictures[: len(record.prompts)]])
        for shot in record.shots
    ]
    costs = [2 * (len(image.thumbnail) + PER_PICTURE) for image in images]
    kept_shots = _shots_within(shots, room - min(sum(costs), int(THUMBNAILS * room)))
    rest = room - (sum(sizes := [_size(shot) for shot in kept_shots]) + sum(sizes[-1:]))
    kept = _most(len(images), lambda places: sum(costs[i] for i in places) <= rest)
    fewer = {"shots": len(shots) - len(kept_shots), "images": len(images) - len(kept)}
    fewer["pictures"] = _drawn(shots[-1]) - _drawn(kept_shots[-1]) if kept_shots else 0
    return replace(
        record,
        images=[images[i] for i in kept],
        shots=kept_shots,
        left_out=_added(record.left_out, fewer),
    )


def without_pictures(record: Record) -> Record:
    """The record with every picture gone, but for its place."""
    images = [replace(image, thumbnail="") for image in record.images]
    return replace(
        record,
        images=images,
        shots=[Shot(step=shot.step, pictures=[None] * len(shot.pictures)) for shot in record.shots],
    )


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the places 0 to count - 1: the first, the last, the others evenly between."""
    if most >= count:
        return list(range(count))
    if most <= 1:
        return [count - 1] if most else []
    return [i * (count - 1) // (most - 1) for i in range(most)]


def _most(count: int, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """The largest even selection that fits."""
    return next((places for most in range(count, 0, -1) if fits(places := evenly(count, most))), [])


def _shots_within(shots: Sequence[Shot], room: int) -> list[Shot]:
    """Those that fit, counted once in the record, and the last once more in the page's own pictures."""
    sizes = [_size(shot) for shot in shots]
    kept = [
        shots[i]
        for i in _most(len(shots), lambda places: sum(sizes[i] for i in places) + sizes[-1] <= room)
    ]
    if kept or not shots:
        return kept
    pictures: list[str | None] = []  # not even the last fits whole: its first pictures
    for url in shots[-1].pictures:
        fits = 2 * _size(replace(shots[-1], pictures=[*pictures, url])) <= room
        pictures.append(url if fits else None)
    return [replace(shots[-1], pictures=pictures)] if any(pictures) else []


def _size(shot: Shot) -> int:
    return sum(len(url) + PER_PICTURE for url in shot.pictures if url)


def _drawn(shot: Shot) -> int:
    return sum(url is not None for url in shot.pictures)


def _picture(url: str | None) -> str | None:
    """The data URL of a picture, None for anything else."""
    good = (
        url
        and url.startswith(KINDS)
        and url.isascii()
        and not any(sign in url for sign in "<>\"'&\\ \n")
    )
    return url if good else None


def _mended(value: Any) -> Any:
    """The same with numbers that are no measurement gone and with text that UTF-8 can hold."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) and abs(value) <= LARGEST else None
    if isinstance(value, list | tuple):
        return type(value)(_mended(entry) for entry in value)
    if isinstance(value, dict):
        return {_mended(key): _mended(entry) for key, entry in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    mended = replace(
        value, **{entry.name: _mended(getattr(value, entry.name)) for entry in fields(value)}
    )
    return _without_gaps(mended) if isinstance(mended, Record) else mended


def _without_gaps(record: Record) -> Record:
    """What has no place for a gap goes without the entry."""
    rows = [
        replace(
            row,
            first=[near for near in row.first if near[1] is not None],
            now=[near for near in row.now if near[1] is not None],
        )
        for row in record.rows
    ]
    measured = [point for point in record.measured if point[1] is not None]
    vocabulary = {key: lengths for key, lengths in record.vocabulary.items() if None not in lengths}
    return replace(
        record, rows=rows, measured=measured, vocabulary=vocabulary, seconds=record.seconds or 0.0
    )


def _thinned(curves: Curves) -> Curves:
    """As many points as the numbers of one leave room for; each stands for a stretch of steps."""
    lists = {entry.name: getattr(curves, entry.name) for entry in fields(curves)}
    wide = sum(
        max((len(v) if isinstance(v, list) else 1 for v in values), default=0)
        for values in lists.values()
    )
    most, count = max(2, min(POINTS, NUMBERS // max(wide, 1))), len(curves.step)
    if count <= most:
        return curves
    edges = [i * count // most for i in range(most + 1)]

    def picked(name: str, part: list[Any]) -> Any:
        if name in ("loss", "low", "high"):
            known = [value for value in part if value is not None]
            return (
                None
                if not known
                else min(known)
                if name == "low"
                else max(known)
                if name == "high"
                else fmean(known)
            )
        if name != "bands":
            return part[-1]  # where the stretch ends
        columns = [
            [line[i] for line in part if i < len(line) and line[i] is not None]
            for i in range(max(map(len, part)))
        ]
        return [fmean(known) if known else None for known in columns]

    def thin(name: str, values: list[Any]) -> list[Any]:
        parts = [values[a:b] for a, b in pairwise(edges)]
        return [picked(name, part) for part in parts if part]

    return Curves(**{name: thin(name, values) for name, values in lists.items()})


def _cut(record: Record, letters: int, entries: int) -> Record:
    """No text longer than so many letters, no list longer than so many entries; pictures stay as they are."""
    kept = {"curves", "shots", "measured", "images", "left_out", "status", "version"}
    changed = {
        entry.name: _short(getattr(record, entry.name), letters, entries)
        for entry in fields(record)
        if entry.name not in kept
    }
    lost = {
        name: len(getattr(record, name)) - len(changed[name])
        for name in ("warnings", "prompts", "rows", "tools")
    }
    changed["images"] = [
        _short(record.images[i], letters, entries) for i in evenly(len(record.images), entries)
    ]
    changed["shots"] = [record.shots[i] for i in evenly(len(record.shots), entries)]
    changed["measured"] = [record.measured[i] for i in evenly(len(record.measured), POINTS)]
    lost |= {name: len(getattr(record, name)) - len(changed[name]) for name in ("images", "shots")}
    return replace(record, **changed, left_out=_added(record.left_out, lost))


def _short(value: Any, letters: int, entries: int) -> Any:
    """A value with its texts and lists cut."""
    if isinstance(value, str):
        return value if len(value) <= letters else value[: letters - 1] + "…"
    if isinstance(value, list | tuple):
        return type(value)(_short(entry, letters, entries) for entry in value[:entries])
    if isinstance(value, dict):
        return {
            _short(key, letters, entries): _short(entry, letters, entries)
            for key, entry in list(value.items())[:entries]
        }
    if not is_dataclass(value) or isinstance(value, type):
        return value
    names = [
        entry.name
        for entry in fields(value)
        if not (isinstance(value, Image) and entry.name == "thumbnail")
    ]
    return replace(
        value, **{name: _short(getattr(value, name), letters, entries) for name in names}
    )


def _added(before: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Counts together, without those that are 0."""
    names = [*before, *(name for name in more if name not in before)]
    return {name: count for name in names if (count := before.get(name, 0) + more.get(name, 0))}
