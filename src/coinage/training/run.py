"""A run: what it needs, how far it is, and what it has found."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import compress, count

import torch

from coinage.config import TrainConfig
from coinage.data.batches import plan_epoch
from coinage.data.latents import Latents
from coinage.data.sample import Sample, uses_per_epoch
from coinage.embeddings.word import Word
from coinage.errors import TrainingError
from coinage.models.base import Components, ModelFamily
from coinage.models.token_embedding import initial_rows, table_of
from coinage.optim.factory import OptimizerFactory, averaged, class_name_of, make_optimizer
from coinage.scoring.scorer import Scorer
from coinage.text.placeholder import Placeholder
from coinage.training.batches import Batch, epoch_batch
from coinage.training.losses import Loss
from coinage.training.processes import ALONE, Processes
from coinage.training.results import InitWordLosses, Results
from coinage.training.rows import holding
from coinage.wording import counted

log = logging.getLogger("coinage")
BANDS = 4  # equal parts of the timesteps; the loss of each is logged


@dataclass(frozen=True, slots=True)
class StepInput:
    """Input of one optimizer step.

    Attributes:
        batches: those of this process.
        sample_count: samples in the batches of all processes together.
    """

    batches: Sequence[Batch]
    sample_count: int


@dataclass(slots=True)
class Progress:
    """Position of a run.

    Attributes:
        step: optimizer steps done.
        epoch: the current one, counted from 1.
        done: steps done in this epoch.
        images: learned from since this process began.
        stop_signal: number of the signal that asked to stop; 0 without one.
        ending: all processes have agreed to stop after this step.
    """

    step: int = 0
    epoch: int = 1
    done: int = 0
    images: int = 0
    stop_signal: int = 0
    ending: bool = False


@dataclass(slots=True)
class LastStep:
    """Measures of the last optimizer step; written by `step_statistics` and `updates`.

    Attributes:
        loss: mean over the samples of all processes.
        rate: learning rate.
        grad_norm: length of the gradient of all rows together, before clipping.
        captions_with_word: captions that hold the word, in all processes.
        norms: lengths of the rows of all text encoders in turn, after the step.
        angles: degrees between these rows and their start.
        rows: as they are after the step, for each text encoder [n, D] float32 on the CPU.
        touched: for each text encoder, [n] bool on the CPU: rows that had a gradient.
        skipped: the gradient overflowed, so that the rows are as before.
        rests: the word does not learn at this step, or no caption of it has the word, so that the
            rows and the optimizer are as before.
        bands: mean loss in each part of the timesteps; None in a part without samples.
    """

    loss: float = math.nan
    rate: float = math.nan
    grad_norm: float = math.nan
    captions_with_word: int = 0
    norms: Sequence[float] = ()
    angles: Sequence[float] = ()
    rows: Sequence[torch.Tensor] = ()
    touched: Sequence[torch.Tensor] = ()
    skipped: bool = False
    rests: bool = False
    bands: Sequence[float | None] = (None,) * BANDS


@dataclass(slots=True)
class Run:
    """A prepared training run of one word. Several runs may share one model and train side by side.

    It changes by its methods (`advance_epoch`, `request_stop`, `restore`, `begin_from`), by the
    training loop, which counts steps in `progress` and describes each in `last`, and by the
    evaluator, which fills `results`. Observers only read it.

    Attributes:
        config: of the run.
        family: of the model.
        parts: the model; shared by all runs on it.
        placeholder: the word and its pieces.
        samples: the images.
        latents: of these images.
        loss: training loss; called once for each batch.
        optimizer: over `trained_rows`.
        optimizer_factory: the user's own way to make the optimizer; None: as configured.
        rate_scales: factor of the learning rate for each text encoder.
        schedule: of the learning rate.
        scaler: of the loss, at work with fp16 only.
        dtype: in which the model computes.
        total_steps: length of the run in optimizer steps.
        total_epochs: length of the run in epochs.
        updates_per_epoch: optimizer steps per epoch, of all processes together.
        start: the rows before the first step, on the CPU.
        word_index: of the word among those that learn on the model.
        processes: that train the word together.
        together: the runs whose words learn from the same batches, this one included; () if it has
            batches of its own.
        scorers: of the word's pictures, where scores decide which word is the best.
        progress: its position.
        last: its last step.
        results: what it has found.
    """

    config: TrainConfig
    family: ModelFamily
    parts: Components
    placeholder: Placeholder
    samples: Sequence[Sample]
    latents: Latents
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    dtype: torch.dtype
    total_steps: int
    total_epochs: int
    updates_per_epoch: int
    start: Sequence[torch.Tensor]
    rate_scales: Sequence[float]
    optimizer_factory: OptimizerFactory | None = None
    word_index: int = 0
    processes: Processes = ALONE
    together: Sequence[Run] = field(default=(), repr=False, compare=False)
    scorers: Sequence[Scorer] = ()
    progress: Progress = field(default_factory=Progress)
    last: LastStep = field(default_factory=LastStep)
    results: Results = field(default_factory=Results)
    _start_on_device: list[torch.Tensor] = field(default_factory=list, init=False, repr=False)

    @property
    def start_on_device(self) -> Sequence[torch.Tensor]:
        """The rows before the first step, where the model is."""
        if not self._start_on_device:
            self._start_on_device = [row.to(self.parts.device) for row in self.start]
        return self._start_on_device

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.progress.step

    @property
    def over(self) -> bool:
        """True when no step is to come."""
        return self.progress.ending or self.complete

    @property
    def complete(self) -> bool:
        """True when all steps are done, or no more are needed."""
        return self.step >= self.total_steps or self.results.settled is not None

    @property
    def epoch_done(self) -> bool:
        """True when the current epoch has no further step."""
        return self.progress.done >= self.updates_per_epoch

    @property
    def measured_on(self) -> str:
        """The images on which the evaluation loss is measured, in words."""
        count = sum(sample.held_out for sample in self.samples)
        return counted(count, "held-out image") if count else "training images"

    @property
    def word_count(self) -> int:
        """Number of words that learn side by side on the model, this one included."""
        by_word = zip(*(embedding.words for embedding in self.parts.embeddings), strict=True)
        return sum(any(row.requires_grad for row in rows) for rows in by_word)

    @property
    def batch_count(self) -> int:
        """Number of words with batches of their own that share a step."""
        return self.word_count - max(0, len(self.together) - 1)

    @property
    def tokens_beside(self) -> list[str]:
        """The other words that learn from the same batches."""
        return [other.token for other in self.config.learns_with]

    @property
    def rows(self) -> list[torch.nn.Parameter]:
        """The word's rows, one [n, D] float32 tensor per text encoder."""
        return self.parts.rows(self.word_index)

    @property
    def learns_in(self) -> tuple[bool, ...]:
        """For each text encoder whether the word learns there."""
        return self.family.facts.learns_in(self.config.word.train_encoders, self.parts.keys)

    @property
    def trained_rows(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained: the rows of the text encoders in which the word learns."""
        return [row for row, learns in zip(self.rows, self.learns_in, strict=True) if learns]

    def of_trained(self, values: Sequence[float]) -> list[float]:
        """Return those of the trained rows, of numbers of the rows of all text encoders in turn."""
        learns: list[bool] = []
        for rows, does in zip(self.rows, self.learns_in, strict=True):
            learns += [does] * len(rows)
        return list(compress(values, learns))

    @property
    def optimizer_name(self) -> str:
        """Name of the optimizer: as configured, or module and class of the user's own."""
        if self.optimizer_factory is None:
            return self.config.optim.name
        return class_name_of(self.optimizer)

    @property
    def learning_rate(self) -> float:
        """Learning rate before any schedule: as configured, or of the user's own optimizer."""
        if self.optimizer_factory is None:
            return self.config.optim.learning_rate
        group = self.optimizer.param_groups[0]
        return float(group.get("initial_lr", group["lr"]))

    @property
    def images_per_step(self) -> float:
        """Images that all processes together learn from in a step, mean over an epoch."""
        return uses_per_epoch(self.samples) / self.updates_per_epoch

    def advance_epoch(self) -> None:
        """Begin the next epoch."""
        self.progress.epoch += 1
        self.progress.done = 0

    def request_stop(self, signal: int) -> None:
        """Ask all processes to stop after the step at hand.

        Args:
            signal: number of the signal that asks.
        """
        self.progress.stop_signal = signal

    def restore(self, step: int, epoch: int, done: int) -> None:
        """Continue from the position of a saved state, or from the next epoch if its own became shorter.

        Args:
            step: optimizer steps done.
            epoch: the current one, counted from 1.
            done: steps done in it.
        """
        progress = self.progress
        progress.step, progress.epoch, progress.done = step, epoch, done
        if done > self.updates_per_epoch:
            log.warning(
                "--resume: the state was saved at step %d of epoch %d, but an epoch now has %s; "
                "the run continues with epoch %d",
                done, epoch, counted(self.updates_per_epoch, "step"), epoch + 1,
            )  # fmt: skip
            self.advance_epoch()

    def begin_from(self, init_word: str, ranking: Sequence[InitWordLosses]) -> None:
        """Set the rows to an init word that was found by measurement, before the first step.

        Args:
            init_word: one or more known tokens; "" for the mean of the vocabulary.
            ranking: the init words that were compared, best first.
        """
        self.config = replace(self.config, word=replace(self.config.word, init_word=init_word))
        pairs = zip(self.rows, self.parts.text_encoders, self.parts.tokenizers, strict=True)
        with torch.no_grad():
            for row, encoder, tokenizer in pairs:
                row.copy_(initial_rows(table_of(encoder), tokenizer, init_word, len(row)))
        self.start = [row.detach().cpu().clone() for row in self.rows]
        self._start_on_device = []
        self.results.init_words = list(ranking)

    def step_inputs(self) -> Iterator[StepInput]:
        """Yield the inputs of all steps from the current position on, epoch after epoch, without end.

        Whoever takes them counts the steps and advances the epochs.

        Raises:
            TrainingError: an epoch has no step left from there on, so that none would ever come.
        """
        while True:
            step_input = None
            for step_input in self.epoch_inputs(self.progress.epoch - 1, self.progress.done):
                yield step_input
            if step_input is None:
                epoch, done = self.progress.epoch, self.progress.done
                what = f"epoch {epoch} has no steps left after the first {done}"
                hint = (
                    "check that the dataset has images to train on, or start again without --resume"
                )
                raise TrainingError(what, hint=hint)

    def epoch_inputs(self, epoch: int, done: int = 0) -> Iterator[StepInput]:
        """Yield the inputs of an epoch's steps, data included.

        Args:
            epoch: counted from 0.
            done: steps to leave out, from the first one on.
        """
        seed = self.config.loop.seed
        batches_per_step = self.config.optim.accumulation * self.processes.count
        plan = plan_epoch(self.samples, self.config.data.batch_sizes, seed, epoch)
        starts = range(done * batches_per_step, len(plan), batches_per_step)
        groups = [plan[start : start + batches_per_step] for start in starts]
        shares = [self.processes.share(group) for group in groups]
        latents = self.latents.of([batch for share in shares for batch in share], seed, epoch)
        # Counted here: inputs may be asked for while the step before them is still computed
        steps = count(self.step)
        for step, group, share in zip(steps, groups, shares, strict=False):
            batches = [epoch_batch(self, planned, next(latents), epoch, step) for planned in share]
            yield StepInput(batches, sum(map(len, group)))

    def make_optimizer(self, rows: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer of the run's kind over others in place of `trained_rows`."""
        scales = tuple(compress(self.rate_scales, self.learns_in))
        return make_optimizer(self.config.optim, self.optimizer_factory, rows, scales)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in low precision where that is configured; the UNet has its own precision."""
        enabled = self.dtype != torch.float32
        # No weight is cast more than once a step; copies that are kept would not outlive a CUDA graph
        return torch.autocast(
            self.parts.device.type, self.dtype, enabled=enabled, cache_enabled=False
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the rows hold what is saved and shown, where the optimizer trains at another point.

        So do those of the words that learn with it.
        """
        with ExitStack() as stack:
            for run in self.together or (self,):
                stack.enter_context(averaged(run.optimizer, run.rows))
            yield

    def holding_best(self) -> AbstractContextManager[None]:
        """Have the rows hold the best word so far, and so those of the words that learn with it."""
        held = [run for run in self.together or (self,) if run.results.best]
        rows = [row for run in held for row in run.rows]
        return holding(
            rows, [row for run in held if run.results.best for row in run.results.best.rows]
        )

    def rows_to_save(self) -> list[torch.Tensor]:
        """Return a copy of the rows as they are saved, float32 on the CPU."""
        with self.averaged():
            return [row.detach().float().cpu().clone() for row in self.rows]

    def embedding(self) -> Word:
        """Return the word as it is now."""
        vectors = dict(zip(self.parts.keys, self.rows_to_save(), strict=True))
        return Word(vectors, self.placeholder.token, self.step)


def leader_of(run: Run, runs: Sequence[Run]) -> Run:
    """Return the run whose batches a run learns from: itself, or the first of those that learn with it.

    Args:
        run: one of `runs`.
        runs: that take a step.
    """
    if not run.together:
        return run
    return next(other for other in runs if other.together is run.together)
