"""Convolve a picture with 3x3 weights in less than half of the products, in float32 on a CPU.

The picture is cut into square tiles that overlap by two pixels. Tile and weight are polynomials in
two variables, and their product is found from their values at a few points: one matrix product over
the channels for each point (Winograd's minimal filtering, Lavin and Gray 2015, arXiv:1509.09308). A
tile of 2x2 results takes 4 products a pixel, one of 4x4 takes 2.25, where the plain sum takes 9. The
weight's values take 1.8 and 4 times the memory of the weight.

The gradient to the picture is a convolution with the weight turned around, whose value at a point is
that of the weight at the inverse. The points come in such pairs, so that one copy serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

INFINITY = math.inf  # there a polynomial's value is its highest coefficient
# Each point has its inverse among them: 0 and infinity, 1, -1, 2 and 1/2
POINTS = {2: (0.0, 1.0, -1.0, INFINITY), 4: (0.0, 1.0, -1.0, 2.0, 0.5, INFINITY)}
MOST_CHANNELS_OF_LARGE_TILES = 512  # of input or output: the memory of more is not worth the time
PART = (
    1 << 22
)  # values of a picture's tiles that are computed at once: 16 MiB, near a processor's cache
TOLERANCE = 1e-4  # of the largest number; tiles of 4x4 come to 2e-5


@dataclass(frozen=True, slots=True)
class Transforms:
    """The matrices of a tile's size.

    Attributes:
        tile: pixels of a tile's results, each way: m.
        weight: from a weight to its values, [(m + 2)^2, 9].
        back: from the values to the weight, [9, (m + 2)^2].
        picture: from a tile to its values, [(m + 2)^2, (m + 2)^2].
        result: from the products to the results, [m^2, (m + 2)^2].
        turned_picture: as `picture`, to be multiplied with a weight turned around.
        turned_result: as `result`, of such products.
    """

    tile: int
    weight: Tensor
    back: Tensor
    picture: Tensor
    result: Tensor
    turned_picture: Tensor
    turned_result: Tensor


@cache
def transforms(tile: int) -> Transforms:
    """Return the matrices for tiles of 2x2 or 4x4 results, computed in float64 and kept in float32."""
    points = POINTS[tile]
    inverse = [
        points.index(INFINITY if p == 0 else 0.0 if p == INFINITY else 1 / p) for p in points
    ]
    with torch.device("cpu"):
        result = torch.stack([_powers(point, tile) for point in points], dim=1)
        weight = torch.stack([_balance(point) * _powers(point, 3) for point in points])
        # Of the product of two polynomials from its values; the tile's matrix is its transpose
        size = len(points)
        interpolation = torch.linalg.inv(torch.stack([_powers(point, size) for point in points]))
        scale = torch.tensor([_balance(point) for point in points], dtype=torch.float64)
        picture = interpolation.t() / scale[:, None]

    def both_ways(matrix: Tensor) -> Tensor:
        return torch.kron(matrix, matrix).float().contiguous()

    return Transforms(
        tile,
        weight=both_ways(weight),
        back=both_ways(torch.linalg.pinv(weight)),
        picture=both_ways(picture),
        result=both_ways(result),
        turned_picture=both_ways(picture[inverse]),
        turned_result=both_ways(result[:, inverse]),
    )


def _powers(point: float, count: int) -> Tensor:
    """Return what the coefficients of a polynomial are multiplied with for its value at a point."""
    if point == INFINITY:
        return torch.eye(count, dtype=torch.float64)[-1]
    return torch.tensor([point**power for power in range(count)], dtype=torch.float64)


def _balance(point: float) -> float:
    """Return a factor with which a weight has the same values turned around, at the inverse points."""
    return 1.0 if point in (0, INFINITY) else 1 / point


def values_of(weight: Tensor, tile: int) -> Tensor:
    """Return the values of a weight [O, I, 3, 3] at the points of a tile: [(tile + 2)^2, O, I]."""
    values = transforms(tile).weight @ weight.reshape(-1, 9).t()
    return values.view(-1, *weight.shape[:2])


def weight_of(values: Tensor, tile: int) -> Tensor:
    """Return the weight with such values, [O, I, 3, 3], but for rounding."""
    flat = transforms(tile).back @ values.flatten(1)
    return flat.t().contiguous().view(*values.shape[1:], 3, 3)


def convolved(
    x: Tensor, values: Tensor, bias: Tensor | None, tile: int, *, turned: bool = False
) -> Tensor:
    """Return a picture's 3x3 convolution with zeros around it, [B, O, H, W] in memory order [B, H, W, O].

    Args:
        x: [B, I, H, W], float32.
        values: of the weight at the points, [(tile + 2)^2, I, O].
        bias: [O], or None.
        tile: 2 or 4.
        turned: convolve with the weight turned around, as for a gradient.
    """
    matrices = transforms(tile)
    to_values = matrices.turned_picture if turned else matrices.picture
    to_result = matrices.turned_result if turned else matrices.result
    batch, channels, height, width = x.shape
    rows, columns = -(-height // tile), -(-width // tile)
    pixels = x.permute(0, 2, 3, 1)
    y = x.new_empty(batch, rows, tile, columns, tile, values.shape[2])
    size = tile + 2
    at_once = max(1, PART // (len(values) * batch * columns * channels))
    for start in range(0, rows, at_once):
        part = slice(start, min(start + at_once, rows))
        padded = _padded(pixels, part.start * tile - 1, part.stop * tile + 1, columns * tile + 2)
        tiles = padded.unfold(1, size, tile).unfold(2, size, tile).permute(4, 5, 0, 1, 2, 3)
        at_points = torch.mm(to_values, tiles.reshape(len(values), -1))
        products = torch.bmm(at_points.view(len(values), -1, channels), values)
        results = torch.mm(to_result, products.view(len(values), -1))
        results = results.view(tile, tile, *tiles.shape[2:5], -1).permute(2, 3, 0, 4, 1, 5)
        if bias is None:
            y[:, part].copy_(results)
        else:
            torch.add(results, bias, out=y[:, part])
    whole = y.view(batch, rows * tile, columns * tile, -1)[:, :height, :width]
    return whole.contiguous().permute(0, 3, 1, 2)


def _padded(pixels: Tensor, top: int, bottom: int, width: int) -> Tensor:
    """Return rows of [B, H, W, C] in a wider picture, zeros around: [B, bottom - top, width, C].

    Args:
        pixels: the picture, which begins at the second column.
        top: the first row, from -1 on.
        bottom: the row after the last one, which may be below the picture.
        width: pixels of a row, at least two more than the picture's.
    """
    batch, height, columns, channels = pixels.shape
    first, last = max(top, 0), min(bottom, height)
    padded = pixels.new_empty(batch, bottom - top, width, channels)
    padded[:, : first - top] = 0
    padded[:, last - top :] = 0
    padded[:, :, 0] = 0
    padded[:, :, columns + 1 :] = 0
    padded[:, first - top : last - top, 1 : columns + 1] = pixels[:, first:last]
    return padded


def tile_for(layer: nn.Conv2d) -> int:
    """Return the tile's size that suits a 3x3 convolution: 4, or 2 where its memory counts."""
    few = min(layer.in_channels, layer.out_channels) <= MOST_CHANNELS_OF_LARGE_TILES
    return 4 if few else 2


