"""A convolution of every second pixel as a matrix product is the plain one."""

import copy

import pytest
import torch
from torch import nn

from coinage.models.relaid import RelaidConvolution, relay_weights
from coinage.models.strided import ColumnWeight
from tests.models.test_winograd import both_ways, difference


@pytest.mark.parametrize(
    "shape", [(1, 16, 1, 1), (1, 16, 2, 3), (2, 16, 4, 4), (3, 48, 7, 6), (1, 48, 5, 9)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_are_those_in_float64(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(shape[1], 32, 3, 2, 1, bias=bias).requires_grad_(False)
    precise, weight = copy.deepcopy(layer).double(), layer.weight.clone()
    assert relay_weights(layer) == 1
    assert isinstance(layer, RelaidConvolution)
    assert isinstance(layer.layouts, ColumnWeight)
    assert torch.equal(layer.weight, weight)
    x = torch.randn(shape)
    expected = both_ways(precise, x.double())
    for memory_format in (torch.contiguous_format, torch.channels_last):
        found = both_ways(layer, x.contiguous(memory_format=memory_format))
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert difference(one.double(), other) < 1e-6
