"""A run: what it needs, how far it is, and what it has found."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch

from coinage.config import TrainConfig
from coinage.data.batches import Item, PlannedBatch, plan_epoch
from coinage.data.buckets import size_condition
from coinage.data.captions import vary
from coinage.data.latents import Latent, Latents
from coinage.data.sample import Sample
from coinage.embeddings.word import Word
from coinage.errors import TrainingError
from coinage.models.base import Components, ModelFamily
from coinage.models.token_embedding import initial_rows, table_of
from coinage.optim.factory import averaged
from coinage.seeding import generator_for, rng_for
from coinage.text.placeholder import Placeholder
from coinage.training.convergence import Settled
from coinage.training.measured import Best, Measured
from coinage.training.processes import ALONE, Processes
from coinage.training.step import Batch
from coinage.wording import counted

log = logging.getLogger("coinage")
Start = tuple[str, float, float]  # an init word, its loss as it stands, and after a few steps
BANDS = 4  # equal parts of the timesteps, in each of which the loss is told


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimizer update learns from.

    Attributes:
        batches: those of this process.
        samples: images in the batches of all processes together.
    """

    batches: Sequence[Batch]
    samples: int


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer updates done.
        epoch: the current one, counted from 1.
        done: updates done in it.
        images: learned from since this process began.
        stop: number of the signal that asks to end; 0 without one.
        ending: the processes agree to end after this update.
    """

    step: int = 0
    epoch: int = 1
    done: int = 0
    images: int = 0
    stop: int = 0
    ending: bool = False


@dataclass(slots=True)
class LastStep:
    """The last optimizer update of a run.

    Attributes:
        loss: mean over the samples of all processes.
        rate: learning rate.
        grad_norm: before clipping.
        asked: captions that hold the word, in all processes.
        norms: lengths of the rows of all text encoders in turn, afterwards.
        angles: degrees of these rows from their start.
        touched: for each text encoder, [N] bool: which rows had a gradient.
        skipped: the gradient overflowed.
        bands: mean loss in each part of the timesteps.
    """

    loss: float = math.nan
    rate: float = math.nan
    grad_norm: float = math.nan
    asked: int = 0
    norms: Sequence[float] = ()
    angles: Sequence[float] = ()
    touched: Sequence[torch.Tensor] = ()
    skipped: bool = False
    bands: Sequence[float | None] = (None,) * BANDS


@dataclass(slots=True)
class Run:
    """A prepared training run of one word. Only the loop changes it. Several runs may share one model and train side by side."""

    config: TrainConfig
    family: ModelFamily
    parts: Components
    placeholder: Placeholder
    samples: Sequence[Sample]
    latents: Latents
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    dtype: torch.dtype
    total_steps: int
    total_epochs: int
    updates_per_epoch: int  # of all processes together
    start: Sequence[torch.Tensor]  # the rows before the first step, on the CPU
    place: int = 0  # of its word among those of the model
    processes: Processes = ALONE
    progress: Progress = field(default_factory=Progress)
    last: LastStep = field(default_factory=LastStep)
    rescued: int = 0  # updates computed in float32, since half precision overflowed
    measured: dict[int, Measured] = field(default_factory=dict)  # by step
    best: Best | None = None  # of what was measured
    settled: Settled | None = None  # why the run ends early
    # Init words that were measured, best first; "" is the vocabulary's mean
    starts: Sequence[Start] = ()

    @property
    def step(self) -> int:
        """Optimizer updates done."""
        return self.progress.step

    @property
    def over(self) -> bool:
        """Whether no update is to come."""
        return self.progress.ending or self.complete

    @property
    def complete(self) -> bool:
        """Whether all updates are done, or no more are needed."""
        return self.step >= self.total_steps or self.settled is not None

    @property
    def measured_on(self) -> str:
        """What the evaluation loss is measured on, in words."""
        count = sum(sample.held_out for sample in self.samples)
        return counted(count, "held-out image") if count else "training images"

    @property
    def words(self) -> int:
        """How many words learn side by side on its model, this one included."""
        return len(self.parts.embeddings[0].words)

    @property
    def rows(self) -> list[torch.nn.Parameter]:
        """What trains: the word's own rows, one [n, D] float32 parameter per text encoder."""
        return self.parts.rows(self.place)

    def lessons(self) -> Iterator[Update]:
        """Yield all updates from where the run is; the loop counts its epochs and what is done in them.

        Raises:
            TrainingError: an epoch has no update from there on, so that none would ever come.
        """
        while True:
            update = None
            for update in self.updates(self.progress.epoch - 1, self.progress.done):
                yield update
            if update is None:
                what = (
                    f"epoch {self.progress.epoch} has no step after its first {self.progress.done}"
                )
                hint = "see that the dataset has images to train on; or begin anew without --resume"
                raise TrainingError(what, hint=hint)

    def go_on_from(self, step: int, epoch: int, done: int) -> None:
        """Put the run where another one was; in the next epoch, where its epoch has become shorter than that.

        Args:
            step: optimizer updates done.
            epoch: the current one, counted from 1.
            done: updates done in it.
        """
        now = self.progress
        now.step, now.epoch, now.done = step, epoch, done
        if done > self.updates_per_epoch:
            log.warning(
                "--resume: the state is of step %d of epoch %d, and an epoch has %s now; "
                "the run goes on with epoch %d",
                done, epoch, counted(self.updates_per_epoch, "step"), epoch + 1,
            )  # fmt: skip
            now.epoch, now.done = epoch + 1, 0

    def updates(self, epoch: int, done: int = 0) -> Iterator[Update]:
        """The optimizer updates of an epoch (counted from 0) after the first `done`, data included."""
        seed, size = self.config.loop.seed, self.config.optim.accumulation * self.processes.count
        plan = plan_epoch(self.samples, self.config.data.batch_sizes, seed, epoch)
        groups = [plan[i : i + size] for i in range(done * size, len(plan), size)]
        own = [self.processes.share(group) for group in groups]
        latents = self.latents.of([batch for share in own for batch in share], seed, epoch)
        for group, share in zip(groups, own, strict=True):
            yield Update(
                [self._batch(batch, next(latents), epoch) for batch in share], sum(map(len, group))
            )

    @property
    def images_per_step(self) -> float:
        """Images that all processes together learn from in an update, in the mean over an epoch."""
        return sum(sample.repeats for sample in self.samples) / self.updates_per_epoch

    def _batch(self, planned: PlannedBatch, latents: Sequence[Latent], epoch: int) -> Batch:
        seed, token = self.config.loop.seed, self.placeholder.token
        used = [(self.samples[item.sample], item.position) for item in planned]
        captions = [
            vary(
                s.caption,
                s.subset.captions,
                token,
                rng_for(seed, "caption", epoch, at),
                self.step,
                self.total_steps,
            )
            for s, at in used
        ]
        return Batch(
            moments=torch.stack([latent.moments for latent in latents]),
            captions=captions,
            generators=[generator_for(seed, "noise", epoch, at) for _, at in used],
            weights=torch.tensor(
                [self.config.loss.prior_weight if s.subset.regularisation else 1.0 for s, _ in used]
            ),
            sizes=torch.tensor(
                [self.size_of(item, latent) for item, latent in zip(planned, latents, strict=True)]
            ),
            mask=stack_masks(latents),
        )

    def size_of(self, item: Item, latent: Latent) -> list[int]:
        """What SDXL is told of one use of an image: original size, crop, target size, as (height, width) pairs."""
        sample = self.samples[item.sample]
        as_reference = sample.subset.images.as_reference
        found = size_condition(
            sample.image_wh, latent.fit, flipped=item.flipped, as_reference=as_reference
        )
        return [*found.original_hw, *found.crop_top_left, *found.target_hw]

    def autocast(self) -> AbstractContextManager[object]:
        """Low-precision computation where it is configured."""
        return torch.autocast(
            self.parts.device.type, self.dtype, enabled=self.dtype != torch.float32
        )

    def averaged(self) -> AbstractContextManager[None]:
        """Have the rows hold what is saved and shown, where the optimizer trains at another point."""
        return averaged(self.optimizer, self.rows)

    def rows_to_save(self) -> list[torch.Tensor]:
        """A copy of the rows as they are saved, float32 on the CPU."""
        with self.averaged():
            return [row.detach().float().cpu().clone() for row in self.rows]

    def begin_from(self, init_word: str, ranking: Sequence[Start]) -> None:
        """Start from an init word that was found, before the first step.

        Args:
            init_word: one or more known tokens.
            ranking: what was measured to find it, best first.
        """
        self.config = replace(self.config, word=replace(self.config.word, init_word=init_word))
        pairs = zip(self.rows, self.parts.text_encoders, self.parts.tokenizers, strict=True)
        with torch.no_grad():
            for row, encoder, tokenizer in pairs:
                row.copy_(initial_rows(table_of(encoder), tokenizer, init_word, len(row)))
        self.start = [row.detach().cpu().clone() for row in self.rows]
        self.starts = list(ranking)

    def embedding(self) -> Word:
        """The word as it is now."""
        vectors = dict(zip(self.family.embedding_keys, self.rows_to_save(), strict=True))
        return Word(vectors, self.placeholder.token, self.step)


def stack_masks(latents: Sequence[Latent]) -> torch.Tensor | None:
    """[B, 1, h, w] masks of a batch, ones where an image has none; None if no image has one."""
    if all(latent.mask is None for latent in latents):
        return None
    masks = [
        torch.ones(latent.moments.shape[-2:]) if latent.mask is None else latent.mask
        for latent in latents
    ]
    return torch.stack(masks).unsqueeze(1)
