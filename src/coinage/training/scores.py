"""Score pictures of the word during a run, and keep the word where they score highest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean

import numpy as np
import torch

from coinage.config import TrainConfig
from coinage.data.default_prompts import (
    LONGEST_SIDE,
    PASSES_OF_PICTURE,
    PASSES_OF_STEP,
    SAMPLER_STEPS,
    SEED,
)
from coinage.data.images import decode
from coinage.errors import ConfigError, Problem, reason_of
from coinage.generate import draw
from coinage.report.fit import pick_evenly
from coinage.scoring.prompts import WORD, Asked, asked_of, templates_of
from coinage.scoring.scorer import Pixels, Scorer, Scores, Values, overall, score_all
from coinage.text.prompts import Prompt
from coinage.training.results import Best
from coinage.training.run import Run

log = logging.getLogger("coinage")
SHARE = 0.2  # of a run's passes through the UNet that scoring takes, where no interval is set
LEAST_TIMES, MOST_TIMES = 4, 10  # that a word is scored; more than the share where it must be
MOST_REFERENCES = 16


def by_scores(config: TrainConfig) -> TrainConfig:
    """Return the same settings, with scores that decide which word is the best."""
    return replace(config, save=replace(config.save, keep_best=True, best_by="scores"))


def load_scorers(configs: Sequence[TrainConfig], device: torch.device) -> list[Scorer]:
    """Return the configured scorers of words that train together; none where no score decides.

    Raises:
        CoinageError: one cannot be loaded.
        ConfigError: CLIP does not read prompts of this length.
    """
    scored = [config for config in configs if config.save.best_by == "scores"]
    if not scored:
        return []
    from coinage.scoring.encoders import ClipScorer, DinoScorer

    scoring = scored[0].scoring
    scorers: list[Scorer] = []
    problems: list[Problem] = []
    if scoring.clip:
        clip = ClipScorer.load(scoring.clip, device)
        for config in scored:
            problems += clip.problems(_asked(config))
        scorers.append(clip)
    if scoring.dino:
        scorers.append(DinoScorer.load(scoring.dino, device))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return scorers


def _asked(config: TrainConfig) -> list[Asked]:
    """Return what is drawn each time: each prompt once, with one seed."""
    templates = templates_of(config.scoring.prompts)
    return asked_of(templates, config.word.init_word or "", 1, SEED)


class BestByScores:
    """Scores the word at intervals and at the end; the best one goes into the run's results.

    A run that goes on from a state scores where it would have, had it never stopped.
    """

    def __init__(self, run: Run) -> None:
        self._interval = _interval(run)
        self._references: list[Pixels] = []  # read when they are first needed

    def look(self, run: Run) -> None:
        """Score the word where it is due; whatever fails is logged, and the run continues."""
        if not self._due(run):
            return
        found = run.processes.gather(self._shared(run))  # every process comes here
        if None in found:
            return
        scores = _joined([part for part in found if part is not None])
        score = float(overall(_means(scores.likeness), _means(scores.fidelity)))
        results = run.results
        results.scores[run.step] = score
        shown = ", ".join(f"{name} {fmean(of):.3f}" for name, of in scores.measures.items())
        log.info("step %d: score %.4f (%s)", run.step, score, shown)
        if results.best is None or score > (results.best.score or 0.0):
            rows = run.rows_to_save()
            results.best = Best(run.step, run.progress.epoch, np.nan, rows, score)

    def _due(self, run: Run) -> bool:
        if not (run.scorers and self._interval) or run.step in run.results.scores:
            return False
        if run.progress.ending and not run.complete:
            return False
        return run.complete or (run.step > 0 and run.step % self._interval == 0)

    def _shared(self, run: Run) -> Scores | None:
        """Return the scores of this process's share of the pictures; None where they fail."""
        try:
            asked = run.processes.share(_asked(run.config))
            if not asked:
                return Scores()
            self._references = self._references or _references_of(run)
            return score_all(run.scorers, _pictures(run, asked), asked, self._references)
        except Exception as error:  # noqa: BLE001 - whatever a scorer raises, the run matters more
            log.warning("the word could not be scored at step %d: %s", run.step, reason_of(error))
            return None


def _interval(run: Run) -> int | None:
    """Return the steps from one scoring to the next; None where scores do not decide."""
    config = run.config
    if config.save.best_by != "scores":
        return None
    validation = config.validation
    if validation.every_n_steps:
        return validation.every_n_steps
    if validation.every_n_epochs:
        return validation.every_n_epochs * run.updates_per_epoch
    passes = len(templates_of(config.scoring.prompts)) * PASSES_OF_PICTURE
    of_run = run.total_steps * run.images_per_step * PASSES_OF_STEP
    times = min(max(int(SHARE * of_run / passes), LEAST_TIMES), MOST_TIMES)
    return max(1, run.total_steps // times)


def _references_of(run: Run) -> list[Pixels]:
    """Return held-out images, or else some of those that the word learns from."""
    samples = [sample for sample in run.samples if sample.held_out]
    samples = samples or [sample for sample in run.samples if sample.trains]
    chosen = pick_evenly(samples, MOST_REFERENCES)
    return [np.asarray(decode(one.path, one.subset.images)[0]) for one in chosen]


def _pictures(run: Run, asked: Sequence[Asked]) -> list[Pixels]:
    """Draw the word as it would be saved, in the size that it learns from."""
    sides = run.config.data.datasets[0].resolution_wh
    width, height = (min(side, LONGEST_SIDE) // 8 * 8 for side in sides)
    prompts = [
        Prompt(
            text=one.template.replace(WORD, run.placeholder.token),
            width=width,
            height=height,
            seed=one.seed,
            steps=SAMPLER_STEPS,
        )
        for one in asked
    ]
    with run.averaged():
        return list(draw(run.family, run.parts, prompts, autocast=run.autocast()))


def _joined(parts: Sequence[Scores]) -> Scores:
    """Return the scores of all processes together."""
    names = next(part for part in parts if part.measures)
    return Scores(
        {name: list(chain(*(p.likeness.get(name, ()) for p in parts))) for name in names.likeness},
        {name: list(chain(*(p.fidelity.get(name, ()) for p in parts))) for name in names.fidelity},
    )


def _means(measures: Values) -> list[float]:
    return [fmean(values) for values in measures.values()]
