"""Compute a frozen network on a CPU with weights that are laid out beforehand.

PyTorch lays the weights of a layer out anew for every call, and for its gradient once more. With a
batch of one picture, that takes longer than the product itself in the deep convolutions of a UNet.
A frozen weight can be kept as oneDNN computes with it: once for the forward pass, and once, turned
around, for the gradient to the input. The plain weight is then dropped, and made again when asked for.

In float32, 3x3 convolutions are computed by `winograd` and `strided` instead. On processors without AVX-512,
oneDNN's layout of their weights also depends on the picture's size, and another one takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinage.models.frozen import Frozen, FrozenConvolution, FrozenLinear, as_autocast
from coinage.models.strided import ColumnWeight
from coinage.models.winograd import WinogradWeight, tile_for
from coinage.system.accelerator import cpu_computes_bf16

log = logging.getLogger("coinage")

OPERATORS = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_linear_weight",
    "_linear_pointwise",
)
# Of a network whose linear layers are laid out too: they gain a tenth, for as much memory again
MOST_PARAMETERS = 1_000_000_000
# oneDNN's layout does not depend on a picture's size, but the operator wants to know one
SIDE = 32
CHANNELS = 16  # oneDNN pads channels to a multiple of it
CHECKED = 2  # layers of each kind that are compared with the plain ones
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest number
CONDITIONS = (
    "time_emb",
    "add_embedding",
)  # parts of names: layers that see one row and no gradient

Padding = tuple[int, int]


class LaidOut(Protocol):
    """What stands for a layer's weight.

    Attributes:
        forward: what the layer computes with; any change of the weight changes it.
        shape: of the weight as PyTorch keeps it.
        dtype: of the weight.
        tolerance: how far a result may be from the plain one, of the largest number.
    """

    @property
    def forward(self) -> Tensor: ...

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def tolerance(self) -> float: ...

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output with a gradient to x, [B, C, H, W] of pictures, else [..., C]."""
        ...

    def plain(self) -> Tensor:
        """Return a copy of the weight as PyTorch keeps it."""
        ...


@dataclass(frozen=True, slots=True)
class Layouts:
    """A layer's weight in oneDNN's layouts.

    Attributes:
        forward: of the weight: [O, I, k, k], or [O, I] of a linear layer or one with k = 1.
        backward: of the weight turned around: [I, O, k, k] or [I, O].
        shape: of the weight as PyTorch keeps it.
        dtype: of the weight.
        padding: on each side; None of a linear product.
        backward_padding: of the gradient.
    """

    forward: Tensor
    backward: Tensor
    shape: torch.Size
    dtype: torch.dtype
    padding: Padding | None = None
    backward_padding: Padding | None = None

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.Linear) -> Layouts:
        """Lay out the weight of a layer that `is_fit`."""
        weight = layer.weight.detach()
        if isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1):
            return cls.of_weight(weight)
        return cls.of_weight(weight, cast(Padding, layer.padding))

    @classmethod
    def of_weight(cls, weight: Tensor, padding: Padding | None = None) -> Layouts:
        """Lay out a weight; with padding, of a convolution."""
        shape, dtype = weight.shape, weight.dtype
        if padding is None:
            flat = weight.flatten(1)
            return cls(_laid_out(flat), _laid_out(flat.t()), shape, dtype)
        height, width = shape[2:]
        backward_padding = height - 1 - padding[0], width - 1 - padding[1]
        turned = weight.flip(2, 3).transpose(0, 1)
        forward, backward = _laid_out(weight, padding), _laid_out(turned, backward_padding)
        return cls(forward, backward, shape, dtype, padding, backward_padding)

    @property
    def tolerance(self) -> float:
        """How far a result may be from the plain one, of the largest number."""
        return TOLERANCE[self.dtype]

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return a layer's output with a gradient to x: [B, C, H, W] of 3x3 weights, else [..., C]."""
        result: Tensor = _Product.apply(x, bias, self)  # type: ignore[no-untyped-call]
        return result

    def plain(self) -> Tensor:
        """Return a copy of the weight as PyTorch keeps it, the same bit for bit."""
        return self.forward.to_dense().contiguous().view(self.shape)

    def __deepcopy__(self, memo: object) -> Layouts:
        """Share what nobody changes."""
        return self


