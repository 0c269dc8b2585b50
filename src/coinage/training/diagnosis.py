"""Where a run cannot go on: which part of the model is to blame, and what can be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from coinage.config import TrainConfig
from coinage.errors import TrainingError, reason_of
from coinage.models.base import Components
from coinage.models.text_cache import encode
from coinage.system.full_memory import full_memory, is_full
from coinage.training.step import Batch, noised_latents

if TYPE_CHECKING:
    from coinage.training.run import Run

TEXT_ENCODER, UNET = "the text encoder", "the UNet"
OVERFLOWS = (TEXT_ENCODER, UNET)  # what float32 may help
HINTS = {
    "the word's own vectors": "lower --learning_rate",
    "the VAE's latents": "use --no_half_vae, or another --vae",
    TEXT_ENCODER: "the model's file may be damaged: see that it draws (coinage generate)",
    UNET: "the model's file may be damaged: see that it draws (coinage generate)",
}


def not_finite(what: str, place: str, run: Run) -> TrainingError:
    """The error of a number that is not finite, first met in `place`, "" where that is not known."""
    hint = HINTS.get(place, "lower --learning_rate")
    if run.dtype != torch.float32 and place not in HINTS:
        hint += ", or use --mixed_precision no"
    return TrainingError(
        what + (f": {place} gives numbers that are not finite" if place else ""),
        f"step {run.step + 1}",
        hint,
    )


@torch.no_grad()
def where_not_finite(run: Run, batches: Sequence[Batch]) -> str:
    """Which part of a step first makes a number that is not finite, in words; "" if none does."""
    if any(not torch.isfinite(rows).all() for rows in run.rows):
        return "the word's own vectors"
    for batch in batches:
        if not torch.isfinite(batch.moments).all():
            return "the VAE's latents"
        batch.rewind()
        noised = noised_latents(run.parts, batch, run.config.noise)
        with run.autocast():
            cond = encode(run.family, run.parts, batch.captions, batch.sizes)
            told = [cond.encoder_hidden_states, *([] if cond.pooled is None else [cond.pooled])]
            if not all(torch.isfinite(tensor).all() for tensor in told):
                return TEXT_ENCODER
            if not torch.isfinite(
                run.family.predict(run.parts, noised.noisy_latents, noised.timesteps, cond)
            ).all():
                return UNET
    return ""


@contextmanager
def full_precision(parts: Components) -> Iterator[None]:
    """Have the text encoders' and the UNet's 16-bit weights in float32 for a while; they come back bit for bit."""
    halves = [
        (p, p.dtype)
        for module in (*parts.text_encoders, parts.denoiser)
        for p in module.parameters()
        if p.dtype.itemsize == 2
    ]
    try:
        for parameter, _ in halves:
            parameter.data = parameter.data.float()
        yield
    finally:
        for parameter, dtype in halves:
            parameter.data = parameter.data.to(dtype)


def as_training_error(error: Exception, run: Run) -> TrainingError | None:
    """What ends a run, in a user's terms; None for what is told as it is."""
    where = f"step {run.step + 1}"
    if isinstance(error, TrainingError):
        return error
    if is_full(error):
        problem = full_memory(error, where, smaller(run.config))
        return TrainingError(problem.what, problem.where, problem.hint)
    if run.processes.count > 1 and isinstance(error, RuntimeError) and is_lost(error):
        hint = "see its messages; to go on, start all of them again with --resume latest"
        return TrainingError(
            "another process of this run has ended, or is out of reach", where, hint
        )
    return None


def smaller(config: TrainConfig) -> str:
    """What would take less memory, of all that is not on yet."""
    model, data = config.model, config.data
    varied = any(
        subset.images.vary_pixels for dataset in data.datasets for subset in dataset.subsets
    )
    offers = {
        "--gradient_checkpointing": not model.gradient_checkpointing,
        "--mixed_precision bf16": model.precision == "no",
        "--fp8_base": model.precision != "no" and not model.fp8_unet,
        "--cache_latents": not (data.cache_latents or varied),
        "a smaller batch": max(data.batch_sizes) > 1,
    }
    chosen = [offer for offer, helps in offers.items() if helps]
    return "use " + (f"{', '.join(chosen)}, or " if chosen else "") + "a smaller resolution"


def is_lost(error: Exception) -> bool:
    """Whether an error of the exchange between processes means that one is gone."""
    reason = reason_of(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(
        word in reason
        for word in (
            "connection closed",
            "connection reset",
            "broken pipe",
            "gloo",
            "nccl",
            "timed out",
            "socket",
        )
    )
