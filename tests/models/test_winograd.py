"""A convolution by its values at a few points is the plain one but for rounding."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinage.models import winograd
from coinage.models.relaid import RelaidConvolution, laid_out_weights, problem_with, relay_weights
from coinage.models.winograd import (
    WinogradWeight,
    convolved,
    tile_for,
    transforms,
    values_of,
    weight_of,
)

TILES = (2, 4)
NEAR = {2: 2e-6, 4: 2e-5}  # of the vector's length


def layer_of(inputs: int, outputs: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1).requires_grad_(False)


def both_ways(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and gradient to the input."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y.detach(), *torch.autograd.grad(y, leaf, grad)]


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("tile", TILES)
def test_a_result_by_hand(tile: int) -> None:
    """A weight of ones adds up a pixel and its neighbours."""
    values = values_of(torch.ones(1, 1, 3, 3), tile)
    y = convolved(torch.ones(1, 1, 3, 3), values, torch.tensor([10.0]), tile)
    expected = [[14.0, 16, 14], [16, 19, 16], [14, 16, 14]]
    torch.testing.assert_close(y[0, 0], torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    "shape",
    [(1, 16, 1, 1), (1, 16, 2, 3), (2, 16, 4, 4), (1, 48, 5, 9), (3, 32, 7, 6), (2, 160, 13, 8)],
)
def test_output_and_gradient_are_those_in_float64(
    tile: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = shape[1]
    layer = layer_of(channels, 32)
    precise = copy.deepcopy(layer).double()
    if tile == 2:
        monkeypatch.setattr(winograd, "MOST_CHANNELS_OF_LARGE_TILES", 0)
    assert relay_weights(layer) == 1
    assert isinstance(layer, RelaidConvolution)
    assert isinstance(layer.layouts, WinogradWeight)
    assert layer.layouts.tile == tile
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        found = both_ways(layer, x.contiguous(memory_format=memory_format))
        for one, expected in zip(found, both_ways(precise, x.double()), strict=True):
            assert one.dtype == torch.float32
            assert one.shape == expected.shape
            assert difference(one.double(), expected) < NEAR[tile]


@pytest.mark.parametrize("tile", TILES)
def test_parts_make_the_whole(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(16, 32)
    x = torch.randn(2, 16, 21, 10, generator=torch.Generator().manual_seed(1))
    values = values_of(layer.weight, tile).transpose(1, 2)
    whole = convolved(x, values, None, tile)
    assert whole.permute(0, 2, 3, 1).is_contiguous()
    monkeypatch.setattr(winograd, "PART", 1)
    torch.testing.assert_close(convolved(x, values, None, tile), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tile", TILES)
def test_the_weight_turned_around_has_the_values_of_the_inverse_points(tile: int) -> None:
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(1))
    x = torch.randn(1, 32, 6, 7, generator=torch.Generator().manual_seed(2))
    values = values_of(weight, tile)
    found = convolved(x, values, None, tile, turned=True)
    expected = F.conv_transpose2d(x.double(), weight.double(), padding=1)
    assert difference(found.double(), expected) < NEAR[tile]


@pytest.mark.parametrize("tile", TILES)
def test_the_weight_comes_back_but_for_rounding(tile: int) -> None:
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(weight_of(values_of(weight, tile), tile), weight, atol=2e-6, rtol=0)


@pytest.mark.parametrize("tile", TILES)
def test_the_values_take_the_memory_that_is_told(tile: int) -> None:
    weight = torch.empty(32, 16, 3, 3)
    share = values_of(weight, tile).nbytes / weight.nbytes
    assert share == pytest.approx({2: 1.78, 4: 4}[tile], abs=0.01)


@pytest.mark.parametrize(
    ("inputs", "outputs", "tile"),
    [(320, 320, 4), (960, 320, 4), (320, 640, 4), (640, 640, 2), (1280, 640, 2), (128, 512, 4)],
)
def test_large_tiles_are_for_few_channels(inputs: int, outputs: int, tile: int) -> None:
    assert tile_for(nn.Conv2d(inputs, outputs, 3, device="meta")) == tile


def test_a_copy_shares_the_values_and_a_saved_one_has_the_weight() -> None:
    layer = layer_of(32, 32)
    plain = layer.weight.clone()
    relay_weights(layer)
    copied = copy.deepcopy(layer)
    assert laid_out_weights(copied)[0] is laid_out_weights(layer)[0]
    state = copied.state_dict()
    assert state.keys() == {"weight", "bias"}
    torch.testing.assert_close(state["weight"], plain, atol=1e-6, rtol=0)
    x = torch.randn(1, 32, 4, 4)
    assert torch.equal(copied(x), layer(x))


def test_another_precision_is_computed_plainly() -> None:
    layer = layer_of(32, 32)
    precise = copy.deepcopy(layer).double()
    relay_weights(layer)
    x = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    layer.bias = nn.Parameter(layer.bias.double(), requires_grad=False)
    torch.testing.assert_close(layer(x), precise(x), atol=1e-5, rtol=0)


def test_bf16_is_not_computed_so() -> None:
    layer = layer_of(32, 32).to(torch.bfloat16)
    relay_weights(layer)
    assert not isinstance(getattr(layer, "layouts", None), WinogradWeight)


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = transforms(4)
    wrong = winograd.Transforms(
        **{name: getattr(right, name) for name in right.__slots__ if name != "turned_result"},
        turned_result=right.turned_result * 1.01,
    )
    monkeypatch.setattr(winograd, "transforms", lambda _: wrong)
    assert problem_with([layer_of(32, 32)]) == "its result differs by 1e-02"
    layer = layer_of(32, 32)
    assert relay_weights(layer) == 0
    assert type(layer) is nn.Conv2d