class _Product(torch.autograd.Function):
    """A layer's output, and the gradient to its input; pictures are in memory order [B, H, W, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layouts: Layouts) -> Tensor:
        ctx.layouts = layouts
        return _product(x, layouts.forward, bias, layouts.padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        layouts: Layouts = ctx.layouts
        return _product(grads[0], layouts.backward, None, layouts.backward_padding), None, None


class Relaid(Frozen):
    """A frozen layer that keeps `layouts` in place of its weight: that is a copy for each use."""

    layouts: LaidOut

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The plain weight: a copy, [O, I] or [O, I, k, k]."""
        return self.layouts.plain()

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


class RelaidLinear(Relaid, FrozenLinear):  # type: ignore[override]
    """A linear layer of this kind."""

    def forward(self, x: Tensor) -> Tensor:
        x = as_autocast(x)
        if not computes(self.layouts, x):
            return super().forward(x)
        return self.layouts.product(x, _bias(self, x))


class RelaidConvolution(Relaid, FrozenConvolution):  # type: ignore[override]
    """A convolution of this kind."""

    def forward(self, x: Tensor) -> Tensor:
        x = as_autocast(x)
        if not computes(self.layouts, x):
            return super().forward(x)
        if self.kernel_size == (1, 1):
            y = self.layouts.product(x.permute(0, 2, 3, 1), _bias(self, x))
            return y.permute(0, 3, 1, 2)
        return self.layouts.product(x, _bias(self, x))


def relay_weights(network: nn.Module, but: Collection[nn.Module] = ()) -> int:
    """Lay out the weights of a frozen network on a CPU, layer by layer, in place.

    The rule depends on the network alone, so that a resumed run computes as it did before. Where the
    operators are missing or wrong, the network stays as it is, which is logged.

    Args:
        network: is changed.
        but: layers that stay as they are.

    Returns:
        The number of layers that were laid out.
    """
    layers = [layer for layer in fit_layers(network) if layer not in but]
    problem = problem_with(layers)
    if problem:
        log.info("note: this PyTorch computes the UNet's layers the slower way: %s", problem)
        return 0
    for layer in layers:
        _relay(layer)
    return len(layers)


def fit_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the layers of a network that gain by being laid out."""
    with_linear = parameter_count(network) <= MOST_PARAMETERS
    layers: list[nn.Conv2d | nn.Linear] = []
    for name, layer in network.named_modules():
        if is_fit(layer) and not any(part in name for part in CONDITIONS):
            is_linear = isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)
            if with_linear or not is_linear:
                layers.append(cast(nn.Conv2d | nn.Linear, layer))
    return layers


def is_fit(layer: nn.Module) -> bool:
    """Return whether a layer is frozen and of a kind that can be laid out, and not another's class."""
    if type(layer) is nn.Linear:
        inputs, outputs = layer.in_features, layer.out_features
    elif type(layer) is nn.Conv2d and _is_simple(layer):
        inputs, outputs = layer.in_channels, layer.out_channels
    else:
        return False
    weight = layer.weight
    return (
        weight.dtype in TOLERANCE
        and weight.device.type == "cpu"
        and not weight.requires_grad
        and inputs % CHANNELS == 0
        and outputs % CHANNELS == 0
    )


def _halves(layer: nn.Conv2d) -> bool:
    """Return whether a convolution halves a picture, in float32."""
    return (layer.kernel_size, layer.padding, layer.stride) == (
        (3, 3),
        (1, 1),
        (2, 2),
    ) and layer.weight.dtype == torch.float32


def is_for_winograd(layer: nn.Conv2d) -> bool:
    """Return whether a convolution that `is_fit` is computed with fewer products: in float32."""
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.weight.dtype == torch.float32
    )


