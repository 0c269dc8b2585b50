"""Explain why a run cannot continue: which part of the model is to blame, and what can be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coinage.config import TrainConfig
from coinage.errors import TrainingError, reason_of
from coinage.models.base import Components
from coinage.models.facts import FACTS
from coinage.models.text_cache import encode_inputs
from coinage.system.full_memory import full_memory, is_full
from coinage.training.batches import Batch
from coinage.training.prior import prior_prediction
from coinage.training.step import noised, prepare

if TYPE_CHECKING:
    from coinage.training.run import Run

TEXT_ENCODER = "the text encoder"
OVERFLOWS = (TEXT_ENCODER, *(facts.network for facts in FACTS.values()))  # what float32 may help
# In errors of the exchange between processes
LOST_CONNECTION = (
    "connection closed",
    "connection reset",
    "broken pipe",
    "gloo",
    "nccl",
    "timed out",
    "socket",
)
HINTS = {
    "the word's own vectors": "lower --learning_rate",
    "the VAE's latents": "use --no_half_vae, or another --vae",
    **dict.fromkeys(
        OVERFLOWS, "the model file may be damaged: draw a picture with it (coinage generate)"
    ),
}


def not_finite(what: str, place: str, run: Run) -> TrainingError:
    """Return the error of a number that is not finite.

    Args:
        what: the number and its value.
        place: where it was first met; "" where that is not known.
        run: whose step it is.
    """
    hint = HINTS.get(place, "lower --learning_rate")
    if run.dtype != torch.float32 and place not in HINTS:
        hint += ", or use --mixed_precision no"
    if place:
        what += f": {place} gives numbers that are not finite"
    return TrainingError(what, f"step {run.step + 1}", hint)


@torch.no_grad()
def where_not_finite(run: Run, batches: Sequence[Batch]) -> str:
    """Return the part of a step that first makes a number that is not finite; "" if none does."""
    if not all(map(_is_finite, run.rows)):
        return "the word's own vectors"
    for batch in batches:
        if not _is_finite(batch.moments):
            return "the VAE's latents"
        batch.rewind()
        with run.autocast():
            inputs = prepare(run.family, run.parts, batch, run.config.noise)
            latents = noised(run.parts, inputs)
            cond = encode_inputs(run.family, run.parts, inputs.text)
            if not _is_finite(cond.encoder_hidden_states) or not _is_finite(cond.pooled):
                return TEXT_ENCODER
            noisy, times = latents.noisy_latents, latents.timesteps
            predicted = [run.family.predict(run.parts, noisy, times, cond)]
            if inputs.prior is not None:
                given = inputs.prior, noisy, times, latents.target
                predicted.append(prior_prediction(run.family, run.parts, *given))
            if not all(map(_is_finite, predicted)):
                return run.family.facts.network
    return ""


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or bool(torch.isfinite(tensor).all())


@contextmanager
def full_precision(parts: Components) -> Iterator[None]:
    """Keep 16-bit weights of text encoders and UNet in float32 for a while, then restore them bit for bit."""
    halves = []
    for module in (*parts.text_encoders, parts.denoiser):
        for parameter in module.parameters():
            if parameter.dtype.itemsize == 2:
                halves.append((parameter, parameter.dtype))
    try:
        for parameter, _ in halves:
            parameter.data = parameter.data.float()
        yield
    finally:
        for parameter, dtype in halves:
            parameter.data = parameter.data.to(dtype)


def as_training_error(error: Exception, run: Run) -> TrainingError | None:
    """Translate an exception that ends a run into the user's terms; None where it needs no translation."""
    where = f"step {run.step + 1}"
    if isinstance(error, TrainingError):
        return error
    if is_full(error):
        problem = full_memory(error, where, smaller(run.config))
        return TrainingError(problem.what, problem.where, problem.hint)
    if run.processes.count > 1 and isinstance(error, RuntimeError) and is_lost(error):
        hint = "see its messages; to continue, start all processes again with --resume latest"
        return TrainingError(
            "another process of this run has ended or cannot be reached", where, hint
        )
    return None


def smaller(config: TrainConfig) -> str:
    """Return a hint that names the settings that would save memory and are not used yet."""
    model, data = config.model, config.data
    varied = any(
        subset.images.vary_pixels for dataset in data.datasets for subset in dataset.subsets
    )
    helpful = []
    if not model.gradient_checkpointing:
        helpful.append("--gradient_checkpointing")
    if model.precision == "no":
        helpful.append("--mixed_precision bf16")
    elif not model.fp8_unet:
        helpful.append("--fp8_base")
    if not (data.cache_latents or varied):
        helpful.append("--cache_latents")
    if not model.low_memory:
        helpful.append("--low_memory")
    if max(data.batch_sizes) > 1:
        helpful.append("a smaller batch")
    if not helpful:
        return "use a smaller resolution"
    return f"use {', '.join(helpful)}, or a smaller resolution"


def is_lost(error: Exception) -> bool:
    """Return whether an error of the exchange between processes means that one is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    reason = reason_of(error).lower()
    return any(word in reason for word in LOST_CONNECTION)
