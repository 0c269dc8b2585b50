"""Compute a doubling of a picture and the 3x3 convolution after it from the small picture, on a CPU.

Each pixel is copied to four before the convolution, so that of its nine products for a new pixel only
four have different factors: those of equal pixels can be added up beforehand, among the weights. What
is computed is the same but for rounding (the sub-pixel convolution of Shi et al. 2016,
arXiv:1609.07009). This is for bf16: in float32, `winograd` takes no more products, and less memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from coinage.models.frozen import as_autocast
from coinage.models.relaid import (
    TOLERANCE,
    Layouts,
    computes,
    is_fit,
    is_for_winograd,
    relative_errors,
)

# How the three weights of a row meet the two pixels of the small picture, for each new pixel's parity
FOLDS = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


class _Interleave(torch.autograd.Function):
    """Put four pictures' pixels side by side: [B, 4 * C, H + 1, W + 1] to [B, C, 2 * H, 2 * W]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.shape = z.shape
        batch, channels, height, width = z.shape
        y = _picture((batch, channels // 4, 2 * height - 2, 2 * width - 2), z)
        for phase, small in zip(PHASES, z.chunk(4, dim=1), strict=True):
            _of_phase(y, phase).copy_(_window(small, phase))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        z = _picture(ctx.shape, grads[0]).zero_()
        for phase, small in zip(PHASES, z.chunk(4, dim=1), strict=True):
            _window(small, phase).copy_(_of_phase(grads[0], phase))
        return z


class FoldedUpsample(Upsample2D):  # type: ignore[misc]
    """An upsampler with its convolution's weights added up in `layouts`: [4 * O, I, 2, 2]."""

    layouts: Layouts

    def forward(
        self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the doubled and convolved picture, [B, O, 2 * H, 2 * W], or of another size if asked."""
        x = as_autocast(hidden_states)
        height, width = x.shape[-2:]
        doubles = output_size is None or tuple(output_size) == (2 * height, 2 * width)
        if not doubles or not computes(self.layouts, x):
            other: Tensor = super().forward(hidden_states, output_size, *args, **kwargs)
            return other
        return folded(x, cast(nn.Conv2d, self.conv).bias, self.layouts)


def fold_upsamplers(unet: nn.Module) -> list[nn.Module]:
    """Make the upsamplers of a frozen UNet on a CPU compute from the small picture, in place.

    One whose result is not the plain one's stays as it is.

    Returns:
        The convolutions that are no longer used, except where a picture is not just doubled.
    """
    unused: list[nn.Module] = []
    for layer in unet.modules():
        if type(layer) is Upsample2D and _is_simple(layer):
            layouts = _right_layouts(layer)
            if layouts:
                layer.__class__ = FoldedUpsample
                cast(FoldedUpsample, layer).layouts = layouts
                unused.append(cast(nn.Conv2d, layer.conv))
    return unused


def folded(x: Tensor, bias: Tensor | None, layouts: Layouts) -> Tensor:
    """Return the doubled and convolved picture, [B, O, 2 * H, 2 * W], of [B, I, H, W]."""
    repeated = None if bias is None else bias.to(x).repeat(4)
    y: Tensor = _Interleave.apply(layouts.product(x, repeated))  # type: ignore[no-untyped-call]
    return y


def folded_layouts(convolution: nn.Conv2d) -> Layouts:
    """Return the layouts of a 3x3 convolution's weight, added up for each place of a new pixel."""
    weight = convolution.weight.detach().float()
    folds = FOLDS.to(weight)
    of_phases = [
        torch.einsum("oihw,uh,vw->oiuv", weight, folds[row], folds[column])
        for row, column in PHASES
    ]
    return Layouts.of_weight(torch.cat(of_phases).to(convolution.weight.dtype), (1, 1))


def _is_simple(layer: Upsample2D) -> bool:
    """Return whether an upsampler doubles a picture and convolves it, and nothing else."""
    convolution = getattr(layer, "conv", None)
    return (
        layer.norm is None
        and layer.interpolate
        and isinstance(convolution, nn.Conv2d)
        and convolution.kernel_size == (3, 3)
        and is_fit(convolution)
        and not is_for_winograd(convolution)
    )


@torch.enable_grad()
def _right_layouts(layer: Upsample2D) -> Layouts | None:
    """Return the layouts of an upsampler, None where output or gradient are not the plain layer's."""
    convolution = cast(nn.Conv2d, layer.conv)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, layer.channels, 3, 2, generator=generator)
    x = x.to(convolution.weight.dtype).requires_grad_()
    try:
        layouts = folded_layouts(convolution)
        found = folded(x, convolution.bias, layouts)
        larger = F.interpolate(x, scale_factor=2.0, mode="nearest")
        expected = F.conv2d(larger, convolution.weight, convolution.bias, padding=1)
        errors = relative_errors(found, expected, x)
    except (RuntimeError, AttributeError, TypeError):
        return None  # the plain layers' check tells why
    return layouts if max(errors) <= TOLERANCE[layouts.dtype] else None


def _picture(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return room for a picture in memory order [B, H, W, C]."""
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _of_phase(picture: Tensor, phase: tuple[int, int]) -> Tensor:
    """Return every second pixel of [B, C, 2 * H, 2 * W], both ways."""
    row, column = phase
    return picture[:, :, row::2, column::2]


def _window(small: Tensor, phase: tuple[int, int]) -> Tensor:
    """Return the part of [B, C, H + 1, W + 1] that belongs to a place of the new pixels."""
    row, column = phase
    height, width = small.shape[-2:]
    return small[:, :, row : height - 1 + row, column : width - 1 + column]
