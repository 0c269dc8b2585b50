"""Detect a useless run in its first steps; check at the end that only the word has changed."""

from __future__ import annotations

import logging
from itertools import compress

import torch
from torch import Tensor

from coinage.config import OnProblem
from coinage.errors import TrainingError
from coinage.models.bit_sums import sum_of_bits
from coinage.models.relaid import laid_out_weights
from coinage.optim.factory import own_rate_factor
from coinage.optim.reach import movement_band
from coinage.training.observers.base import Observer, Priority
from coinage.training.run import Run
from coinage.wording import counted

log = logging.getLogger("coinage")
# Steps with the word, after which every vector must have had a gradient, and moved as it should
PATIENCE = 20
# Of float32: a step of less than this share of a number may be rounded away
HALF_A_DIGIT = 2.0**-24
MAX_UNMOVED = 0.5  # share of a row's numbers that may stay exactly as they were
DEAD_HINT = (
    "check that captions contain the word (coinage dataset), that masks (--conditioning_data_dir) do not "
    "hide everything, and that the model draws good pictures"
)
VAE = "the VAE"
MANY_SKIPPED = 0.05  # share of updates lost to overflow, above which it is reported


def tell_or_stop(problem: TrainingError, on_problem: OnProblem) -> None:
    """Raise a problem, or only log it as a warning.

    Raises:
        TrainingError: the problem, if `on_problem` is `stop`.
    """
    if on_problem == "stop":
        raise problem
    log.warning("%s", problem)


