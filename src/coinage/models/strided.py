"""Convolve every second pixel with a frozen 3x3 weight as one matrix product, in float32 on a CPU.

oneDNN lays the weight out anew for the gradient, which takes longer than the product. Here pixels and
their neighbours are the rows of a matrix, and the gradient's product reads the same weight the other
way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SIDE, STRIDE = 3, 2
TOLERANCE = 1e-5  # of the largest number


@dataclass(frozen=True, slots=True)
class ColumnWeight:
    """A 3x3 weight as the matrix that pixels and their neighbours are multiplied with.

    Attributes:
        forward: [9 * I, O], float32.
        shape: of the weight: [O, I, 3, 3].
    """

    forward: Tensor
    shape: torch.Size
    dtype: torch.dtype = torch.float32
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, layer: nn.Conv2d) -> ColumnWeight:
        """Reorder a layer's weight."""
        weight = layer.weight.detach()
        return cls(weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), weight.shape)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of [B, I, H, W] with a gradient to it: [B, O, H / 2, W / 2], rounded up."""
        y: Tensor = _Convolution.apply(x, bias, self)  # type: ignore[no-untyped-call]
        return y

    def plain(self) -> Tensor:
        """Return a copy of the weight as PyTorch keeps it, the same bit for bit."""
        outputs, inputs = self.shape[:2]
        weight = self.forward.view(SIDE, SIDE, inputs, outputs)
        return weight.permute(3, 2, 0, 1).contiguous()

    def __deepcopy__(self, memo: object) -> ColumnWeight:
        """Share what nobody changes."""
        return self


class _Convolution(torch.autograd.Function):
    """The convolution, and the gradient to the picture; both in memory order [B, H, W, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: ColumnWeight) -> Tensor:
        ctx.weight, ctx.shape = weight, x.shape
        batch, channels, height, width = x.shape
        padded = x.new_zeros(batch, height + 2, width + 2, channels)
        padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
        pixels = padded.unfold(1, SIDE, STRIDE).unfold(2, SIDE, STRIDE).permute(0, 1, 2, 4, 5, 3)
        rows = pixels.reshape(-1, len(weight.forward))
        y = rows @ weight.forward if bias is None else torch.addmm(bias, rows, weight.forward)
        return y.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        batch, channels, height, width = ctx.shape
        grad = grads[0].permute(0, 2, 3, 1)
        rows, columns = grad.shape[1:3]
        pixels = grad.reshape(-1, grad.shape[3]) @ ctx.weight.forward.t()
        pixels = pixels.view(batch, rows, columns, SIDE, SIDE, channels)
        padded = grad.new_zeros(batch, height + 2, width + 2, channels)
        for i in range(SIDE):
            for j in range(SIDE):
                seen = padded[:, i : i + STRIDE * rows : STRIDE, j : j + STRIDE * columns : STRIDE]
                seen += pixels[:, :, :, i, j]
        return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2), None, None
