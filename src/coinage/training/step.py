"""One forward pass: captions and latents to a loss.

`prepare` does what the CPU does, and `compute` what the device does: all random numbers are drawn,
and all captions are looked up, before the device gets its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coinage.config import NoiseConfig
from coinage.diffusion.noise import draw_noise, perturb
from coinage.models.base import Components, ModelFamily
from coinage.models.text_cache import TextInputs, encode_inputs, look_up
from coinage.training.batches import Batch
from coinage.training.losses import Loss, LossInputs, checked_losses
from coinage.training.prior import PriorInputs, prior_inputs, prior_prediction
from coinage.training.transfer import upload


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses of a batch: `per_sample` [B] float32 with gradient, at `timesteps` [B]."""

    per_sample: Tensor
    timesteps: Tensor

    def split(self, sizes: Sequence[int]) -> list[StepResult]:
        """Return the results of the batches that were joined, given their sizes."""
        losses = self.per_sample.split(list(sizes))
        timesteps = self.timesteps.split(list(sizes))
        return [StepResult(*pair) for pair in zip(losses, timesteps, strict=True)]


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn for a batch of B samples: all [B, C, h, w] float32, but `times` [B].

    Attributes:
        latents: scaled.
        noise: that the model is to predict.
        added: to the latents; another tensor than `noise` only where that is perturbed.
        times: as the schedule has them.
    """

    latents: Tensor
    noise: Tensor
    added: Tensor
    times: Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a forward pass reads, on one device.

    Attributes:
        latents: as in `Draws`; so are the next two, and `times`.
        noise: see above.
        added: None where it is `noise`.
        times: see above.
        weights: factor of each sample's loss, [B] float32.
        mask: weight of each latent in the loss, [B, 1, h, w] float32; None where all count alike.
        text: what the captions are encoded from.
        prior: what the model's own predictions are made from; None where none is asked for.
    """

    latents: Tensor
    noise: Tensor
    added: Tensor | None
    times: Tensor
    weights: Tensor
    mask: Tensor | None
    text: TextInputs
    prior: PriorInputs | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return inputs whose tensors are what `change` makes of these, in a fixed order."""
        return Inputs(
            latents=change(self.latents),
            noise=change(self.noise),
            added=None if self.added is None else change(self.added),
            times=change(self.times),
            weights=change(self.weights),
            mask=None if self.mask is None else change(self.mask),
            text=self.text.mapped(change),
            prior=None if self.prior is None else self.prior.mapped(change),
        )

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in the order of `mapped`."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.mapped(note)
        return found

    def on(self, device: torch.device) -> Inputs:
        """Return the same inputs on a device, after a single copy."""
        moved: Iterator[Tensor] = iter(upload(self.tensors(), device))
        return self.mapped(lambda _: next(moved))


@dataclass(frozen=True, slots=True)
class NoisedLatents:
    """Input and target of the UNet: all [B, C, h, w] float32 on its device, but `timesteps` [B]."""

    noisy_latents: Tensor
    noise: Tensor
    target: Tensor
    timesteps: Tensor


def draw(parts: Components, batch: Batch, config: NoiseConfig) -> Draws:
    """Draw latents, noise, timesteps where the batch has none, and perturbations, in this order.

    Everything is on the CPU, and comes from the batch's generators.
    """
    mean, std = batch.moments.unbind(dim=1)
    posterior = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in batch.generators])
    latents = parts.scaled(mean + std * posterior)
    noise = draw_noise(latents, config, batch.generators)
    times = batch.timesteps
    if times is None:
        schedule = parts.schedule.at_size(*latents.shape[-2:])
        times = schedule.draw_times(config, batch.generators)
    return Draws(latents, noise, perturb(noise, config, batch.generators), times)


def prepare(family: ModelFamily, parts: Components, batch: Batch, config: NoiseConfig) -> Inputs:
    """Draw what a forward pass needs, and bring it to the model's device.

    The CPU does not wait for the device, unless a caption without a word is met for the first time
    and its encoding is to be kept.
    """
    draws = draw(parts, batch, config)
    inputs = Inputs(
        latents=draws.latents,
        noise=draws.noise,
        added=None if draws.added is draws.noise else draws.added,
        times=draws.times,
        weights=batch.weights,
        mask=batch.mask,
        text=look_up(family, parts, batch.captions, batch.sizes),
        prior=prior_inputs(family, parts, batch.priors, batch.sizes),
    )
    return inputs.on(parts.device)


def noised(parts: Components, inputs: Inputs) -> NoisedLatents:
    """Add the noise of prepared inputs to their latents, on the device."""
    schedule, latents, times = parts.schedule, inputs.latents, inputs.times
    added = inputs.noise if inputs.added is None else inputs.added
    return NoisedLatents(
        noisy_latents=schedule.add_noise(latents, added, times),
        noise=inputs.noise,
        target=schedule.target(latents, inputs.noise, times),
        timesteps=times,
    )


def compute(family: ModelFamily, parts: Components, inputs: Inputs, loss: Loss) -> StepResult:
    """Noise the latents, predict, and compare (Rombach et al. 2022, arXiv:2112.10752, eq. 3).

    With the built-in loss the CPU never waits for the device.
    """
    latents = noised(parts, inputs)
    noisy, times, target, prior = latents.noisy_latents, latents.timesteps, latents.target, None
    if inputs.prior is not None:
        prior = prior_prediction(family, parts, inputs.prior, noisy, times, target)
        target = torch.where(inputs.prior.whole.view(-1, 1, 1, 1), prior, target)
    cond = encode_inputs(family, parts, inputs.text)
    loss_inputs = LossInputs(
        prediction=family.predict(parts, noisy, times, cond),
        target=target,
        noisy_latents=latents.noisy_latents,
        noise=latents.noise,
        times=latents.timesteps,
        schedule=parts.schedule,
        mask=inputs.mask,
        prior=prior,
    )
    losses = checked_losses(loss, loss_inputs)
    return StepResult(losses * inputs.weights, latents.timesteps)


def forward(
    family: ModelFamily, parts: Components, batch: Batch, noise_config: NoiseConfig, loss: Loss
) -> StepResult:
    """Prepare a batch, and compute its losses."""
    return compute(family, parts, prepare(family, parts, batch, noise_config), loss)
