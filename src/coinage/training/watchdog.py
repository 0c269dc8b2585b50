"""What makes a run useless, found within its first steps; and where a number stops being finite."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor

from coinage.errors import TrainingError
from coinage.families.kept_text import encode
from coinage.training.observers import Observer
from coinage.training.setup import Run
from coinage.training.step import Batch

log = logging.getLogger("coinage")
PATIENCE = 20  # steps until which every vector must have had a gradient


class Watchdog(Observer):
    """Sees that every vector learns: one without any gradient in the first steps never will."""

    def __init__(self, on_problem: Literal["stop", "warn"]) -> None:
        self._on_problem = on_problem
        self._alive: list[Tensor] = []  # for each text encoder, which rows have had a gradient
        self._steps = 0

    def stepped(self, run: Run) -> None:
        if self._steps == PATIENCE:
            return
        self._steps += 1
        self._alive = [had | now for had, now in zip(self._alive, run.touched, strict=True)] if self._alive else list(run.touched)
        if self._steps == PATIENCE:
            self._judge(run, stop=self._on_problem == "stop")

    def finished(self, run: Run) -> None:
        if 0 < self._steps < PATIENCE:
            self._judge(run, stop=False)  # so short a run is no proof, and its file is written

    def _judge(self, run: Run, *, stop: bool) -> None:
        """Tell of rows that no gradient has reached.

        Raises:
            TrainingError: there are some, and that ends the run.
        """
        dead = [
            f"vector {number} of {key}"
            for key, alive in zip(run.family.embedding_keys, self._alive, strict=True)
            for number, is_alive in enumerate(alive.tolist(), 1)
            if not is_alive
        ]
        if not dead:
            return
        which = (
            "no gradient has reached the word" if len(dead) == sum(map(len, self._alive)) else f"no gradient has reached {', '.join(dead)}"
        )
        hint = "see that captions hold the word (coinage dataset), that --conditioning_data_dir hides not all, and that the model draws"
        problem = TrainingError(f"{which} in {self._steps} steps, so nothing is learned there", f"step {run.step}", hint)
        if stop:
            raise problem
        log.warning("%s", problem)


@torch.no_grad()
def where_not_finite(run: Run, batch: Batch) -> str:
    """Which part of a step first makes a number that is not finite, in words; "" if none does this time."""
    if any(not torch.isfinite(rows).all() for rows in run.parts.rows()):
        return "the word's own vectors"
    if not torch.isfinite(batch.moments).all():
        return "the VAE's latents"
    with run.autocast():
        cond = encode(run.family, run.parts, batch.captions, batch.sizes)
        if not torch.isfinite(cond.encoder_hidden_states).all():
            return "the text encoder"
        latents = (batch.moments[:, 0] * run.parts.scaling_factor).to(run.parts.device)
        timesteps = torch.full((len(latents),), 500, device=run.parts.device)
        answer = run.family.predict(run.parts, latents, timesteps, cond)
    return "" if torch.isfinite(answer).all() else "the UNet"
