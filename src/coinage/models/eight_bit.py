"""Keep frozen weights in 8 bits, half of what bf16 takes; they are converted where they are used."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

# 4 bits of exponent, 3 of mantissa (Micikevicius et al. 2022, arXiv:2209.05433)
STORED = torch.float8_e4m3fn


class _Linear(torch.autograd.Function):
    """A linear layer that keeps its 8-bit weight for the backward pass, not the one that it computed with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return grads[0] @ weight.to(grads[0].dtype), None, None


class _Convolution(torch.autograd.Function):
    """The same for a convolution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.layer, ctx.shape = layer, x.shape
        return F.conv2d(
            x, weight.to(x.dtype), bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,), layer = ctx.saved_tensors, ctx.layer
        weight = weight.to(grads[0].dtype)
        given = conv2d_input(
            ctx.shape, weight, grads[0], layer.stride, layer.padding, layer.dilation, layer.groups
        )
        return given, None, None, None


class EightBitLinear(nn.Linear):
    """A linear layer whose weight is kept in 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        x = _as_autocast(x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        result: Tensor = _Linear.apply(x, self.weight, bias)  # type: ignore[no-untyped-call]
        return result


class EightBitConvolution(nn.Conv2d):
    """A convolution whose weight is kept in 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        x = _as_autocast(x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        result: Tensor = _Convolution.apply(x, self.weight, bias, self)  # type: ignore[no-untyped-call]
        return result


def _as_autocast(x: Tensor) -> Tensor:
    """Convert an input to the dtype that autocast would compute with."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def keep_in_eight_bits(module: nn.Module) -> None:
    """Store the weights of a frozen module's linear and convolution layers in 8 bits.

    Biases and norms stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            _store(layer, EightBitLinear)
        elif isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
            _store(layer, EightBitConvolution)


def _store(layer: nn.Linear | nn.Conv2d, kind: type) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().to(STORED), requires_grad=False)
    layer.__class__ = kind
