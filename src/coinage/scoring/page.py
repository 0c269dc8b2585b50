"""Render scores as one HTML page. It needs no network; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from coinage.report.charts import Point
from coinage.report.environment import environment
from coinage.report.figures import Figure, score_figure
from coinage.report.fit import pick_evenly
from coinage.report.pictures import data_url
from coinage.scoring.results import Evaluation, drift_values

SIDE = 192  # pixels of a picture's longer side
MOST_PICTURES = 480  # about 8 kB each
FEWEST_STEPS = 3  # of checkpoints, from which on there is a chart


def render_scores(evaluation: Evaluation) -> str:
    """Return the page, below 8 MB: of more pictures, those of an even selection of prompts."""
    drifts = [(word, drift_values(word.drift)) for word in evaluation.words]
    groups = _groups(evaluation)
    shown = pick_evenly(groups, max(1, MOST_PICTURES // len(evaluation.words)))
    return (
        environment()
        .get_template("scores.html")
        .render(
            evaluation=evaluation,
            measures=list(evaluation.words[0].estimates),
            drifts=drifts,
            drift_names=list(dict.fromkeys(name for _, values in drifts for name in values)),
            figures=_figures(evaluation),
            groups=shown,
            left_out=len(groups) - len(shown),
        )
    )


def _groups(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each prompt the picture of every word: its name and a data URL."""
    templates = list(dict.fromkeys(one.template for one in evaluation.words[0].asked))
    groups = []
    for place, template in enumerate(templates):
        tiles = [
            (word.name, data_url(word.pictures[place], SIDE))
            for word in evaluation.words
            if word.pictures
        ]
        if tiles:
            groups.append((template, tiles))
    return groups


def _figures(evaluation: Evaluation) -> list[Figure]:
    """Return a chart of the scores over the steps, where the words are checkpoints."""
    words = sorted(evaluation.words, key=lambda word: word.step)
    steps = [word.step for word in words]
    if len(set(steps)) < FEWEST_STEPS or 0 in steps:
        return []
    lines: dict[str, list[Point]] = {}
    for word in words:
        for name, of in word.estimates.items():
            lines.setdefault(name, []).append((float(word.step), of.mean))
    named: Sequence[tuple[str, Sequence[Point]]] = list(lines.items())
    return [score_figure("Scores over the steps", "", named)] if named else []
