"""Everything a run needs, prepared once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from coinage.checks.model import prediction_problems
from coinage.config import DataConfig, TrainConfig, WordConfig
from coinage.data.batches import run_length, updates_per_epoch
from coinage.data.latent_cache import DiskCache
from coinage.data.latents import Latents, Memory
from coinage.data.sample import Sample
from coinage.embeddings.install import install_words, log_word_file
from coinage.errors import ConfigError
from coinage.models.base import Components
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.families import FAMILIES
from coinage.models.text_cache import FOLDER, TextCache
from coinage.optim.factory import choose_optimizer, make_schedule
from coinage.optim.reach import rate_problem
from coinage.training.processes import ALONE, Processes
from coinage.training.run import Run
from coinage.training.state import load_state

log = logging.getLogger("coinage")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def store_for(
    data: DataConfig, samples: Sequence[Sample], parts: Components
) -> Memory | DiskCache | None:
    """Where latents are kept, if they are."""
    if data.cache_to_disk:
        return DiskCache(samples, parts.vae, data.cache_dir, trust=data.trust_cache)
    return Memory() if data.cache_latents else None


def text_store_for(data: DataConfig) -> TextCache | None:
    """Where encodings of captions without the word are kept, if they are."""
    if not (data.cache_text or data.cache_text_to_disk):
        return None
    beside = next(
        (s.image_dir for dataset in data.datasets for s in dataset.subsets if s.image_dir), None
    )
    folder = data.cache_dir / "text" if data.cache_dir else beside / FOLDER if beside else None
    return TextCache(folder if data.cache_text_to_disk else None)


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
        enable = (
            getattr(encoder, "activation_checkpointing_enable", None)
            or encoder.gradient_checkpointing_enable
        )
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
    for note in dict.fromkeys(parts.schedule.weights_note(config.loss) for config in configs):
        if note:
            log.info("note: %s", note)


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
        log_word_file(config.word)
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
    placeholders = install_words(
        parts, [*(config.word for config in configs), *beside], family.embedding_keys
    )
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
    parts.text_cache = text_store_for(config.data)
    lower_linear_layers(parts, dtype)
    if config.model.fp8_unet:
        # Before it is moved: a GPU that holds 8 bits need not hold 16
        keep_in_eight_bits(parts.denoiser)
    for module in parts.modules():
        module.to(device)
    shape_unet(config, parts)
    return parts, dtype


def warn_of_rate(run: Run) -> None:
    """Say if the learning rate can teach nothing, or goes too far."""
    table = run.parts.embeddings[0].table
    problem = rate_problem(
        run.config.optim, run.total_steps, table.shape[1], float(table.float().norm(dim=1).mean())
    )
    if problem:
        log.warning("%s%s", f"{run.placeholder.token}: " if run.words > 1 else "", problem)
