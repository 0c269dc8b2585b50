"""What makes a run useless, found within its first steps; and that nothing but the word has changed, at the end."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from coinage.config import OnProblem
from coinage.errors import TrainingError
from coinage.optim.factory import own_rate_factor
from coinage.optim.reach import movement_band
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.wording import counted

log = logging.getLogger("coinage")
# Steps with the word until which every vector must have had a gradient, and have moved as it should
PATIENCE = 20
# Of float32: a step of less than this share of a number may be rounded away
HALF_A_DIGIT = 2.0**-24
UNMOVED = 0.5  # share of a row's numbers that may stay exactly as they were
MANY_SKIPPED = 0.05  # share of updates lost to overflow, from which on it is told


def tell_or_stop(problem: TrainingError, on_problem: OnProblem) -> None:
    """End the run, or only warn.

    Raises:
        TrainingError: the problem, where it is to end the run.
    """
    if on_problem == "stop":
        raise problem
    log.warning("%s", problem)


class Watchdog(Observer):
    """Sees that every vector learns within the first steps, moves as far as it should, and that all else stays as it was."""

    def __init__(self, on_problem: OnProblem) -> None:
        self._on_problem = on_problem
        # For each text encoder, [N] bool: which rows have had a gradient
        self._touched: list[Tensor] = []
        self._begin: list[Tensor] = []  # the rows before this process's first step
        # For each text encoder, how far from there its rows have been
        self._furthest: list[Tensor] = []
        self._rates: list[float] = []  # learning rates of the first steps that were not skipped
        self._before = 0  # steps of the run before this process's first
        self._steps = self._skipped = 0
        self._asked = 0  # steps not skipped, of those with the word in a caption
        self._judged = False
        self._sums: dict[str, int] = {}

    def started(self, run: Run) -> None:
        self._begin, self._before = [rows.detach().cpu().clone() for rows in run.rows], run.step
        self._furthest = [torch.zeros(len(begin)) for begin in self._begin]
        self._sums = checksums(run) if run.word_index == 0 else {}  # the model is that of all words

    def stepped(self, run: Run) -> None:
        self._steps += 1
        self._skipped += run.last.skipped
        if self._judged:
            return
        # What overflows moves nothing
        now = [touched.cpu() & (not run.last.skipped) for touched in run.last.touched]
        self._touched = (
            [had | has for had, has in zip(self._touched, now, strict=True)]
            if self._touched
            else now
        )
        distances = [
            (rows.detach().cpu() - begin).norm(dim=1)
            for rows, begin in zip(run.rows, self._begin, strict=True)
        ]
        self._furthest = [
            torch.maximum(most, distance)
            for most, distance in zip(self._furthest, distances, strict=True)
        ]
        if not run.last.skipped:
            self._rates.append(run.last.rate)
            self._asked += run.last.captions_with_word > 0
        if self._asked == PATIENCE or (self._steps == PATIENCE and not self._rates):
            self._judge(run, self._on_problem)

    def epoch_ended(self, run: Run) -> None:
        if (
            not self._judged
            and len(self._rates) >= max(PATIENCE, run.progress.done)
            and run.step < run.total_steps
        ):
            # Few captions have the word: all have had their turn
            self._judge(run, self._on_problem)

    def finished(self, run: Run) -> None:
        if self._steps and not self._judged:
            self._judge(run, "warn")  # so short a run is no proof, and its file is written
        self._tell_overflows(run)
        self._see_frozen(run)

    def stopped(self, run: Run) -> None:
        self._tell_overflows(run)
        self._see_frozen(run)

    def _judge(self, run: Run, on_problem: OnProblem) -> None:
        """Tell of rows that do not learn.

        Raises:
            TrainingError: there are some, and that ends the run.
        """
        self._judged = True
        problem = self._all_skipped(run) or self._dead(run) or self._wrong_movement(run)
        if problem:
            tell_or_stop(problem, on_problem)

    def _all_skipped(self, run: Run) -> TrainingError | None:
        if self._rates:
            return None
        what = f"the gradient has overflowed in all of the first {counted(self._steps, 'step')}, so nothing is learned"
        return TrainingError(what, f"step {run.step}", "use --mixed_precision bf16 or no")

    def _dead(self, run: Run) -> TrainingError | None:
        """Rows that no gradient has reached."""
        dead = [
            f"vector {number} of {key}"
            for key, touched in zip(run.family.embedding_keys, self._touched, strict=True)
            for number, has in enumerate(touched.tolist(), 1)
            if not has
        ]
        if not dead:
            return None
        all_are = len(dead) == sum(map(len, self._touched))
        which = f"no gradient has reached {'the word' if all_are else ', '.join(dead)}"
        hint = "see that captions hold the word (coinage dataset), that --conditioning_data_dir hides not all, and that the model draws"
        return TrainingError(
            f"{which} in {counted(self._steps, 'step')}, so nothing is learned there",
            f"step {run.step}",
            hint,
        )

    def _wrong_movement(self, run: Run) -> TrainingError | None:
        """Rows whose steps are lost, or that have moved by less or more than their optimizer moves them."""
        if not any(self._rates) or own_rate_factor(run.optimizer) is not None:
            # A rate that the optimizer finds by itself (Prodigy, D-Adaptation) begins with next to nothing
            return None
        rows = zip(run.family.embedding_keys, run.rows, self._begin, self._furthest, strict=True)
        for key, now, begin, furthest in rows:
            moves = now.detach().cpu() - begin
            band = None
            if run.optimizer_factory is None:
                band = movement_band(run.config.optim, self._rates, self._before, begin.shape[1])
            for number, (move, start, distance) in enumerate(
                zip(moves, begin, furthest.tolist(), strict=True), 1
            ):
                which, finest = f"vector {number} of {key}", start.abs() * HALF_A_DIGIT
                lost = float(finest.norm()) * len(self._rates)  # what float32 may round away
                still = float((move[finest < max(self._rates)] == 0).float().mean())
                if still > UNMOVED:
                    what = f"{still:.0%} of the numbers of {which} have not moved in {counted(self._steps, 'step')}: they are rounded away"
                    return TrainingError(
                        what,
                        f"step {run.step}",
                        "raise --learning_rate, or use --mixed_precision no",
                    )
                if band and not band[0] - lost <= distance <= band[1] + lost:
                    reason = (
                        "its gradient vanishes"
                        if distance < band[0]
                        else "something else writes to it"
                    )
                    what = f"{which} has moved by {distance:.2g} in {counted(self._steps, 'step')}, where AdamW moves it by"
                    return TrainingError(
                        f"{what} {band[0]:.2g} to {band[1]:.2g}: {reason}",
                        f"step {run.step}",
                        "try --mixed_precision no",
                    )
        return None

    def _tell_overflows(self, run: Run) -> None:
        if run.results.float32_steps > 1:
            log.warning(
                "%d steps were computed again in float32, since half precision overflowed",
                run.results.float32_steps,
            )
        if self._skipped > max(PATIENCE / 2, MANY_SKIPPED * self._steps):
            text = "%d of %d updates were skipped, since their gradient overflowed; --mixed_precision bf16 avoids it"
            log.warning(text, self._skipped, self._steps)

    def _see_frozen(self, run: Run) -> None:
        """See that the model is what it was.

        Raises:
            TrainingError: it is not, and that counts as failing.
        """
        now = checksums(run) if self._sums else {}
        changed = [name for name, before in self._sums.items() if now[name] != before]
        if changed:
            what = f"the weights of {', '.join(changed)} changed during training; the embedding may not work with your model file"
            tell_or_stop(
                TrainingError(
                    what, f"step {run.step}", "see what else works on the model in this process"
                ),
                self._on_problem,
            )


@torch.no_grad()
def checksums(run: Run) -> dict[str, int]:
    """A number for all frozen weights of each part of the model, from their bits: any change of one weight changes it."""
    trained = {id(rows) for embedding in run.parts.embeddings for rows in embedding.words}
    names = [f"text encoder {number}" for number in range(1, len(run.parts.text_encoders) + 1)]
    modules = zip([*names, "the VAE", "the UNet"], run.parts.modules(), strict=True)
    found = {}
    for name, module in modules:
        sums = [
            _sum_of_bits(tensor)
            for tensor in (*module.parameters(), *module.buffers())
            if id(tensor) not in trained
        ]
        found[name] = int(torch.stack(sums).sum())
    return found


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """The tensor's bits, added up as integers; wraps around."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[
        tensor.element_size()
    ]
    return tensor.detach().view(integers).sum(dtype=torch.int64)