def _is_simple(layer: nn.Conv2d) -> bool:
    """Return whether a convolution looks at a pixel or at its neighbours, with zeros around the picture."""
    kind = layer.kernel_size, layer.padding, layer.stride
    kinds = {((3, 3), (1, 1), (1, 1)), ((1, 1), (0, 0), (1, 1))}
    return (
        (kind in kinds or _halves(layer))
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


def laid_out_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights of a network that are kept in another form, and so are no parameters."""
    return [layer.layouts.forward for layer in network.modules() if isinstance(layer, Relaid)]


def parameter_count(network: nn.Module) -> int:
    """Return the number of a network's weights, those that are laid out among them."""
    plain = sum(parameter.numel() for parameter in network.parameters())
    laid_out = [layer for layer in network.modules() if isinstance(layer, Relaid)]
    return plain + sum(layer.layouts.shape.numel() for layer in laid_out)


def problem_with(layers: list[nn.Conv2d | nn.Linear]) -> str:
    """Return why layers cannot be laid out, "" if nothing is wrong.

    Output and gradient are compared with the plain ones.
    """
    missing = [name for name in OPERATORS if not hasattr(torch.ops.mkldnn, name)]
    if missing or not torch.backends.mkldnn.is_available():
        return f"it lacks {' and '.join(missing) or 'oneDNN'}"
    if any(layer.weight.dtype == torch.bfloat16 for layer in layers) and not cpu_computes_bf16():
        return "this processor lacks bf16"
    of_kinds: dict[object, list[nn.Conv2d | nn.Linear]] = {}
    for layer in layers:
        of_kinds.setdefault(_kind(layer), []).append(layer)
    try:
        for kind in of_kinds.values():
            for layer in kind[:CHECKED]:
                laid_out = lay_out(layer)
                error = _error_of(layer, laid_out)
                if not error <= laid_out.tolerance:
                    return f"its result differs by {error:.0e}"
    except (RuntimeError, TypeError) as failed:
        return str(failed).partition("\n")[0]
    return ""


def lay_out(layer: nn.Conv2d | nn.Linear) -> LaidOut:
    """Return what stands for the weight of a layer that `is_fit`."""
    if isinstance(layer, nn.Conv2d) and _halves(layer):
        return ColumnWeight.of(layer)
    if isinstance(layer, nn.Conv2d) and is_for_winograd(layer):
        return WinogradWeight.of(layer)
    return Layouts.of(layer)


def _kind(layer: nn.Conv2d | nn.Linear) -> object:
    """Return what layers have in common that are computed in the same way."""
    if isinstance(layer, nn.Linear):
        return nn.Linear
    return layer.kernel_size, layer.stride, is_for_winograd(layer) and tile_for(layer)


def _relay(layer: nn.Conv2d | nn.Linear) -> None:
    """Put layouts in place of a layer's weight."""
    layouts = lay_out(layer)
    del layer.weight
    layer.__class__ = RelaidLinear if isinstance(layer, nn.Linear) else RelaidConvolution
    cast(RelaidLinear, layer).layouts = layouts


def _laid_out(weight: Tensor, padding: Padding | None = None) -> Tensor:
    """Return a weight in oneDNN's own layout; with padding, of a convolution."""
    laid_out: Tensor
    if padding is None:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())  # noqa: SLF001
        return laid_out
    weight = weight.contiguous(memory_format=torch.channels_last)
    size = [1, weight.shape[1], SIDE, SIDE]
    laid_out = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
        weight, padding, (1, 1), (1, 1), 1, size
    )
    return laid_out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Padding | None) -> Tensor:
    """Return the product with a weight in oneDNN's layout; with padding, the convolution."""
    y: Tensor
    if padding is None:
        y = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x.contiguous(), weight, bias, "none", [], ""
        )
        return y
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        x, weight, bias, padding, (1, 1), (1, 1), 1, "none", [], ""
    )
    return y


def computes(layouts: LaidOut, x: Tensor) -> bool:
    """Return whether an input is as the layouts need it. It is not in a step that is computed in float32."""
    return x.dtype == layouts.dtype and x.device.type == "cpu"


def _bias(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor | None:
    """Return a layer's bias in the dtype of an input."""
    return None if layer.bias is None else layer.bias.to(x)


@torch.enable_grad()
def _error_of(layer: nn.Conv2d | nn.Linear, layouts: LaidOut) -> float:
    """Return how far output and gradient of a layer are from the plain ones, of the largest number."""
    generator = torch.Generator().manual_seed(0)
    inputs = layouts.shape[1]
    is_picture = layouts.shape[2:] == (3, 3)
    shape = (1, inputs, 6, 5) if is_picture else (30, inputs)
    x = torch.randn(shape, generator=generator).to(layouts.dtype).requires_grad_()
    if is_picture:
        stride = cast(nn.Conv2d, layer).stride
        expected = F.conv2d(x, layer.weight, layer.bias, stride, padding=1)
    else:
        expected = F.linear(x, layer.weight.flatten(1), layer.bias)
    found = layouts.product(x, layer.bias)
    return max(relative_errors(found, expected, x))


def relative_errors(found: Tensor, expected: Tensor, x: Tensor) -> list[float]:
    """Return how far an output and its gradient to x are from others, of the largest number."""
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(expected)
    (expected_grad,), (found_grad,) = (torch.autograd.grad(y, x, grad) for y in (expected, found))
    pairs = (expected.detach(), found.detach()), (expected_grad, found_grad)
    return [float((a - b).abs().max() / a.abs().max()) for a, b in pairs]
