"""Everything a run needs, prepared once: the one mutable object of a training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from coinage.config import DataConfig, TrainConfig, WordConfig
from coinage.data.batches import Item, PlannedBatch, plan_epoch, run_length, updates_per_epoch
from coinage.data.buckets import size_condition
from coinage.data.captions import vary
from coinage.data.latent_cache import DiskCache
from coinage.data.latents import Latent, Latents, Memory
from coinage.data.sample import Sample
from coinage.diffusion.loss import rescaled_weights
from coinage.embeddings.file import EmbeddingFile
from coinage.errors import ConfigError, TrainingError
from coinage.families import FAMILIES
from coinage.families.base import Components, ModelFamily
from coinage.families.eight_bit import keep_in_eight_bits
from coinage.families.kept_text import FOLDER, KeptText
from coinage.preflight import prediction_problems
from coinage.reach import rate_problem
from coinage.seeding import generator_for, rng_for
from coinage.tokens import initial_rows, table_of
from coinage.training.convergence import Settled
from coinage.training.measured import Best, Measured
from coinage.training.optimizers import averaged, choose_optimizer, make_schedule
from coinage.training.processes import ALONE, Processes
from coinage.training.state import load_state
from coinage.training.step import Batch
from coinage.training.word import install_words, tell_of_file
from coinage.wording import counted
from coinage.words import Placeholder

log = logging.getLogger("coinage")
Start = tuple[str, float, float]  # an init word, its loss as it stands, and after a few steps
BANDS = 4  # equal parts of the timesteps, in each of which the loss is told
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    step: int = 0  # optimizer updates done
    epoch: int = 1  # the current one
    done: int = 0  # updates done in it
    images: int = 0  # learned from since this process began
    loss: float = math.nan  # of the last update
    rate: float = math.nan  # learning rate of the last update
    grad_norm: float = math.nan  # of the last update, before clipping
    asked: int = 0  # captions of the last update that hold the word, in all processes
    norms: Sequence[float] = ()  # lengths of the rows of all text encoders in turn, after the last update
    angles: Sequence[float] = ()  # degrees of these rows from their start
    touched: Sequence[torch.Tensor] = ()  # for each text encoder, [N] bool: which rows the last update had a gradient for
    skipped: bool = False  # the last update, since the gradient overflowed
    rescued: int = 0  # updates computed in float32, since half precision overflowed
    bands: Sequence[float | None] = (None,) * BANDS  # mean loss of the last update in each part of the timesteps
    measured: dict[int, Measured] = field(default_factory=dict)  # by step
    best: Best | None = None  # of what was measured
    settled: Settled | None = None  # why the run ends early
    starts: Sequence[Start] = ()  # init words that were measured, best first; "" is the vocabulary's mean
    stop: int = 0  # number of the signal that asks to end
    ending: bool = False  # the processes agree to end after this update

    @property
    def over(self) -> bool:
        """Whether no update is to come."""
        return self.ending or self.complete

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
            for update in self.updates(self.epoch - 1, self.done):
                yield update
            if update is None:
                what = f"epoch {self.epoch} has no step after its first {self.done}"
                hint = "see that the dataset has images to train on; or begin anew without --resume"
                raise TrainingError(what, hint=hint)

    def go_on_from(self, step: int, epoch: int, done: int) -> None:
        """Put the run where another one was; in the next epoch, where its epoch has become shorter than that.

        Args:
            step: optimizer updates done.
            epoch: the current one, counted from 1.
            done: updates done in it.
        """
        self.step, self.epoch, self.done = step, epoch, done
        if done > self.updates_per_epoch:
            log.warning(
                "--resume: the state is of step %d of epoch %d, and an epoch has %s now; "
                "the run goes on with epoch %d",
                done, epoch, counted(self.updates_per_epoch, "step"), epoch + 1,
            )  # fmt: skip
            self.epoch, self.done = epoch + 1, 0

    def updates(self, epoch: int, done: int = 0) -> Iterator[Update]:
        """The optimizer updates of an epoch (counted from 0) after the first `done`, data included."""
        seed, size = self.config.loop.seed, self.config.optim.accumulation * self.processes.count
        plan = plan_epoch(self.samples, self.config.data.batch_sizes, seed, epoch)
        groups = [plan[i : i + size] for i in range(done * size, len(plan), size)]
        own = [self.processes.share(group) for group in groups]
        latents = self.latents.of([batch for share in own for batch in share], seed, epoch)
        for group, share in zip(groups, own, strict=True):
            yield Update([self._batch(batch, next(latents), epoch) for batch in share], sum(map(len, group)))

    @property
    def images_per_step(self) -> float:
        """Images that all processes together learn from in an update, in the mean over an epoch."""
        return sum(sample.repeats for sample in self.samples) / self.updates_per_epoch

    def _batch(self, planned: PlannedBatch, latents: Sequence[Latent], epoch: int) -> Batch:
        seed, token = self.config.loop.seed, self.placeholder.token
        used = [(self.samples[item.sample], item.position) for item in planned]
        captions = [
            vary(s.caption, s.subset.captions, token, rng_for(seed, "caption", epoch, at), self.step, self.total_steps) for s, at in used
        ]
        return Batch(
            moments=torch.stack([latent.moments for latent in latents]),
            captions=captions,
            generators=[generator_for(seed, "noise", epoch, at) for _, at in used],
            weights=torch.tensor([self.config.loss.prior_weight if s.subset.regularisation else 1.0 for s, _ in used]),
            sizes=torch.tensor([self.size_of(item, latent) for item, latent in zip(planned, latents, strict=True)]),
            mask=stack_masks(latents),
        )

    def size_of(self, item: Item, latent: Latent) -> list[int]:
        """What SDXL is told of one use of an image: original size, crop, target size, as (height, width) pairs."""
        sample = self.samples[item.sample]
        as_reference = sample.subset.images.as_reference
        found = size_condition(sample.image_wh, latent.fit, flipped=item.flipped, as_reference=as_reference)
        return [*found.original_hw, *found.crop_top_left, *found.target_hw]

    def autocast(self) -> AbstractContextManager[object]:
        """Low-precision computation where it is configured."""
        return torch.autocast(self.parts.device.type, self.dtype, enabled=self.dtype != torch.float32)

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

    def embedding(self) -> EmbeddingFile:
        """The word as it is now."""
        vectors = dict(zip(self.family.embedding_keys, self.rows_to_save(), strict=True))
        return EmbeddingFile(vectors, self.placeholder.token, self.step)


def stack_masks(latents: Sequence[Latent]) -> torch.Tensor | None:
    """[B, 1, h, w] masks of a batch, ones where an image has none; None if no image has one."""
    if all(latent.mask is None for latent in latents):
        return None
    masks = [torch.ones(latent.moments.shape[-2:]) if latent.mask is None else latent.mask for latent in latents]
    return torch.stack(masks).unsqueeze(1)


def store_for(data: DataConfig, samples: Sequence[Sample], parts: Components) -> Memory | DiskCache | None:
    """Where latents are kept, if they are."""
    if data.cache_to_disk:
        return DiskCache(samples, parts.vae, data.cache_dir, trust=data.trust_cache)
    return Memory() if data.cache_latents else None


def text_store_for(data: DataConfig) -> KeptText | None:
    """Where encodings of captions without the word are kept, if they are."""
    if not (data.cache_text or data.cache_text_to_disk):
        return None
    beside = next((s.image_dir for dataset in data.datasets for s in dataset.subsets if s.image_dir), None)
    folder = data.cache_dir / "text" if data.cache_dir else beside / FOLDER if beside else None
    return KeptText(folder if data.cache_text_to_disk else None)


def working_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen parts; fp16 on a CPU becomes bf16, and says so."""
    if precision == "fp16" and device.type == "cpu":
        log.info("--mixed_precision fp16 is for GPUs: bf16 is used on this CPU")
        return torch.bfloat16
    return DTYPES[precision]


