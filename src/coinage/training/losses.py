"""The training loss: the inputs of any loss, and the built-in one that follows the configuration."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coinage.config import LossConfig
from coinage.diffusion.loss import loss_per_sample
from coinage.diffusion.schedule import NoiseSchedule
from coinage.errors import CoinageError, TrainingError, described, full_name
from coinage.system.full_memory import is_full


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Everything that a loss may use, for a batch of B samples on the model's device.

    Attributes:
        prediction: output of the UNet, [B, C, h, w], any float dtype, with gradient.
        target: what it should be, [B, C, h, w] float32; of a prior-prediction subset what the model
            predicts without the word.
        noisy_latents: input of the UNet, [B, C, h, w] float32.
        noise: that was added, without the perturbations of the input, [B, C, h, w] float32.
        times: [B], as the schedule has them: steps, int64, in discrete diffusion.
        schedule: of the noise; says what `target` is, and how much signal is left at each time.
        mask: weight of each latent, [B, 1, h, w] float32 in 0..1; None where all count alike.
        prior: what the model predicts without the word, for samples whose hidden parts are held to it,
            and the target of the others, [B, C, h, w] float32; None where no sample is.
    """

    prediction: Tensor
    target: Tensor
    noisy_latents: Tensor
    noise: Tensor
    times: Tensor
    schedule: NoiseSchedule
    mask: Tensor | None
    prior: Tensor | None = None


class Loss(Protocol):
    """A training loss: any callable that returns one loss per sample, [B], differentiable in `prediction`.

    Weights of subsets and of regularisation images are multiplied onto what it returns.
    """

    def __call__(self, inputs: LossInputs, /) -> Tensor:
        """Return the loss of each sample, [B]."""
        ...


@dataclass(frozen=True, slots=True)
class ConfiguredLoss:
    """The built-in loss; `config` chooses the error and its weights."""

    config: LossConfig

    def __call__(self, inputs: LossInputs, /) -> Tensor:
        """Return the mean error of each sample times its weight, [B] float32."""
        return loss_per_sample(
            inputs.prediction,
            inputs.target,
            inputs.times,
            inputs.schedule,
            self.config,
            inputs.mask,
            inputs.prior,
        )


EVALUATION_LOSS = ConfiguredLoss(
    LossConfig()
)  # mean squared error, so that settings can be compared


def identity_of(loss: Loss) -> Hashable:
    """Return a key that two losses share only if they are the same: by configuration, or as objects."""
    return loss.config if isinstance(loss, ConfiguredLoss) else id(loss)


def name_of(loss: Loss) -> str:
    """Return module and name of a user's loss, for saved states; "" for the built-in one."""
    if isinstance(loss, ConfiguredLoss):
        return ""
    return full_name(loss)


def checked_losses(loss: Loss, inputs: LossInputs) -> Tensor:
    """Compute a batch's losses, [B] float32.

    Raises:
        TrainingError: a user's loss fails, or returns something other than one number per sample
            that depends on the prediction.
    """
    if isinstance(loss, ConfiguredLoss):
        return loss(inputs).float()
    losses = _called(loss, inputs)
    wanted = list(inputs.times.shape)
    returned = f"the loss {name_of(loss)} returned"
    hint = f"return one loss per sample, shape {wanted}"
    if not isinstance(losses, Tensor):
        raise TrainingError(f"{returned} {type(losses).__name__}, not a tensor", hint=hint)
    if list(losses.shape) != wanted:
        hint += ": take the mean over the other dimensions"
        raise TrainingError(f"{returned} a tensor of shape {list(losses.shape)}", hint=hint)
    if not losses.is_floating_point():
        raise TrainingError(f"{returned} {losses.dtype}, not floating-point numbers", hint=hint)
    if losses.device != inputs.times.device:
        what = f"{returned} a tensor on {losses.device}, and the model is on {inputs.times.device}"
        raise TrainingError(what, hint="compute the loss from the tensors of `LossInputs`")
    if inputs.prediction.requires_grad and torch.is_grad_enabled() and not losses.requires_grad:
        hint = "compute it from `inputs.prediction`, without detach(), no_grad() or NumPy"
        raise TrainingError(f"{returned} numbers without a gradient", hint=hint)
    return losses.float()


def _called(loss: Loss, inputs: LossInputs) -> object:
    """Call a user's loss.

    Raises:
        TrainingError: it fails for another reason than full memory.
    """
    try:
        return loss(inputs)
    except Exception as error:
        if isinstance(error, CoinageError) or is_full(error):
            raise
        what = f"the loss {name_of(loss)} failed: {described(error)}"
        hint = "it is called with one argument, `LossInputs`"
        raise TrainingError(what, hint=hint) from error
