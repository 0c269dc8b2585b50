"""The epoch plan: complete, unmixed, and a function of (seed, epoch) alone."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.config import LoopConfig
from coinage.data.batches import batches_per_epoch, plan_epoch, run_length
from coinage.data.buckets import Fit
from coinage.data.sample import Sample
from coinage.data_config import ImageRules, SubsetConfig


def samples(*buckets: tuple[int, int], repeats: int = 1, flip: bool = False) -> list[Sample]:
    subset = SubsetConfig(image_dir=Path(), images=ImageRules(flip=flip))
    return [
        Sample(Path(f"{i}.png"), "", subset, 0, b, Fit(b, b, (0, 0)), repeats)
        for i, b in enumerate(buckets)
    ]


def test_accounting_of_three_buckets() -> None:
    images = samples(*[(512, 512)] * 7, *[(576, 448)] * 6, *[(448, 576)] * 4, repeats=3)
    plan = plan_epoch(images, [4], seed=1, epoch=0)
    assert len(plan) == batches_per_epoch(images, [4]) == 6 + 5 + 3
    assert run_length(LoopConfig(max_epochs=10), 2, len(plan)) == (70, 10)
    assert run_length(LoopConfig(), 2, len(plan)) == (1600, 229)


@pytest.mark.parametrize(
    ("batches", "accumulation", "loop", "expected"),
    [
        (33, 2, LoopConfig(), (1600, 95)),
        (33, 1, LoopConfig(), (1600, 49)),
        (34, 2, LoopConfig(), (1600, 95)),
        (33, 2, LoopConfig(max_epochs=10), (170, 10)),
    ],
)
def test_run_length(
    batches: int, accumulation: int, loop: LoopConfig, expected: tuple[int, int]
) -> None:
    assert run_length(loop, accumulation, batches) == expected


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_every_image_occurs_exactly_its_repeats(
    kinds: list[int], batch: int, repeats: int, seed: int
) -> None:
    images = samples(*[(64 * k, 64) for k in kinds], repeats=repeats)
    plan = plan_epoch(images, [batch], seed=seed, epoch=3)
    items = [item for b in plan for item in b]
    assert Counter(item.sample for item in items) == dict.fromkeys(range(len(images)), repeats)
    assert [item.position for item in items] == list(range(len(items)))
    assert all(
        len({images[i.sample].fit.bucket_wh for i in b}) == 1 and len(b) <= batch for b in plan
    )
    assert len(plan) == batches_per_epoch(images, [batch])


def test_plan_depends_on_seed_and_epoch_only() -> None:
    images = samples(*[(64, 64)] * 9, repeats=4, flip=True)
    plans = [plan_epoch(images, [2], seed=s, epoch=e) for s, e in ((1, 0), (1, 1), (2, 0))]
    assert plans[0] == plan_epoch(images, [2], seed=1, epoch=0)
    assert plans[0] != plans[1] != plans[2]
    flips = [item.flipped for batch in plans[0] for item in batch]
    assert 8 <= sum(flips) <= 28
