"""Keep frozen weights in 8 bits, half of what bf16 takes; they are converted where they are used.

An output channel has whole numbers from -127 to 127 and one scale, as in LLM.int8() (Dettmers et al.
2022, arXiv:2208.07339). That rounds by 0.75 % of a weight's usual size in any layer; floats of 8
bits (e4m3) do by 2.7 % at best, and by 11 % where weights are as small as 0.005.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from coinage.models.facts import stays_whole
from coinage.models.frozen import FrozenConvolution, FrozenLinear, plain_layers

STORED = torch.int8
LARGEST = 127  # -128 is left out, so that both signs reach equally far


class _EightBits(nn.Module):
    """What the layers below share.

    Attributes:
        weight: [out, ...] int8.
        scale: [out, 1, ...] float32, whatever the layer is converted to.
    """

    weight: Tensor
    scale: Tensor

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """Return the weight that the layer stands for.

        It is scaled before the product, not after: sums of 8-bit numbers leave the range of fp16.
        """
        # One kernel multiplies in float32 and rounds once
        made = torch.empty(self.weight.shape, dtype=dtype, device=self.weight.device)
        return torch.mul(self.weight, self.scale, out=made)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scale = scale.to(self.scale.device)
        return self


class EightBitLinear(_EightBits, FrozenLinear):
    """A linear layer whose weight is kept in 8 bits."""


class EightBitConvolution(_EightBits, FrozenConvolution):
    """A convolution whose weight is kept in 8 bits."""


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight in 8 bits, and its scale.

    What is not finite makes its whole channel not a number, which the first loss will show.

    Args:
        weight: [out, ...] of a floating-point dtype.

    Returns:
        The numbers, [out, ...] int8, and what they are to be multiplied by, [out, 1, ...] float32.
    """
    exact = weight.detach().float()
    most = exact.flatten(1).norm(torch.inf, dim=1).view(-1, *[1] * (exact.ndim - 1))
    # No division by 0 in a channel of zeros
    scale = (most / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    return (exact / scale).round_().to(STORED), scale


def keep_in_eight_bits(module: nn.Module) -> None:
    """Store the weights of a frozen module's linear and convolution layers in 8 bits.

    Biases, norms, embedding tables and convolutions from or to latents stay as they are, and so do
    layers that are in 8 bits already.

    Args:
        module: any, on any device; it is changed in place.
    """
    for layer in plain_layers(module):
        if stays_whole(layer.weight.shape):
            continue
        weight, scale = rounded(layer.weight)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.register_buffer("scale", scale)
        layer.__class__ = EightBitLinear if isinstance(layer, nn.Linear) else EightBitConvolution
