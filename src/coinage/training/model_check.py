"""A look at the model before the first step: whether it predicts what is asked of it, and whether its gradients are right."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from coinage.config import OnProblem, PredictionType
from coinage.data.batches import Item
from coinage.data.captions import extreme_captions
from coinage.diffusion.schedule import DiffusionSchedule
from coinage.errors import Problem, TrainingError
from coinage.models.base import Components
from coinage.models.prediction import NAMES
from coinage.seeding import generator_for
from coinage.text.placeholder import word_pattern
from coinage.training.observers.base import Observer
from coinage.training.observers.watchdog import tell_or_stop
from coinage.training.run import Run
from coinage.training.step import Batch

log = logging.getLogger("coinage")
SIDE = 32  # latents; a part from the middle is enough to tell
NOISY = 0.7  # of the timesteps: there a noise and a v differ most, and a picture still shows
EXPLAINED = 0.5  # share of a target's power that is left: below, a model predicts it
UNEXPLAINED = 0.7  # above, it does not
WORSE = 1.5  # above, it says worse than nothing
# Least cosine of two right gradients, and least ratio of their lengths; rounding to 8 bits makes 0.94 and 0.87
ALIKE, AS_LONG = 0.7, 0.5


class FirstLook(Observer):
    """Looks once, before the first step; draws nothing that the run draws."""

    def __init__(self, on_problem: OnProblem) -> None:
        self._on_problem = on_problem

    def started(self, run: Run) -> None:
        """Look, in every process at the same image; what is wrong in one is wrong for all.

        Raises:
            TrainingError: the model predicts something else, and that ends the run.
        """
        batch = image_with_word(run)
        if batch is None:
            return
        # Compiling for one small look would take minutes.
        with (
            torch.compiler.set_stance("force_eager")
            if run.config.model.compile_backend
            else nullcontext()
        ):
            left, fast = left_over(run, batch), gradient(run, batch)
            with plain_attention(run.parts):
                plain = gradient(run, batch)
        found = run.processes.gather((wrong_prediction(run, left), wrong_gradient(fast, plain)))
        kernels = next((what for _, what in found if what), "")
        if kernels:
            use_plain_attention(run.parts)
            hint = "plain attention is used instead, which takes more memory; another torch or driver may mend it"
            log.warning("%s", Problem(kernels, str(run.parts.device), hint))
        problem = next((problem for problem, _ in found if problem), None)
        if problem:
            tell_or_stop(problem, self._on_problem)


def image_with_word(run: Run) -> Batch | None:
    """The first image whose caption has the word, cut to its middle; None without any."""
    for index, sample in enumerate(run.samples):
        captions = extreme_captions(sample.caption, sample.subset.captions, run.placeholder.token)
        caption = next((text for text in captions if run.placeholder.is_in(text)), None)
        if caption is None:
            continue
        item = Item(index, 0, flipped=False)
        ((latent,),) = run.latents.still([(item,)])
        height, width = latent.moments.shape[-2:]
        top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
        moments = latent.moments[None, ..., top : top + SIDE, left : left + SIDE]
        return Batch(
            moments,
            [caption],
            [generator_for("first look")],
            torch.ones(1),
            torch.tensor([run.size_of(item, latent)]),
        )
    return None


@torch.no_grad()
def left_over(run: Run, batch: Batch) -> dict[PredictionType, tuple[float, float]]:
    """The model's error at much noise, and the power of the target, for each target: an error of that power is as if it said nothing.

    The caption is read without the word, which may mean anything where a run goes on.
    """
    schedule = run.parts.schedule
    if not isinstance(schedule, DiffusionSchedule):
        return {}
    latents, noise, timesteps = _noised(run, batch)
    captions = [
        word_pattern([run.placeholder.token]).sub("", caption) for caption in batch.captions
    ]
    with run.autocast():
        cond = run.family.encode(run.parts, captions, batch.sizes)
        prediction = run.family.predict(
            run.parts, schedule.add_noise(latents, noise, timesteps), timesteps, cond
        ).float()
    targets = {
        kind: replace(schedule, prediction_type=kind).target(latents, noise, timesteps)
        for kind in NAMES
    }
    return {
        kind: (float((prediction - target).square().mean()), float(target.square().mean()))
        for kind, target in targets.items()
    }


def gradient(run: Run, batch: Batch) -> Tensor:
    """The word's gradient for an image at much noise, flat, float32, on the CPU; the run's own is left alone."""
    schedule, rows = run.parts.schedule, run.rows
    latents, noise, timesteps = _noised(run, batch)
    with run.autocast():
        cond = run.family.encode(run.parts, batch.captions, batch.sizes)
        prediction = run.family.predict(
            run.parts, schedule.add_noise(latents, noise, timesteps), timesteps, cond
        )
    # A sum, so that fp16 holds its gradient
    loss = (prediction.float() - schedule.target(latents, noise, timesteps)).square().sum()
    found = (
        torch.autograd.grad(loss, rows, allow_unused=True)
        if loss.requires_grad
        else [None] * len(rows)
    )
    parts = [
        (torch.zeros_like(row) if grad is None else grad).float().flatten()
        for row, grad in zip(rows, found, strict=True)
    ]
    return torch.cat(parts).cpu()


def _noised(run: Run, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, noise and timesteps of the look, on the run's device; the same each time."""
    device = run.parts.device
    latents = batch.moments[:, 0] * run.parts.scaling_factor
    noise = torch.randn(latents.shape, generator=generator_for("first look"))
    timesteps = torch.tensor([int(NOISY * run.parts.schedule.num_timesteps)])
    return latents.to(device), noise.to(device), timesteps.to(device)


