"""Scores of words side by side, as plain values: for the terminal, a table file and a page. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coinage.scoring.intervals import Numbers, by_group, interval, interval_of
from coinage.scoring.prompts import Asked
from coinage.scoring.scorer import Pixels, Scores, overall

if TYPE_CHECKING:
    from coinage.scoring.drift import Drift

OVERALL = "overall"
FORMULA_SIGNS = "=+-@\t\r"  # with which a cell would be a formula in a spreadsheet


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScoredWord:
    """A word with its scores.

    Attributes:
        name: by which it is shown.
        step: of its training; 0 if unknown.
        noun: that stands in its place in plain prompts; "" where it is left out.
        asked: of each picture.
        scores: of each picture; without measures where none were drawn.
        drift: beside the model's own words.
        pictures: the first of each prompt.
    """

    name: str
    step: int
    noun: str
    asked: tuple[Asked, ...]
    scores: Scores
    drift: Drift
    pictures: tuple[Pixels, ...] = ()

    @property
    def prompt_means(self) -> Mapping[str, Numbers]:
        """The mean of each measure over the pictures of each prompt."""
        templates = [one.template for one in self.asked]
        return {name: by_group(of, templates) for name, of in self.scores.measures.items()}

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The overall score and each measure, with intervals over the prompts."""
        means = self.prompt_means
        if not means:
            return {}
        found = {OVERALL: self._overall(np.stack(list(means.values()), axis=1))}
        for name, values in means.items():
            found[name] = Estimate(float(values.mean()), *interval(values))
        return found

    def _overall(self, table: Numbers) -> Estimate:
        split = len(self.scores.likeness)

        def statistic(means: Numbers) -> Numbers:
            return overall(means[..., :split], means[..., split:])

        (value,) = statistic(table.mean(axis=0, keepdims=True))
        return Estimate(float(value), *interval_of(table, statistic))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of words, with the same prompts and seeds.

    Attributes:
        model: that drew.
        words: in the order in which they were given.
        settings: what all pictures have in common, in words.
    """

    model: str
    words: tuple[ScoredWord, ...]
    settings: str = ""

    @property
    def best(self) -> ScoredWord | None:
        """The word with the highest overall score; None where nothing was scored."""
        scored = [word for word in self.words if word.scores.measures]
        return max(scored, key=lambda word: word.estimates[OVERALL].mean, default=None)

    def difference(self, word: ScoredWord, measure: str) -> Estimate | None:
        """Return how much higher a word is than the first one, paired by prompt; None for itself."""
        first = self.words[0].prompt_means.get(measure)
        own = word.prompt_means.get(measure)
        if word is self.words[0] or first is None or own is None:
            return None
        differences = own - first
        return Estimate(float(differences.mean()), *interval(differences))

    def as_plain(self) -> dict[str, Any]:
        """Return all but the pictures, as JSON holds it."""
        words = []
        for word in self.words:
            against = {name: self.difference(word, name) for name in word.prompt_means}
            entry = {
                "name": word.name,
                "step": word.step,
                "noun": word.noun,
                "scores": {name: asdict(of) for name, of in word.estimates.items()},
                "against_first": {name: asdict(of) for name, of in against.items() if of},
                "drift": asdict(word.drift),
            }
            words.append(entry)
        return {"model": self.model, "settings": self.settings, "words": words}

    def as_csv(self) -> str:
        """Return a row for each word and measure, those of drift included."""
        rows: list[Sequence[object]] = []
        for word in self.words:
            for name, of in word.estimates.items():
                row = [word.name, word.step, name, of.mean, of.low, of.high]
                against = self.difference(word, name)
                rows.append([*row, against.mean, against.low, against.high] if against else row)
            for name, value in drift_values(word.drift).items():
                rows.append([word.name, word.step, name, value])
        columns = ["word", "step", "measure", "mean", "low", "high"]
        return _csv([*columns, "against_first", "against_low", "against_high"], rows)

    def pictures_as_csv(self) -> str:
        """Return a row for each picture."""
        names = list(self.words[0].scores.measures)
        rows: list[Sequence[object]] = []
        for word in self.words:
            for number, one in enumerate(word.asked):
                values = [word.scores.measures[name][number] for name in names]
                rows.append([word.name, one.template, one.plain, one.seed, *values])
        return _csv(["word", "prompt", "plain_prompt", "seed", *names], rows)


def drift_values(drift: Drift) -> dict[str, float]:
    """Return the numbers of a drift that are known, by the names of their columns."""
    values = {"length": drift.length, "longest": drift.longest}
    if drift.init_cosine is not None:
        values["init cosine"] = drift.init_cosine
    if drift.pull is not None:
        values["pull"] = drift.pull
    return values


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([*map(_cell, row), *[""] * (len(columns) - len(row))])
    return text.getvalue()


def _cell(value: object) -> object:
    """Return a value that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(tuple(FORMULA_SIGNS)):
        return f"'{value}"
    return f"{value:.6g}" if isinstance(value, float) else value