def lower_linear_layers(parts: Components, dtype: torch.dtype) -> None:
    """Keep the text encoders' linear layers in what autocast computes them in anyway, bit for bit, instead of casting them each step."""
    for encoder in parts.text_encoders:
        for layer in encoder.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.to(dtype)


def shape_unet(config: TrainConfig, parts: Components) -> None:
    """Have the UNet run as the flags ask, on its device."""
    if config.model.gradient_checkpointing:
        checkpoint_gradients(parts)
    if config.model.compile_backend:
        parts.denoiser.compile(backend=config.model.compile_backend)


def checkpoint_gradients(parts: Components) -> None:
    """Have UNet and text encoders compute activations twice instead of keeping them."""
    parts.denoiser.enable_gradient_checkpointing()
    for encoder in parts.text_encoders:
        # transformers renamed the method; its old name warns.
        enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
        enable()
    for module in (parts.denoiser, *parts.text_encoders):
        module.train()  # checkpointing is skipped in eval mode; there is no dropout


def loss_problems(config: TrainConfig, parts: Components) -> None:
    """See that the loss goes with what the loaded model predicts, which a single file does not tell before.

    Raises:
        ConfigError: it does not.
    """
    problems = prediction_problems(config, parts.schedule.prediction_type)
    if problems:
        raise ConfigError(problems)


