"""The numbers that sum a run up, and those that its charts are drawn from. Imports no torch."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from coinage.report.record import Record
from coinage.wording import visible

Values = Sequence[float | None]
ENDING = "-report.html"  # of a report's name, after that of the run
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
    medians = [
        record.vocabulary[row.key][1] if row.key in record.vocabulary else None
        for row in record.rows
    ]

    def of(line: Values) -> float | None:
        return middle(
            norm / typical
            for norm, typical in zip(line, medians, strict=False)
            if norm is not None and typical
        )

    return [of(line) for line in record.curves.norms]


def last_loss(record: Record) -> float | None:
    """The smoothed loss at the end."""
    return last(smoothed(record.curves.loss))


def fixed_loss(record: Record) -> float | None:
    """The last loss on fixed images and noise: on held-out images where there are any, else on some that are trained on."""
    return record.measured[-1][1] if record.measured else None


def works_in(record: Record) -> tuple[int, int] | None:
    """In how many tools the word is the same as in training, and how many were looked at."""
    return (sum(tool.same for tool in record.tools), len(record.tools)) if record.tools else None


def images_per_second(record: Record) -> float | None:
    """Images learned from in a second of training."""
    return (
        record.images_learned / record.seconds
        if record.seconds > 0 and record.images_learned
        else None
    )


def names_of(records: Sequence[Record], paths: Sequence[Path] = ()) -> list[str]:
    """Return a name for each run; runs of one name are told apart by where their reports are, their seeds, or numbers.

    Args:
        records: the runs.
        paths: of their reports, in the same order, where they are files.
    """
    names = [record.name or record.token or "run" for record in records]
    for name in [name for name, count in Counter(names).items() if count > 1]:
        places = [place for place, own in enumerate(names) if own == name]
        for place, told in zip(
            places,
            _apart([records[i] for i in places], [paths[i] for i in places] if paths else []),
            strict=True,
        ):
            names[place] = f"{name} ({told})" if told else name
    return names


def _apart(records: Sequence[Record], paths: Sequence[Path]) -> list[str]:
    """What tells runs of one name apart, the shortest that does; "" for the first where they are numbered."""
    seeds = [_seed(record) for record in records]
    told = [*_parts_apart(paths), [f"seed {seed}" if seed else "" for seed in seeds]]
    numbers = [str(number) if number > 1 else "" for number in range(1, len(records) + 1)]
    return next(
        (words for words in told if len(set(words)) == len(records) and all(words)), numbers
    )


def _parts_apart(paths: Sequence[Path]) -> list[list[str]]:
    """What differs in the paths: one part of each, the shortest first; then all of what is between their common ends."""
    # Without the root
    whole = [(path.absolute().parent / path.name.removesuffix(ENDING)).parts[1:] for path in paths]
    parts = [tuple(map(visible, own)) for own in whole]
    depth = min(map(len, parts), default=0)
    columns = [[own[i] for own in parts] for i in range(depth)] + [
        [own[-i] for own in parts] for i in range(1, depth + 1)
    ]
    single = sorted(columns, key=lambda column: sum(map(len, column)))
    first = next((i for i in range(depth) if len({own[i] for own in parts}) > 1), depth)
    last = next(
        (i for i in range(depth - first) if len({own[-1 - i] for own in parts}) > 1), depth - first
    )
    return [*single, ["/".join(own[first : len(own) - last]) for own in parts]]


def _seed(record: Record) -> str:
    """The seed in the command that repeats the run; "" where it is not known."""
    found = re.search(r"--seed[= ](\d+)", record.command)
    return found[1] if found else ""
