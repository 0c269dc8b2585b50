"""Compute the numbers that sum a run up and those of its charts. Imports no torch."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path

from coinage.report.record import Record
from coinage.wording import visible

Values = Sequence[float | None]
REPORT_SUFFIX = "-report.html"  # of a report's name, after that of the run
SMOOTHED_SHARE = 0.1  # of a run, over which the smoothed loss is mostly averaged


def smoothed(values: Values) -> list[float | None]:
    """Return an exponential mean over about a tenth of the values; gaps stay gaps.

    It is true from the first value on: the weight of what came before is taken out, as Adam does
    (Kingma and Ba 2014, arXiv:1412.6980).
    """
    window = max(1.0, SMOOTHED_SHARE * len(without_gaps(values)))
    keep = 1 - 2 / (window + 1)
    total, weight = 0.0, 0.0
    means: list[float | None] = []
    for value in values:
        if value is None:
            means.append(None)
            continue
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        means.append(total / weight)
    return means


def last_known(values: Iterable[float | None]) -> float | None:
    """Return the last value that was measured; None where there is none."""
    known = without_gaps(values)
    return known[-1] if known else None


def without_gaps(values: Iterable[float | None]) -> list[float]:
    """Return the values that were measured."""
    return [value for value in values if value is not None]


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of what was measured; None where there is nothing."""
    known = without_gaps(values)
    return statistics.median(known) if known else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of what was measured; None where there is nothing."""
    known = without_gaps(values)
    return statistics.fmean(known) if known else None


def column(table: Sequence[Values], number: int) -> list[float | None]:
    """Return one column, with gaps where a line is too short."""
    return [line[number] if number < len(line) else None for line in table]


def mean_angles(record: Record) -> list[float | None]:
    """Return the mean angle of the vectors that learn from where they started, degrees, at every point."""
    learns = [row.learns for row in record.rows]
    if all(learns):
        return [mean_of(line) for line in record.curves.angles]
    return [mean_of(compress(line, learns)) for line in record.curves.angles]


def relative_lengths(record: Record) -> list[float | None]:
    """Return the median length of the vectors at every point, over that of a usual word."""
    usual_lengths: list[float | None] = []
    for row in record.rows:
        lengths = record.vocabulary.get(row.key)
        usual_lengths.append(lengths[1] if lengths else None)
    medians = []
    for norms in record.curves.norms:
        relative = []
        for norm, usual in zip(norms, usual_lengths, strict=False):
            if norm is not None and usual:
                relative.append(norm / usual)
        medians.append(median_of(relative))
    return medians


def last_loss(record: Record) -> float | None:
    """Return the smoothed loss at the end."""
    return last_known(smoothed(record.curves.loss))


def fixed_loss(record: Record) -> float | None:
    """Return the last loss on fixed images and noise.

    They are held-out images where there are any, else some of the training images.
    """
    return record.measured[-1][1] if record.measured else None


def works_in(record: Record) -> tuple[int, int] | None:
    """Return in how many tools the word is the same as in training, and how many were tried."""
    if not record.tools:
        return None
    return sum(tool.same for tool in record.tools), len(record.tools)


def images_per_second(record: Record) -> float | None:
    """Return the images learned from in a second of training; None where it is not known."""
    if record.seconds <= 0 or not record.images_learned:
        return None
    return record.images_learned / record.seconds


def names_of(records: Sequence[Record], paths: Sequence[Path] = ()) -> list[str]:
    """Return a name for each run.

    Runs of one name are distinguished by where their reports are, by their seeds, or by numbers.

    Args:
        records: the runs.
        paths: of their reports, in the same order, where they are files.
    """
    names = [record.name or record.token or "run" for record in records]
    places_of: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places_of.setdefault(name, []).append(place)
    for name, places in places_of.items():
        if len(places) == 1:
            continue
        runs = [records[place] for place in places]
        run_paths = [paths[place] for place in places] if paths else []
        for place, suffix in zip(places, _distinctions(runs, run_paths), strict=True):
            names[place] = f"{name} ({suffix})" if suffix else name
    return names


def _distinctions(records: Sequence[Record], paths: Sequence[Path]) -> list[str]:
    """Return what distinguishes runs of one name, in as few letters as possible.

    Where they are numbered, the first has "".
    """
    seeds = [_seed(record) for record in records]
    for words in (*_path_distinctions(paths), seeds):
        if len(set(words)) == len(records) and all(words):
            return list(words)
    return ["", *map(str, range(2, len(records) + 1))]


def _path_distinctions(paths: Sequence[Path]) -> list[Sequence[str]]:
    """Return what differs in the paths, in several ways, for each path.

    One part of each comes first, the shortest parts before others; then everything between their
    common beginning and their common end.
    """
    parts = [_parts_of(path) for path in paths]
    # As deep as the shortest path: a column holds the parts of all paths at one place
    from_start = list(zip(*parts, strict=False))
    from_end = list(zip(*map(reversed, parts), strict=False))
    single = sorted([*from_start, *from_end], key=lambda column: sum(map(len, column)))
    first = _places_alike(from_start)
    last = min(_places_alike(from_end), len(from_end) - first)
    between = ["/".join(names[first : len(names) - last]) for names in parts]
    return [*single, between]


def _parts_of(path: Path) -> tuple[str, ...]:
    """Return the folders of a report and its run's name, without the root."""
    run = path.absolute().parent / path.name.removesuffix(REPORT_SUFFIX)
    return tuple(visible(part) for part in run.parts[1:])


def _places_alike(columns: Sequence[Sequence[str]]) -> int:
    """Return how many of the first columns have the same part for all paths."""
    for place, names in enumerate(columns):
        if len(set(names)) > 1:
            return place
    return len(columns)


def _seed(record: Record) -> str:
    """Return `seed 7`, as in the command that repeats the run; "" where it is not known."""
    match = re.search(r"--seed[= ](\d+)", record.command)
    return f"seed {match[1]}" if match else ""
