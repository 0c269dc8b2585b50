"""Sums of bits: every change shows, whatever the dtype and the layout."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coinage.models.bit_sums import CPU_PIECE, sum_of_bits

DTYPES = [
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int64,
]


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@given(st.sampled_from(DTYPES), st.integers(1, 40), st.integers(0, 7), st.data())
def test_any_changed_bit_changes_the_sum(
    dtype: torch.dtype, length: int, offset: int, data: st.DataObject
) -> None:
    tensor = random_tensor(dtype, (offset + length,))[offset:]  # words need not begin where it does
    around = random_tensor(dtype, (3,))
    before = sum_of_bits([around, tensor])
    bits = tensor.view(torch.uint8)
    at, bit = data.draw(st.integers(0, len(bits) - 1)), data.draw(st.integers(0, 7))
    bits[at] ^= 1 << bit
    assert sum_of_bits([around, tensor]) != before
    bits[at] ^= 1 << bit
    assert sum_of_bits([around, tensor]) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("column", range(4))
def test_what_happens_to_a_whole_column_shows(dtype: torch.dtype, column: int) -> None:
    tensor = random_tensor(dtype, (64, 4)).abs()
    before = sum_of_bits([tensor])
    for change in (-1.0, 0.5, 2.0, 0.0):
        changed = tensor.clone()
        changed[:, column] *= change
        assert sum_of_bits([changed]) != before


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 3),
        lambda x: x[:, 1:, ::2],
        lambda x: x[:1].expand(5, -1, -1, -1),
        lambda x: x.to_mkldnn(),
        lambda x: x.to_sparse(),
        lambda x: x[:0],
        lambda x: x[0, 0, 0, 0],
    ],
)
def test_every_layout_can_be_summed(arrange) -> None:
    def summed(change: float) -> int:
        tensor = random_tensor(torch.float32, (4, 3, 6, 5))
        tensor[0, 1, 2, 0] += change
        tensor[0, 0, 0, 0] += change
        return sum_of_bits([arrange(tensor)])

    assert summed(0) == summed(0)
    assert (summed(1) != summed(0)) == (arrange(torch.ones(4, 3, 6, 5)).numel() > 0)


def test_long_tensors_are_summed_to_their_end() -> None:
    tensor = torch.zeros(2 * CPU_PIECE + 3, dtype=torch.int64)
    for at in (0, CPU_PIECE - 1, CPU_PIECE, len(tensor) - 1):
        changed = tensor.clone()
        changed[at] = 1
        assert sum_of_bits([changed]) != sum_of_bits([tensor])


def test_the_bytes_of_a_short_tensor_have_their_places() -> None:
    assert sum_of_bits([torch.tensor([1], dtype=torch.int16)]) != sum_of_bits(
        [torch.tensor([256], dtype=torch.int16)]
    )


def test_no_tensors_are_nothing() -> None:
    assert sum_of_bits([]) == 0


@pytest.mark.perf
def test_it_is_many_times_faster_than_a_sum_of_elements() -> None:
    tensor = random_tensor(torch.bfloat16, (4096, 4096))

    def seconds(work) -> float:
        taken = []
        for _ in range(5):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
        return min(taken)

    elements = seconds(lambda: tensor.view(torch.int16).sum(dtype=torch.int64))
    assert seconds(lambda: sum_of_bits([tensor])) < elements / 6
