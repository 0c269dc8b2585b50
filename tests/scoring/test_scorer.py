"""Scores, their overall number, and their intervals."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest

from coinage.errors import CoinageError
from coinage.scoring.drift import Drift
from coinage.scoring.intervals import by_group, interval, interval_of
from coinage.scoring.prompts import Asked, asked_of
from coinage.scoring.results import OVERALL, Evaluation, ScoredWord
from coinage.scoring.scorer import Pixels, Scores, overall, score_all

DRIFT = Drift(1.5, 2.0, (("=cat", 0.5),), 0.25, None)
PICTURES = [np.full((8, 8, 3), level, np.uint8) for level in (0, 255)]
ASKED = asked_of(["a {}", "a red {}"], "dog", 1, 0)


class Brightness:
    """A user's own scorer: it shares nothing with ours but the method."""

    def score(
        self, pictures: Sequence[Pixels], asked: Sequence[Asked], references: Sequence[Pixels]
    ) -> Scores:
        del asked, references
        return Scores(fidelity={"bright": [float(p.mean()) / 255 for p in pictures]})


class Wrong(Brightness):
    def __init__(self, values: list[float]) -> None:
        self.values = values

    def score(
        self, pictures: Sequence[Pixels], asked: Sequence[Asked], references: Sequence[Pixels]
    ) -> Scores:
        del pictures, asked, references
        return Scores({"odd": self.values})


def test_scorers_together() -> None:
    both = score_all([Wrong([0.25, 0.5]), Brightness()], PICTURES, ASKED, [])
    assert both.likeness == {"odd": [0.25, 0.5]}
    assert both.measures == {"odd": [0.25, 0.5], "bright": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("values", "told"), [([1.0], "1 values for 2 pictures"), ([0.0, np.nan], "not a finite number")]
)
def test_a_scorer_that_fails_is_named(values: list[float], told: str) -> None:
    with pytest.raises(CoinageError, match=told) as failed:
        score_all([Wrong(values)], PICTURES, ASKED, [])
    assert failed.value.problems[0].where.endswith("Wrong")


def test_the_overall_score_is_balanced_and_has_no_unit() -> None:
    assert overall([0.4, 0.9], [0.24]) == pytest.approx((0.6 * 0.24) ** 0.5)
    assert overall([], [0.3]) == pytest.approx(0.3)
    assert overall([0.9], [-0.1]) == 0
    ours, theirs = overall([0.5], [0.2]), overall([0.3], [0.3])
    assert (ours > theirs) == (overall([50], [0.2]) > overall([30], [0.3]))


def test_intervals_are_those_of_statistics() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = interval(values)
    margin = NormalDist().inv_cdf(0.975) * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=2e-3)
    table = np.stack([values, values], axis=1)
    assert interval_of(table, lambda means: means[:, 0] + means[:, 1]) == pytest.approx(
        (2 * low, 2 * high)
    )
    assert by_group([1, 3, 5], ["b", "b", "a"]).tolist() == [2, 5]


def scored(name: str, values: Sequence[float], step: int = 0) -> ScoredWord:
    asked = tuple(asked_of(["a {}", "a red {}"], "", 2, 0))
    scores = Scores({"CLIP-I": values}, {"CLIP-T": [0.25] * 4})
    return ScoredWord(name, step, "", asked, scores, DRIFT, tuple(PICTURES))


def test_words_side_by_side() -> None:
    words = (scored("first", [0.2, 0.4, 0.6, 0.8]), scored("second", [0.4, 0.6, 0.8, 1.0]))
    evaluation = Evaluation("model", words)
    assert evaluation.best is words[1]
    estimate = words[0].estimates["CLIP-I"]
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.3, 0.7))
    assert words[0].estimates[OVERALL].mean == pytest.approx((0.5 * 0.25) ** 0.5)
    against = evaluation.difference(words[1], "CLIP-I")
    assert against
    assert (against.mean, against.low, against.high) == pytest.approx((0.2, 0.2, 0.2)), "paired"
    assert evaluation.difference(words[0], "CLIP-I") is None
    lines = evaluation.as_csv().splitlines()
    assert lines[0].startswith("word,step,measure,mean,low,high,against_first")
    assert "second,0,CLIP-I,0.7,0.5,0.9,0.2,0.2,0.2" in lines
    assert "first,0,init cosine,0.25,,,,," in lines
    assert len(evaluation.pictures_as_csv().splitlines()) == 1 + 8
    assert evaluation.as_plain()["words"][1]["against_first"]["CLIP-I"]["mean"] == pytest.approx(
        0.2
    )


def test_no_cell_is_a_formula() -> None:
    assert "'=cmd|calc,0,CLIP-I" in Evaluation("m", (scored("=cmd|calc", [0.5] * 4),)).as_csv()
