"""Linear layers and convolutions whose weight never learns, and may be kept in another form or place.

The backward pass asks the layer for its weight anew, instead of keeping what the forward pass
computed with. Nor is the input kept, which only a weight that learns would need.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


class FrozenLinear(nn.Linear):
    """A linear layer with a frozen weight."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Linear.apply(_as_autocast(x), self)  # type: ignore[no-untyped-call]
        return result

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """Return the weight to compute with, [out, in], on the device that it is computed on."""
        return self.weight.to(dtype)


class FrozenConvolution(nn.Conv2d):
    """A convolution with a frozen weight, padded with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Convolution.apply(_as_autocast(x), self)  # type: ignore[no-untyped-call]
        return result

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """Return the weight to compute with, [out, in / groups, height, width], where it is computed."""
        return self.weight.to(dtype)


FrozenLayer = FrozenLinear | FrozenConvolution


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight_in(x.dtype), _bias(layer, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight_in(grads[0].dtype), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenConvolution) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return F.conv2d(x, layer.weight_in(x.dtype), _bias(layer, x.dtype), *_geometry(layer))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        weight = ctx.layer.weight_in(grads[0].dtype)
        return conv2d_input(ctx.shape, weight, grads[0], *_geometry(ctx.layer)), None


def _bias(layer: FrozenLayer, dtype: torch.dtype) -> Tensor | None:
    return None if layer.bias is None else layer.bias.to(dtype)


def _geometry(layer: FrozenConvolution) -> tuple[Any, Any, Any, int]:
    return layer.stride, layer.padding, layer.dilation, layer.groups


def _as_autocast(x: Tensor) -> Tensor:
    """Convert an input to the dtype that autocast would compute with."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def plain_layers(module: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Return the layers of a module that may take one of the forms above.

    Their subclasses, which may compute something else, are left out.
    """
    return [
        layer
        for layer in module.modules()
        if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
    ]
