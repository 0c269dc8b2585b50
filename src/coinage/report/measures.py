"""The numbers that sum a run up, and those that its charts are drawn from. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from coinage.report.record import Record

Values = Sequence[float | None]
SMOOTHING = 0.1  # of a run: as far back as the smoothed loss mostly looks


def smoothed(values: Values) -> list[float | None]:
    """An exponential mean over about a tenth of the values, true from the first one on; gaps stay gaps.

    The weight of what came before the first value is taken out, as Adam does (Kingma and Ba 2014, arXiv:1412.6980).
    """
    keep = 1 - 2 / (max(1.0, SMOOTHING * sum(value is not None for value in values)) + 1)
    total, weight = 0.0, 0.0
    means: list[float | None] = []
    for value in values:
        if value is None:
            means.append(None)
            continue
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(total / weight)
    return means


def last(values: Iterable[float | None]) -> float | None:
    """The last value that was measured."""
    return next((value for value in reversed(list(values)) if value is not None), None)


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what was measured."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what was measured."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def column(table: Sequence[Values], number: int) -> list[float | None]:
    """One column, with gaps where a line is too short."""
    return [line[number] if number < len(line) else None for line in table]


def turned(record: Record) -> list[float | None]:
    """Degrees of the vectors from where they started, their mean at every point, as everywhere."""
    return [mean(line) for line in record.curves.angles]


def relative_lengths(record: Record) -> list[float | None]:
    """Lengths of the vectors over that of a word in the middle of the vocabulary, their median at every point."""
    medians = [record.vocabulary[row.key][1] if row.key in record.vocabulary else None for row in record.rows]

    def of(line: Values) -> float | None:
        return middle(norm / typical for norm, typical in zip(line, medians, strict=False) if norm is not None and typical)

    return [of(line) for line in record.curves.norms]


def last_loss(record: Record) -> float | None:
    """The smoothed loss at the end."""
    return last(smoothed(record.curves.loss))


def held_out_loss(record: Record) -> float | None:
    """The last loss on held-out images."""
    return record.measured[-1][1] if record.measured else None


def works_in(record: Record) -> tuple[int, int] | None:
    """In how many tools the word is the same as in training, and how many were looked at."""
    return (sum(tool.same for tool in record.tools), len(record.tools)) if record.tools else None


def images_per_second(record: Record) -> float | None:
    """Images learned from in a second of training."""
    return record.images_learned / record.seconds if record.seconds > 0 and record.images_learned else None


def names_of(records: Sequence[Record]) -> list[str]:
    """A name for each run; runs of one name are numbered."""
    names: list[str] = []
    for record in records:
        name = record.name or record.token or "run"
        same = sum((other.name or other.token or "run") == name for other in records[: len(names)])
        names.append(f"{name} ({same + 1})" if same else name)
    return names