class Watchdog(Observer):
    """Checks that every vector learns in the first steps, and that all else stays as it was."""

    priority = Priority.WATCHDOG

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
        self._vae_dtype: torch.dtype | None = None

    def started(self, run: Run) -> None:
        self._begin, self._before = [rows.detach().cpu().clone() for rows in run.rows], run.step
        self._furthest = [torch.zeros(len(begin)) for begin in self._begin]
        self._touched = [torch.zeros(len(begin), dtype=torch.bool) for begin in self._begin]
        self._vae_dtype = run.parts.vae.dtype
        self._sums = checksums(run) if run.word_index == 0 else {}  # the model is that of all words

    def stepped(self, run: Run) -> None:
        if run.last.rests:
            return
        self._steps += 1
        self._skipped += run.last.skipped
        if self._judged:
            return
        # An update that overflows moves nothing
        for number, touched in enumerate(run.last.touched):
            self._touched[number] |= touched & (not run.last.skipped)
        for number, (rows, begin) in enumerate(zip(run.last.rows, self._begin, strict=True)):
            distance = (rows - begin).norm(dim=1)
            self._furthest[number] = torch.maximum(self._furthest[number], distance)
        if not run.last.skipped:
            self._rates.append(run.last.rate)
            self._asked += run.last.captions_with_word > 0
        if self._asked == PATIENCE or (self._steps == PATIENCE and not self._rates):
            self._judge(run, self._on_problem)

    def epoch_ended(self, run: Run) -> None:
        whole_epoch = len(self._rates) >= max(PATIENCE, run.progress.done)
        if not self._judged and whole_epoch and run.step < run.total_steps:
            # Few captions have the word: all have had their turn
            self._judge(run, self._on_problem)

    def finished(self, run: Run) -> None:
        if self._steps and not self._judged:
            self._judge(run, "warn")  # so short a run is no proof, and its file is written
        self._report_overflows(run)
        self._check_frozen(run)

    def stopped(self, run: Run) -> None:
        self._report_overflows(run)
        self._check_frozen(run)

    def _judge(self, run: Run, on_problem: OnProblem) -> None:
        """Report rows that do not learn.

        Raises:
            TrainingError: there are some, and the run is to stop.
        """
        self._judged = True
        problem = self._all_skipped(run) or self._dead(run) or self._wrong_movement(run)
        if problem:
            tell_or_stop(problem, on_problem)

    def _all_skipped(self, run: Run) -> TrainingError | None:
        if self._rates:
            return None
        steps = counted(self._steps, "step")
        what = f"the gradient has overflowed in all of the first {steps}, so nothing is learned"
        return TrainingError(what, f"step {run.step}", "use --mixed_precision bf16 or no")

    def _dead(self, run: Run) -> TrainingError | None:
        """Return an error about rows that no gradient has reached; None if there are none."""
        dead = []
        trained = compress(zip(run.parts.keys, self._touched, strict=True), run.learns_in)
        for key, touched in trained:
            for number, had_gradient in enumerate(touched.tolist(), 1):
                if not had_gradient:
                    dead.append(f"vector {number} of {key}")
        if not dead:
            return None
        all_are = len(dead) == sum(map(len, compress(self._touched, run.learns_in)))
        which = "the word" if all_are else ", ".join(dead)
        steps = counted(self._steps, "step")
        what = f"no gradient has reached {which} in {steps}, so nothing is learned there"
        return TrainingError(what, f"step {run.step}", DEAD_HINT)

    def _wrong_movement(self, run: Run) -> TrainingError | None:
        """Return an error about a row whose steps are lost, or are too short or too long."""
        finds_own_rate = own_rate_factor(run.optimizer) is not None
        if finds_own_rate or not any(self._rates):
            return None  # the rate begins with next to nothing
        rows = zip(
            run.parts.keys, run.rows, self._begin, self._furthest, run.rate_scales, strict=True
        )
        shown = next(
            compress(run.rate_scales, run.learns_in)
        )  # the rate of a step is the first row's
        for key, now, begin, furthest, scale in compress(rows, run.learns_in):
            rates = [rate * scale / shown for rate in self._rates]
            band = None
            if run.optimizer_factory is None:
                band = movement_band(run.config.optim, rates, self._before, begin.shape[1])
            moves = now.detach().cpu() - begin
            for row in range(len(begin)):
                rounding = begin[row].abs() * HALF_A_DIGIT
                what = self._rounded_away(moves[row], rounding, max(rates))
                hint = "raise --learning_rate, or use --mixed_precision no"
                if not what and band:
                    what = self._outside(band, float(furthest[row]), rounding)
                    hint = "try --mixed_precision no"
                if what:
                    where = f"step {run.step}"
                    return TrainingError(f"vector {row + 1} of {key}: {what}", where, hint)
        return None

    def _rounded_away(self, move: Tensor, rounding: Tensor, rate: float) -> str:
        """Describe a row many of whose numbers have not changed; "" for any other row.

        Args:
            move: of each number since the first step.
            rounding: of each number, the change that float32 may lose.
            rate: the highest learning rate of its steps.
        """
        could_move = rounding < rate
        unmoved = float((move[could_move] == 0).float().mean())
        if not unmoved > MAX_UNMOVED:
            return ""
        steps = counted(self._steps, "step")
        return f"{unmoved:.0%} of its numbers have not changed in {steps}: the changes are rounded away"

    def _outside(self, band: tuple[float, float], distance: float, rounding: Tensor) -> str:
        """Describe a row that has moved less or more than its optimizer moves it; "" for any other.

        Args:
            band: the shortest and the longest way.
            distance: the way from the start, at its longest.
            rounding: of each number, the change that float32 may lose.
        """
        shortest, longest = band
        lost = float(rounding.norm()) * len(self._rates)
        if shortest - lost <= distance <= longest + lost:
            return ""
        reason = "its gradient is too small" if distance < shortest else "something else changes it"
        steps = counted(self._steps, "step")
        expected = f"{shortest:.2g} to {longest:.2g}"
        return (
            f"it has moved by {distance:.2g} in {steps}, but AdamW moves it by {expected}: {reason}"
        )

    def _report_overflows(self, run: Run) -> None:
        if run.results.float32_steps > 1:
            text = "%d steps were computed again in float32 because half precision overflowed"
            log.warning(text, run.results.float32_steps)
        if self._skipped > max(PATIENCE / 2, MANY_SKIPPED * self._steps):
            text = (
                "%d of %d updates were skipped because their gradient overflowed; "
                "--mixed_precision bf16 avoids this"
            )
            log.warning(text, self._skipped, self._steps)

    def _check_frozen(self, run: Run) -> None:
        """Check that the weights of the model are what they were.

        Raises:
            TrainingError: they are not, and the run is to stop.
        """
        now = checksums(run) if self._sums else {}
        if (
            run.parts.vae.dtype != self._vae_dtype
        ):  # it overflowed, and computes in a wider one since
            now[VAE] = self._sums.get(VAE, 0)
        changed = [name for name, before in self._sums.items() if now[name] != before]
        if not changed:
            return
        what = (
            f"the weights of {', '.join(changed)} changed during training; "
            "the embedding may not work with your model file"
        )
        hint = "check what else changes the model in this process"
        tell_or_stop(TrainingError(what, f"step {run.step}", hint), self._on_problem)


def checksums(run: Run) -> dict[str, int]:
    """Return a number for each part of the model, which any change of one frozen weight changes."""
    trained = {id(rows) for embedding in run.parts.embeddings for rows in embedding.words}
    names = [f"text encoder {number}" for number in range(1, len(run.parts.text_encoders) + 1)]
    modules = zip([*names, VAE, run.family.facts.network], run.parts.modules(), strict=True)
    sums: dict[str, int] = {}
    for name, module in modules:
        tensors = (*module.parameters(), *module.buffers(), *laid_out_weights(module))
        sums[name] = sum_of_bits([tensor for tensor in tensors if id(tensor) not in trained])
    return sums
