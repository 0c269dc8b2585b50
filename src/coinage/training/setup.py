"""Prepare everything that a run needs: the model, the words, the latents, the optimizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import torch

from coinage.checks.model import prediction_problems
from coinage.config import TrainConfig, WordConfig
from coinage.data.batches import run_length, updates_per_epoch
from coinage.data.latent_cache import DiskCache
from coinage.data.latents import Latents, Memory
from coinage.data.sample import Sample
from coinage.data_config import DataConfig
from coinage.embeddings.install import install_words, log_word_file
from coinage.errors import ConfigError, Problem
from coinage.models.base import Components, ModelFamily
from coinage.models.families import FAMILIES
from coinage.models.loading_lock import LOADING_LOCK
from coinage.models.placement import load_unplaced, place, place_vae
from coinage.models.text_cache import FOLDER, TextCache
from coinage.optim.factory import OptimizerFactory, make_optimizer, make_schedule
from coinage.optim.reach import rate_problem
from coinage.training.losses import ConfiguredLoss, Loss
from coinage.training.processes import ALONE, Processes
from coinage.training.run import Run
from coinage.training.state import load_state

log = logging.getLogger("coinage")
Loaded = tuple[Components, torch.dtype]  # a model, and what it computes in


def store_for(
    data: DataConfig, samples: Sequence[Sample], parts: Components
) -> Memory | DiskCache | None:
    """Return the store of latents that is configured, None where they are encoded each time."""
    if data.cache_to_disk:
        return DiskCache(samples, parts.vae, data.cache_dir, trust=data.trust_cache)
    return Memory() if data.cache_latents else None


def text_store_for(data: DataConfig) -> TextCache | None:
    """Return the store for encodings of captions without the word; None where they are encoded each time."""
    if not data.cache_text_to_disk:
        return TextCache() if data.cache_text else None
    if data.cache_dir:
        return TextCache(data.cache_dir / "text")
    subsets = [subset for dataset in data.datasets for subset in dataset.subsets]
    folders = [subset.image_dir for subset in subsets if subset.image_dir]
    return TextCache(folders[0] / FOLDER if folders else None)


def check_prediction(config: TrainConfig, parts: Components) -> None:
    """Check that the loss suits what the loaded model predicts; a single file does not say it before.

    Raises:
        ConfigError: it does not.
    """
    problems = prediction_problems(config, parts.schedule.prediction_type)
    if problems:
        raise ConfigError(problems)


def note_rescaled_weights(configs: Sequence[TrainConfig], parts: Components) -> None:
    """Log, once, that loss weights follow a schedule that ends in pure noise."""
    notes = [parts.schedule.weights_note(config.loss) for config in configs]
    for note in dict.fromkeys(notes):
        if note:
            log.info("note: %s", note)


def prepare(
    config: TrainConfig,
    samples: Sequence[Sample],
    device: torch.device,
    state: Path | None = None,
    processes: Processes = ALONE,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
) -> Run:
    """As `prepare_all`, for one word."""
    (run,) = prepare_all(
        [config], [samples], device, [state], processes, loss=loss, optimizer=optimizer
    )
    return run


def prepare_all(
    configs: Sequence[TrainConfig],
    samples: Sequence[Sequence[Sample]],
    device: torch.device,
    states: Sequence[Path | None],
    processes: Processes = ALONE,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    staged: bool = False,
    loaded: Loaded | None = None,
) -> list[Run]:
    """Load the model and make everything ready for the first step, or for the next one after a saved state.

    Args:
        configs: one for each word; the first one's model is for all.
        samples: the images of each word.
        device: of the model.
        states: where each word goes on from, None where it begins.
        processes: those of the run.
        loss: trains in place of the configured one.
        optimizer: makes the optimizer over a word's rows, in place of the configured one. The
            configured schedule multiplies its learning rate.
        staged: leave UNet and text encoders on the CPU, for `placement.place` to move them later.
        loaded: the model, where earlier runs have loaded it; their words are forgotten.

    Raises:
        ConfigError: a word, the captions or an optimizer do not fit.
        CoinageError: the model, a word's file or a state cannot be used.
    """
    parts, dtype = loaded or load_unplaced(configs[0].model, device)
    if loaded:
        place_vae(parts)  # encoding images has sent it to the CPU
    parts.text_cache = text_store_for(configs[0].data)
    note_rescaled_weights(configs, parts)
    latents: list[Latents] = []
    joint: Latents | None = None  # of words that learn together
    for config, own_samples in zip(configs, samples, strict=True):
        log_word_file(config.word)
        if config.word.together and joint:
            latents.append(joint)
            continue
        store = store_for(config.data, own_samples, parts)
        latents.append(Latents(parts.vae, own_samples, config.data.readers, store))
        joint = latents[-1] if config.word.together else joint
    for companion in companions_of(configs):
        log_word_file(companion)
    runs = prepare_on(
        parts, dtype, configs, samples, processes, latents, loss=loss, optimizer=optimizer
    )
    if not staged:
        place(parts)
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
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
) -> list[Run]:
    """Return runs before their first step on a model that is loaded; words that it had are forgotten.

    Args:
        parts: the model's.
        dtype: what it computes in.
        configs: one for each word.
        samples: the images of each word.
        processes: those of the run.
        latents: of each word's images.
        beside: words that captions may hold too, and that are not learned.
        loss: as in `prepare_all`.
        optimizer: as in `prepare_all`.

    Raises:
        ConfigError: a word, the captions or an optimizer do not fit.
        CoinageError: a word's file cannot be used.
    """
    family = FAMILIES[configs[0].model.family]
    companions = companions_of(configs)
    words = [*(config.word for config in configs), *beside, *companions]
    with LOADING_LOCK:
        placeholders = install_words(parts, words, parts.keys)
    for number in range(len(words) - len(companions), len(words)):
        for row in parts.rows(number):
            row.requires_grad_(False)
    scales = rate_scales(parts, family)
    runs = []
    for index, (config, own_samples, own_latents) in enumerate(
        zip(configs, samples, latents, strict=True)
    ):
        check_prediction(config, parts)
        rows = parts.rows(index)
        learns_in = family.facts.learns_in(config.word.train_encoders, parts.keys)
        if not any(learns_in):
            what = (
                f"--train_encoders {config.word.train_encoders}: the model has no such text encoder"
            )
            hint = f"it has {', '.join(parts.keys)}"
            raise ConfigError([Problem(what, config.model.source, hint)])
        for row, learns in zip(rows, learns_in, strict=True):
            row.requires_grad_(learns)
        trained = list(compress(rows, learns_in))
        made = make_optimizer(config.optim, optimizer, trained, tuple(compress(scales, learns_in)))
        updates = updates_per_epoch(config, own_samples, processes.count)
        total_steps, total_epochs = run_length(config.loop, 1, updates)
        run = Run(
            config=config,
            family=family,
            parts=parts,
            placeholder=placeholders[index],
            samples=own_samples,
            latents=own_latents,
            loss=ConfiguredLoss(config.loss) if loss is None else loss,
            optimizer=made,
            optimizer_factory=optimizer,
            rate_scales=scales,
            schedule=make_schedule(config.optim, made, config.word.steps_of(total_steps)),
            scaler=torch.amp.GradScaler(parts.device.type, enabled=dtype == torch.float16),
            dtype=dtype,
            total_steps=total_steps,
            total_epochs=total_epochs,
            updates_per_epoch=updates,
            start=[row.detach().cpu().clone() for row in rows],
            word_index=index,
            processes=processes,
        )
        runs.append(run)
    joint = tuple(run for run in runs if run.config.word.together)
    for run in joint:
        run.together = joint
    return runs


def companions_of(configs: Sequence[TrainConfig]) -> list[WordConfig]:
    """Return the words that captions may hold and that stay as they are, each once."""
    return list(dict.fromkeys(word for config in configs for word in config.companions))


def rate_scales(parts: Components, family: ModelFamily) -> tuple[float, ...]:
    """Return the factor of the learning rate for each text encoder.

    T5's rows are some twenty times as long as CLIP's, and a rate that is a distance must be as much
    larger to turn them by the same angle.
    """
    kinds = {encoder.key: encoder.kind for encoder in family.facts.text_encoders}
    if "t5" not in kinds.values():
        return (1.0,) * len(kinds)
    lengths = [float(one.table.float().norm(dim=1).mean()) for one in parts.embeddings]
    ratios = zip(parts.keys, lengths, strict=True)
    return tuple(length / lengths[0] if kinds[key] == "t5" else 1.0 for key, length in ratios)


def warn_of_rate(run: Run) -> None:
    """Warn of a configured learning rate that can teach nothing, or goes too far."""
    if run.optimizer_factory:
        return
    first = run.learns_in.index(True)
    table = run.parts.embeddings[first].table
    width = table.shape[1]
    norm = float(table.float().norm(dim=1).mean()) / run.rate_scales[first]
    steps = run.config.word.steps_of(run.total_steps)
    problem = rate_problem(run.config.optim, steps, width, norm)
    if problem:
        prefix = f"{run.placeholder.token}: " if run.word_count > 1 else ""
        log.warning("%s%s", prefix, problem)
