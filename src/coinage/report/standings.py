"""The measured steps of a run, best first, with the files that were saved there."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coinage.report.record import Standing


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step whose evaluation loss was measured.

    Attributes:
        step: optimizer updates done.
        loss: the evaluation loss; it may be not finite.
        angle: degrees of the vectors from their start, in the mean.
        norm: length of the vectors, in the mean.
    """

    step: int
    loss: float
    angle: float
    norm: float


@dataclass(frozen=True, slots=True)
class SavedFiles:
    """The files that a run has saved by now.

    Attributes:
        folder: where they are.
        name: of the run.
        suffix: of the embeddings, such as `.safetensors`.
        steps_per_epoch: optimizer updates.
        last_step: the step of `NAME.suffix`; None while the run is not complete.
        best_step: the step of `NAME-best.suffix`; None without one.
    """

    folder: Path
    name: str
    suffix: str
    steps_per_epoch: int
    last_step: int | None
    best_step: int | None

    def of_step(self, step: int) -> list[str]:
        """Return the names of the files that hold the word as it was after a step."""
        pattern = f"{glob.escape(self.name)}*{self.suffix}"
        there = {path.name for path in self.folder.glob(pattern)}
        return [name for name in self._names_at(step) if name in there]

    def _names_at(self, step: int) -> list[str]:
        stems = [self.name] if step == self.last_step else []
        stems.append(f"{self.name}-step{step:08d}")
        epoch, rest = divmod(step, self.steps_per_epoch)
        if not rest:
            stems.append(f"{self.name}-{epoch:06d}")
        if step == self.best_step:
            stems.append(f"{self.name}-best")
        return [stem + self.suffix for stem in stems]


def standings(steps: Iterable[MeasuredStep], files: SavedFiles) -> list[Standing]:
    """Return the measured steps, lowest loss first, with their files."""
    steps_best_first = []
    for measured in sorted(steps, key=_by_loss):
        standing = Standing(
            step=measured.step,
            loss=_finite(measured.loss),
            angle=_finite(measured.angle),
            norm=_finite(measured.norm),
            file=", ".join(files.of_step(measured.step)),
        )
        steps_best_first.append(standing)
    return steps_best_first


def _by_loss(measured: MeasuredStep) -> tuple[bool, float, int]:
    return not math.isfinite(measured.loss), measured.loss, measured.step


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
