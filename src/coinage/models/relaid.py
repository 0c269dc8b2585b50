"""Compute a frozen network's convolutions on a CPU with weights that are laid out beforehand.

PyTorch lays the weights of a convolution out anew for every call, and for its gradient once more.
With a batch of one picture, that takes longer than the product itself in the deep layers of a UNet.
A frozen weight can be kept as oneDNN computes with it: once for the forward pass, and once, turned
around, for the gradient to the input. The plain weight is then dropped, and made again when asked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger("coinage")

OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise")
# Parameters of a network; below, its layers take microseconds, and calls from Python cost more
FEWEST_PARAMETERS = 50_000_000
# oneDNN's layout does not depend on a picture's size, but the operator wants to know one
SIDE = 32
CHANNELS = 16  # oneDNN pads channels to a multiple of it
CHECKED = 3  # layers that are compared with the plain ones
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest number


@dataclass(frozen=True, slots=True)
class Layouts:
    """A convolution's weight in oneDNN's layouts.

    Attributes:
        forward: of the weight, [O, I, k, k].
        backward: of the weight turned around, [I, O, k, k].
        padding: on each side.
        backward_padding: of the gradient.
        dtype: of both.
    """

    forward: Tensor
    backward: Tensor
    padding: tuple[int, int]
    backward_padding: tuple[int, int]
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Layouts:
        """Lay out the weight of a layer that `is_fit`."""
        weight = layer.weight.detach()
        turned = weight.flip(2, 3).transpose(0, 1)
        padding = cast(tuple[int, int], layer.padding)
        height, width = layer.kernel_size
        backward_padding = height - 1 - padding[0], width - 1 - padding[1]
        return cls(
            forward=_laid_out(weight, padding),
            backward=_laid_out(turned, backward_padding),
            padding=padding,
            backward_padding=backward_padding,
            dtype=weight.dtype,
        )

    def plain(self) -> Tensor:
        """Return a copy of the weight as PyTorch keeps it, the same bit for bit."""
        return self.forward.to_dense().contiguous()

    def __deepcopy__(self, memo: object) -> Layouts:
        """Share what nobody changes."""
        return self


class _Convolution(torch.autograd.Function):
    """A convolution and the gradient to its input, in memory order [B, H, W, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layouts: Layouts) -> Tensor:
        ctx.layouts = layouts
        return _convolved(x, layouts.forward, bias, layouts.padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        layouts: Layouts = ctx.layouts
        given = _convolved(grads[0], layouts.backward, None, layouts.backward_padding)
        return given, None, None


class RelaidConvolution(nn.Conv2d):
    """A frozen convolution that keeps `layouts` in place of its weight.

    `weight` is a copy that is made for each use.
    """

    layouts: Layouts

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The plain weight: a copy, [O, I, k, k]."""
        return self.layouts.plain()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as PyTorch calls it
        x = _as_autocast(input)
        layouts, bias = self.layouts, self.bias
        if x.dtype != layouts.dtype or x.device.type != "cpu":
            # A step that is computed again in float32
            weight = self.weight.to(x)
            return F.conv2d(x, weight, None if bias is None else bias.to(x), padding=self.padding)
        if bias is not None:
            bias = bias.to(x.dtype)
        result: Tensor = _Convolution.apply(x, bias, layouts)  # type: ignore[no-untyped-call]
        return result

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


def relay_weights(module: nn.Module) -> int:
    """Lay out the convolution weights of a large frozen network on a CPU, layer by layer, in place.

    The rule depends on the network alone, so that a resumed run computes as it did before. Where the
    operators are missing or wrong, the network stays as it is, which is logged.

    Returns:
        The number of layers that were laid out.
    """
    if sum(parameter.numel() for parameter in module.parameters()) < FEWEST_PARAMETERS:
        return 0
    layers = [layer for layer in module.modules() if is_fit(layer)]
    problem = problem_with(cast(list[nn.Conv2d], layers[:CHECKED]))
    if problem:
        log.info("note: this PyTorch computes convolutions the slower way: %s", problem)
        return 0
    for layer in layers:
        _relay(cast(nn.Conv2d, layer))
    return len(layers)


def is_fit(layer: nn.Module) -> bool:
    """Return whether a layer is a frozen convolution that gains: square, dense, of many channels."""
    return (
        type(layer) is nn.Conv2d
        and layer.weight.dtype in TOLERANCE
        and layer.weight.device.type == "cpu"
        and not layer.weight.requires_grad
        and layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and layer.padding in {(0, 0), (1, 1), (2, 2)}
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.in_channels % CHANNELS == 0
        and layer.out_channels % CHANNELS == 0
    )


def problem_with(layers: list[nn.Conv2d]) -> str:
    """Return why layers cannot be laid out, "" if nothing is wrong.

    Output and gradient are compared with the plain ones.
    """
    missing = [name for name in OPERATORS if not hasattr(torch.ops.mkldnn, name)]
    if missing or not torch.backends.mkldnn.is_available():
        return f"it lacks {' and '.join(missing) or 'oneDNN'}"
    if any(layer.weight.dtype == torch.bfloat16 for layer in layers) and not _has_bf16():
        return "this processor lacks bf16"
    try:
        errors = [_error_of(layer) for layer in layers]
    except (RuntimeError, TypeError) as error:
        return str(error).partition("\n")[0]
    if not all(
        error <= TOLERANCE[layer.weight.dtype] for error, layer in zip(errors, layers, strict=True)
    ):
        return f"its result differs by {max(errors):.0e}"
    return ""


def relaid_bytes(parameters: int, itemsize: int) -> int:
    """Return the memory that laid-out weights take beside the plain size of their network.

    Args:
        parameters: of the convolutions that are laid out.
        itemsize: bytes of each.
    """
    return parameters * itemsize


def _relay(layer: nn.Conv2d) -> None:
    """Put layouts in place of a layer's weight."""
    layouts = Layouts.of(layer)
    del layer.weight
    layer.__class__ = RelaidConvolution
    cast(RelaidConvolution, layer).layouts = layouts


def _laid_out(weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """Return a weight in oneDNN's own layout."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    size = [1, weight.shape[1], SIDE, SIDE]
    laid_out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
        weight, padding, (1, 1), (1, 1), 1, size
    )
    return laid_out


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """Return the convolution of [B, C, H, W] with a weight in oneDNN's layout."""
    x = x.contiguous(memory_format=torch.channels_last)
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        x, weight, bias, padding, (1, 1), (1, 1), 1, "none", [], ""
    )
    return y


def _error_of(layer: nn.Conv2d) -> float:
    """Return how far output and gradient of a layer are from the plain ones, of the largest number."""
    layouts = Layouts.of(layer)
    generator = torch.Generator().manual_seed(0)
    shape = 1, layer.in_channels, 6, 5
    x = torch.randn(shape, generator=generator).to(layouts.dtype).requires_grad_()
    with torch.enable_grad():
        expected = F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)
        found: Tensor = _Convolution.apply(x, layer.bias, layouts)  # type: ignore[no-untyped-call]
    grad = torch.randn(expected.shape, generator=generator).to(expected)
    (expected_grad,), (found_grad,) = (torch.autograd.grad(y, x, grad) for y in (expected, found))
    pairs = (expected.detach(), found.detach()), (expected_grad, found_grad)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def _has_bf16() -> bool:
    """Return whether this processor computes convolutions in bf16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def _as_autocast(x: Tensor) -> Tensor:
    """Convert an input to the dtype that autocast would compute with."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
