"""A look at the model before the first step: whether it predicts what is asked of it, and whether its gradients are right."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from coinage.config import PredictionType
from coinage.diffusion.schedule import DiffusionSchedule
from coinage.errors import TrainingError
from coinage.families.base import Components
from coinage.families.kept_text import encode
from coinage.seeding import generator_for
from coinage.training.observers import Observer
from coinage.training.setup import Run
from coinage.training.step import Batch
from coinage.training.watchdog import OnProblem, tell_or_stop

log = logging.getLogger("coinage")
SIDE = 32  # latents; a part from the middle is enough to tell
NOISY = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85)  # of the timesteps: there a noise and a v differ most, and a picture still shows
EXPLAINED = 0.5  # share of a target's power that is left: below, a model predicts it
UNEXPLAINED = 0.7  # above, it does not
WORSE = 1.5  # above, it says worse than nothing
ALIKE = 0.9  # least cosine of two right gradients, and least ratio of their lengths
NAMES: dict[PredictionType, str] = {"epsilon": "the noise", "v_prediction": "v"}


class FirstLook(Observer):
    """Looks once, before the first step; draws nothing that the run draws."""

    def __init__(self, on_problem: OnProblem) -> None:
        self._on_problem = on_problem

    def started(self, run: Run) -> None:
        """Look.

        Raises:
            TrainingError: the model predicts something else, and that ends the run.
        """
        batch = _first_image(run)
        found = None
        # Compiling for one small look would take minutes.
        with torch.compiler.set_stance("force_eager") if run.config.model.compile_backend else nullcontext():
            if batch is not None:
                found = _wrong_prediction(run, batch)
                check_attention(run, batch)
        problem = next((each for each in run.processes.gather(found) if each), None)
        if problem:
            tell_or_stop(problem, self._on_problem)


def _first_image(run: Run) -> Batch | None:
    """The next update's first image whose caption has the word, cut to its middle; None where this process has none there."""
    for work in run.updates(run.epoch - 1, run.done):
        for batch in work.batches:
            for i, caption in enumerate(batch.captions):
                if run.parts.word_encoders[0].mentions(caption):
                    height, width = batch.moments.shape[-2:]
                    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
                    moments = batch.moments[i : i + 1, ..., top : top + SIDE, left : left + SIDE]
                    return Batch(moments, [caption], [generator_for("first look")], torch.ones(1), batch.sizes[i : i + 1])
        break
    return None


@torch.no_grad()
def _wrong_prediction(run: Run, batch: Batch) -> TrainingError | None:
    """Whether the model predicts noise where v is asked for, the other way round, or neither."""
    schedule = run.parts.schedule
    if not isinstance(schedule, DiffusionSchedule):
        return None
    left = _left_over(run, batch, schedule)
    asked = schedule.prediction_type
    (other,) = set(NAMES) - {asked}
    if left[asked] > UNEXPLAINED and left[other] < EXPLAINED:
        what = f"the model predicts {NAMES[other]}, and is trained as if it predicted {NAMES[asked]}"
        hint = (
            "add --v_parameterization" if asked == "epsilon" else "leave out --v_parameterization, or mend the model's scheduler settings"
        )
        return TrainingError(what, run.config.model.source, hint)
    if left[asked] > WORSE:
        what = f"at much noise the model's error is {left[asked]:.1f} times what predicting nothing would give"
        log.warning("%s", TrainingError(what, run.config.model.source, "see that it draws: coinage generate; the file may be damaged"))
    return None


def _left_over(run: Run, batch: Batch, schedule: DiffusionSchedule) -> dict[PredictionType, float]:
    """The model's error at much noise, as a share of the power of each target: 0 is perfect, 1 is as if it said nothing."""
    device, count = run.parts.device, len(NOISY)
    latents = (batch.moments[:, 0] * run.parts.scaling_factor).expand(count, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=generator_for("first look")).to(device)
    latents = latents.to(device)
    timesteps = torch.tensor([int(share * schedule.num_timesteps) for share in NOISY], device=device)
    with run.autocast():
        cond = encode(run.family, run.parts, [*batch.captions] * count, batch.sizes.expand(count, -1))
        prediction = run.family.predict(run.parts, schedule.add_noise(latents, noise, timesteps), timesteps, cond).float()
    targets = {kind: replace(schedule, prediction_type=kind).target(latents, noise, timesteps) for kind in NAMES}
    return {kind: float((prediction - target).square().mean() / target.square().mean()) for kind, target in targets.items()}


def check_attention(run: Run, batch: Batch) -> None:
    """Compare the word's gradient with that of plain attention; where the fast kernels lose it, plain attention is used from now on."""
    fast = _gradient(run, batch)
    with plain_attention(run.parts):
        plain = _gradient(run, batch)
    if not torch.isfinite(plain).all() or not plain.norm():
        return  # nothing to compare with; the first steps tell more
    cosine = float(torch.nn.functional.cosine_similarity(fast, plain, dim=0))
    ratio = float(fast.norm() / plain.norm())
    if cosine >= ALIKE and ALIKE <= ratio <= 1 / ALIKE:
        return
    use_plain_attention(run.parts)
    hint = "plain attention is used instead, which takes more memory; another torch or driver may mend it"
    what = f"the attention kernels give a wrong gradient ({ratio:.2f} of the right length, cosine {cosine:.2f})"
    log.warning("%s", TrainingError(what, str(run.parts.device), hint))


def _gradient(run: Run, batch: Batch) -> Tensor:
    """The word's gradient for one image at half of the noise, flat, float32; the run's own is left alone."""
    schedule, rows = run.parts.schedule, run.parts.rows()
    generator = generator_for("first look")
    latents = (batch.moments[:, 0] * run.parts.scaling_factor).to(run.parts.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    timesteps = torch.tensor([schedule.num_timesteps // 2], device=latents.device)
    with run.autocast():
        cond = encode(run.family, run.parts, batch.captions, batch.sizes)
        prediction = run.family.predict(run.parts, schedule.add_noise(latents, noise, timesteps), timesteps, cond)
    loss = (prediction.float() - schedule.target(latents, noise, timesteps)).square().sum()  # a sum, so that fp16 holds its gradient
    if not loss.requires_grad:
        return torch.zeros(sum(map(torch.Tensor.numel, rows)))
    found = torch.autograd.grad(loss, rows, allow_unused=True)
    return torch.cat([(torch.zeros_like(row) if grad is None else grad).float().flatten() for row, grad in zip(rows, found, strict=True)])


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
