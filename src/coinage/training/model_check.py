"""Check before the first step that the model predicts what is expected, with right gradients."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from coinage.config import PredictionType
from coinage.data.captions import extreme_captions
from coinage.diffusion.schedule import DiffusionSchedule
from coinage.errors import Problem, TrainingError
from coinage.models.attention import plain_attention, use_plain_attention
from coinage.models.prediction import NAMES
from coinage.seeding import generator_for
from coinage.text.placeholder import word_pattern
from coinage.training.batches import Batch, FixedUse, fixed_batches
from coinage.training.kernel_memory import kernel_facts, remember, were_right
from coinage.training.observers.watchdog import tell_or_stop
from coinage.training.run import Run

log = logging.getLogger("coinage")
SIDE = 32  # latents; a part from the middle is enough to judge by
MUCH_NOISE = 0.7  # of the timesteps: there a noise and a v differ most, and a picture still shows
EXPLAINED = 0.5  # share of a target's power that is left over: below, a model predicts it
UNEXPLAINED = 0.7  # above, it does not
WORSE_THAN_NOTHING = 1.5  # above, the prediction is worse than none
# Least cosine of two right gradients, and least ratio of their lengths. In a hundred healthy runs
# rounding to bf16 made 0.94 and 0.87, weights in 8 bits no less.
LEAST_COSINE, LEAST_RATIO = 0.7, 0.5


def check_model(run: Run) -> None:
    """Check the model on one image, the same in every process; draws nothing that the run draws.

    What is wrong in one process counts for all. Attention kernels with a wrong gradient are
    replaced by plain attention.

    Args:
        run: before its first step in this process; of several runs on a model, any one.

    Raises:
        TrainingError: the model predicts something else than it is trained for, unless `--on_problem warn`.
    """
    batch = image_with_word(run)
    if batch is None:
        return
    with _uncompiled(run):
        remaining_errors = left_over(run, batch)
        kernel_problem = _kernel_problem(run, batch)
    verdicts = run.processes.gather((wrong_prediction(run, remaining_errors), kernel_problem))
    kernel_problems = [what for _, what in verdicts if what]
    if kernel_problems:
        use_plain_attention(run.parts)
        hint = (
            "plain attention is used instead, which takes more memory; "
            "another version of torch or of the driver may fix it"
        )
        log.warning("%s", Problem(kernel_problems[0], str(run.parts.device), hint))
    prediction_problems = [problem for problem, _ in verdicts if problem]
    if prediction_problems:
        tell_or_stop(prediction_problems[0], run.config.loop.on_problem)


def _kernel_problem(run: Run, batch: Batch) -> str:
    """Describe how the attention kernels' gradient is wrong; "" where it is right, now or in a run before."""
    facts = kernel_facts(run, batch)
    known = run.processes.gather(were_right(facts))
    if all(known):
        log.debug("the attention kernels gave a right gradient before, and are as they were")
        return ""
    fused = gradient(run, batch)
    with plain_attention(run.parts):
        plain = gradient(run, batch)
    problem = wrong_gradient(fused, plain)
    if not problem and can_be_compared(plain):
        remember(facts)
    return problem


def _uncompiled(run: Run) -> AbstractContextManager[object]:
    """Leave the compiler out for a while, where it is used: it would take minutes for one small image."""
    eager: AbstractContextManager[object] = nullcontext()
    if run.config.model.compile_backend:
        eager = torch.compiler.set_stance("force_eager")
    return eager


def image_with_word(run: Run) -> Batch | None:
    """Return the middle of the first image whose caption has the word, at much noise; None without any."""
    for index, sample in enumerate(run.samples):
        captions = extreme_captions(sample.caption, sample.subset.captions, run.placeholder.token)
        with_word = [caption for caption in captions if run.placeholder.is_in(caption)]
        if with_word:
            generator = generator_for("first look")
            use = FixedUse(index, with_word[0], run.parts.schedule.time_at(MUCH_NOISE), [generator])
            (batch,) = fixed_batches(run, [use])
            return replace(batch, moments=_middle_of(batch.moments), mask=None)
    return None


def _middle_of(latents: Tensor) -> Tensor:
    height, width = latents.shape[-2:]
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    return latents[..., top : top + SIDE, left : left + SIDE]