def tell_of_weights(configs: Sequence[TrainConfig], parts: Components) -> None:
    """Say, once, that loss weights follow a schedule that ends in pure noise."""
    last = parts.schedule.snr(torch.tensor([parts.schedule.num_timesteps - 1]))
    for told in dict.fromkeys(rescaled_weights(last, config.loss) for config in configs):
        if told:
            log.info("note: %s", told)


def prepare(
    config: TrainConfig,
    samples: Sequence[Sample],
    device: torch.device,
    state: Path | None = None,
    processes: Processes = ALONE,
) -> Run:
    """As `prepare_all`, for one word."""
    (run,) = prepare_all([config], [samples], device, [state], processes)
    return run


def prepare_all(
    configs: Sequence[TrainConfig],
    samples: Sequence[Sequence[Sample]],
    device: torch.device,
    states: Sequence[Path | None],
    processes: Processes = ALONE,
) -> list[Run]:
    """Load the model and make everything ready for the first step, or for the next one after a saved state.

    Args:
        configs: one for each word; the first one's model is for all.
        samples: the images of each word.
        device: of the model.
        states: where each word goes on from, None where it begins.
        processes: those of the run.

    Raises:
        ConfigError: a word, the captions or an optimizer do not fit.
        CoinageError: the model or a word's file cannot be used.
    """
    parts, dtype = load_shared(configs[0], device)
    tell_of_weights(configs, parts)
    for config in configs:
        tell_of_file(config.word)
    latents = [
        Latents(parts.vae, own, config.data.readers, store_for(config.data, own, parts))
        for config, own in zip(configs, samples, strict=True)
    ]
    runs = prepare_on(parts, dtype, configs, samples, processes, latents)
    for run, state in zip(runs, states, strict=True):
        warn_of_rate(run)
        if state:
            load_state(run, state)
    return runs


def prepare_on(
    parts: Components,
    dtype: torch.dtype,
    configs: Sequence[TrainConfig],
    samples: Sequence[Sequence[Sample]],
    processes: Processes,
    latents: Sequence[Latents],
    *,
    beside: Sequence[WordConfig] = (),
) -> list[Run]:
    """Runs before their first step on a model that is loaded; words that it had are forgotten.

    Args:
        parts: the model's.
        dtype: what it computes in.
        configs: one for each word.
        samples: the images of each word.
        processes: those of the run.
        latents: of each word's images.
        beside: words that captions may hold too, and that are not learned.

    Raises:
        ConfigError: a word, the captions or an optimizer do not fit.
        CoinageError: a word's file cannot be used.
    """
    family = FAMILIES[configs[0].model.family]
    placeholders = install_words(parts, [*(config.word for config in configs), *beside], family.embedding_keys)
    runs = []
    for place, (config, own, encoded) in enumerate(zip(configs, samples, latents, strict=True)):
        loss_problems(config, parts)
        optimizer = choose_optimizer(config.optim)(parts.rows(place))
        updates = updates_per_epoch(config, own, processes.count)
        total_steps, total_epochs = run_length(config.loop, 1, updates)
        run = Run(
            config=config,
            family=family,
            parts=parts,
            placeholder=placeholders[place],
            samples=own,
            latents=encoded,
            optimizer=optimizer,
            schedule=make_schedule(config.optim, optimizer, total_steps),
            scaler=torch.amp.GradScaler(parts.device.type, enabled=dtype == torch.float16),
            dtype=dtype,
            total_steps=total_steps,
            total_epochs=total_epochs,
            updates_per_epoch=updates,
            start=[row.detach().cpu().clone() for row in parts.rows(place)],
            place=place,
            processes=processes,
        )
        runs.append(run)
    return runs


def load_shared(config: TrainConfig, device: torch.device) -> tuple[Components, torch.dtype]:
    """Load the frozen model as the flags ask, on its device; and what it computes in."""
    dtype = working_dtype(config.model.precision, device)
    parts = FAMILIES[config.model.family].load(config.model, dtype)
    parts.kept_text = text_store_for(config.data)
    lower_linear_layers(parts, dtype)
    if config.model.fp8_unet:
        keep_in_eight_bits(parts.denoiser)  # before it is moved: a GPU that holds 8 bits need not hold 16
    for module in parts.modules():
        module.to(device)
    shape_unet(config, parts)
    return parts, dtype


def warn_of_rate(run: Run) -> None:
    """Say if the learning rate can teach nothing, or goes too far."""
    table = run.parts.embeddings[0].table
    problem = rate_problem(run.config.optim, run.total_steps, table.shape[1], float(table.float().norm(dim=1).mean()))
    if problem:
        log.warning("%s%s", f"{run.placeholder.token}: " if run.words > 1 else "", problem)