def wrong_prediction(
    run: Run, left: Mapping[PredictionType, tuple[float, float]]
) -> TrainingError | None:
    """Whether the model predicts noise where v is asked for, or the other way round; one that predicts neither is warned of."""
    asked, source = run.parts.schedule.prediction_type, run.config.model.source
    if asked not in left:
        return None
    (other,) = set(NAMES) - {asked}
    # A pale image's v has less power than noise, and is missed by more
    missed = left[asked][0] / max(1.0, left[asked][1])
    if missed > UNEXPLAINED and left[other][0] < EXPLAINED * left[other][1]:
        what = (
            f"the model predicts {NAMES[other]}, and is trained as if it predicted {NAMES[asked]}"
        )
        add = "add --v_parameterization, and --zero_terminal_snr if the model was trained so"
        hint = (
            add
            if asked == "epsilon"
            else "leave out --v_parameterization, or mend the model's scheduler settings"
        )
        return TrainingError(what, source, hint)
    if missed > WORSE:
        what = f"at much noise the model's error is {missed:.1f} times what predicting nothing would give"
        log.warning(
            "%s",
            Problem(what, source, "see that it draws: coinage generate; the file may be damaged"),
        )
    return None


def wrong_gradient(fast: Tensor, plain: Tensor) -> str:
    """How a gradient differs from that of plain attention, in words; "" where it does not, or there is nothing to compare with."""
    if not torch.isfinite(plain).all() or not plain.norm():
        return ""  # the first steps tell more
    cosine = float(torch.nn.functional.cosine_similarity(fast, plain, dim=0))
    ratio = float(fast.norm() / plain.norm())
    if cosine >= ALIKE and AS_LONG <= ratio <= 1 / AS_LONG:
        return ""
    return f"the attention kernels give a wrong gradient ({ratio:.2f} of the right length, cosine {cosine:.2f})"


@contextmanager
def plain_attention(parts: Components) -> Iterator[None]:
    """Use plain attention for a while."""
    encoders: Sequence[Any] = parts.text_encoders
    kept: dict[str, Any] = dict(parts.denoiser.attn_processors)
    ways = [encoder.config._attn_implementation for encoder in encoders]  # noqa: SLF001 - it has no other name
    use_plain_attention(parts)
    try:
        yield
    finally:
        parts.denoiser.set_attn_processor(kept)
        for encoder, way in zip(encoders, ways, strict=True):
            encoder.set_attn_implementation(way)


def use_plain_attention(parts: Components) -> None:
    """Have UNet and text encoders compute attention step by step, without fused kernels."""
    from diffusers.models.attention_processor import AttnProcessor

    parts.denoiser.set_attn_processor(AttnProcessor())
    for encoder in parts.text_encoders:
        encoder.set_attn_implementation("eager")