@torch.no_grad()
def left_over(run: Run, batch: Batch) -> dict[PredictionType, tuple[float, float]]:
    """Return, for each kind of target, the power of the model's error and that of the target.

    An error as large as the target is no better than a prediction of nothing. The caption is read
    without the word, which may mean anything where a run goes on.
    """
    schedule = run.parts.schedule
    if not isinstance(schedule, DiffusionSchedule):
        return {}
    latents, noise, timesteps = _noised(run, batch)
    pattern = word_pattern(word.token for word in run.parts.word_encoders[0].placeholders)
    captions = [pattern.sub("", caption) for caption in batch.captions]
    with run.autocast():
        cond = run.family.encode(run.parts, captions, batch.sizes)
        noisy_latents = schedule.add_noise(latents, noise, timesteps)
        prediction = run.family.predict(run.parts, noisy_latents, timesteps, cond).float()
    powers: dict[PredictionType, tuple[float, float]] = {}
    for kind in NAMES:
        target = replace(schedule, prediction_type=kind).target(latents, noise, timesteps)
        error = float((prediction - target).square().mean())
        powers[kind] = error, float(target.square().mean())
    return powers


def gradient(run: Run, batch: Batch) -> Tensor:
    """Return the word's gradient for an image at much noise, flat, float32, on the CPU.

    The gradients of the rows themselves are left alone.
    """
    schedule, rows = run.parts.schedule, run.trained_rows
    latents, noise, timesteps = _noised(run, batch)
    with run.autocast():
        cond = run.family.encode(run.parts, batch.captions, batch.sizes)
        noisy_latents = schedule.add_noise(latents, noise, timesteps)
        prediction = run.family.predict(run.parts, noisy_latents, timesteps, cond)
    # A sum, so that fp16 holds its gradient
    loss = (prediction.float() - schedule.target(latents, noise, timesteps)).square().sum()
    gradients: list[Tensor | None] = [None] * len(rows)
    if loss.requires_grad:
        gradients = list(torch.autograd.grad(loss, rows, allow_unused=True))
    flat = []
    for row, row_gradient in zip(rows, gradients, strict=True):
        flat.append((torch.zeros_like(row) if row_gradient is None else row_gradient).flatten())
    return torch.cat([part.float() for part in flat]).cpu()


def _noised(run: Run, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, noise and timesteps of the check, on the model's device; the same each time."""
    device = run.parts.device
    batch.rewind()
    latents = run.parts.scaled(batch.moments[:, 0])
    noise = torch.randn(latents.shape, generator=batch.generators[0])
    timesteps = run.parts.schedule.time_at(MUCH_NOISE)
    return latents.to(device), noise.to(device), timesteps.to(device)


def wrong_prediction(
    run: Run, powers: Mapping[PredictionType, tuple[float, float]]
) -> TrainingError | None:
    """Return the error of a model that predicts noise where v is expected, or the other way round.

    Warns of a model that predicts neither.

    Args:
        run: whose model it is.
        powers: as `left_over` returns them.
    """
    source = run.config.model.source
    if run.parts.schedule.prediction_type not in powers:
        return None
    expected: PredictionType = "epsilon"
    other: PredictionType = "v_prediction"
    if run.parts.schedule.prediction_type != expected:
        expected, other = other, expected
    error, power = powers[expected]
    other_error, other_power = powers[other]
    # A pale image's v has less power than noise, and is missed by more
    missed = error / max(1.0, power)
    if missed > UNEXPLAINED and other_error < EXPLAINED * other_power:
        what = f"the model predicts {NAMES[other]}, but is trained as if it predicted {NAMES[expected]}"
        if expected == "epsilon":
            hint = (
                "add --v_parameterization, and --zero_terminal_snr if the model was trained with it"
            )
        else:
            hint = "leave out --v_parameterization, or correct the model's scheduler settings"
        return TrainingError(what, source, hint)
    if missed > WORSE_THAN_NOTHING:
        what = f"at high noise the model's error is {missed:.1f} times that of predicting nothing"
        hint = "the file may be damaged: draw a picture with it (coinage generate)"
        log.warning("%s", Problem(what, source, hint))
    return None


def can_be_compared(plain: Tensor) -> bool:
    """Return whether a gradient says anything."""
    return bool(torch.isfinite(plain).all() and plain.norm())


def wrong_gradient(fused: Tensor, plain: Tensor) -> str:
    """Describe how a gradient differs from that of plain attention; "" where it does not."""
    if not can_be_compared(plain):
        return ""  # the first steps will say more
    cosine = float(torch.nn.functional.cosine_similarity(fused, plain, dim=0))
    ratio = float(fused.norm() / plain.norm())
    if cosine >= LEAST_COSINE and LEAST_RATIO <= ratio <= 1 / LEAST_RATIO:
        return ""
    return (
        "the attention kernels give a wrong gradient "
        f"({ratio:.2f} of the right length, cosine {cosine:.2f})"
    )