class WinogradConvolution(nn.Conv2d):
    """A convolution that computes its weight's values for each call, which large pictures are worth.

    It keeps its weight, and computes plainly what is not in float32 on a CPU, or has a gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        in_float32 = {x.dtype, self.weight.dtype} == {torch.float32}
        lowered = torch.is_autocast_enabled("cpu")
        if learns or lowered or not in_float32 or x.device.type != "cpu":
            return super().forward(x)
        tile = tile_for(self)
        return convolved(x, values_of(self.weight, tile).transpose(1, 2), self.bias, tile)


class _Convolution(torch.autograd.Function):
    """The convolution, and the gradient to the picture."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: WinogradWeight) -> Tensor:
        ctx.weight = weight
        return convolved(x, weight.forward.transpose(1, 2), bias, weight.tile)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight: WinogradWeight = ctx.weight
        return convolved(grads[0], weight.forward, None, weight.tile, turned=True), None, None


@dataclass(frozen=True, slots=True)
class WinogradWeight:
    """The values of a 3x3 weight in place of the weight.

    Attributes:
        forward: the values, [(tile + 2)^2, O, I], float32.
        shape: of the weight: [O, I, 3, 3].
        tile: 2 or 4.
    """

    forward: Tensor
    shape: torch.Size
    tile: int
    dtype: torch.dtype = torch.float32
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, layer: nn.Conv2d) -> WinogradWeight:
        """Compute the values of a layer's weight."""
        weight, tile = layer.weight.detach(), tile_for(layer)
        return cls(values_of(weight, tile), weight.shape, tile)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of [B, I, H, W] with a gradient to it: [B, O, H, W]."""
        y: Tensor = _Convolution.apply(x, bias, self)  # type: ignore[no-untyped-call]
        return y

    def plain(self) -> Tensor:
        """Return a copy of the weight but for rounding."""
        return weight_of(self.forward, self.tile)

    def __deepcopy__(self, memo: object) -> WinogradWeight:
        """Share what nobody changes."""
        return self
