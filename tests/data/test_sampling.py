"""A subset's samples per epoch: as many as asked for, from every bucket, all images in turns."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from coinage.data.batches import batches_per_epoch, plan_epoch
from coinage.data.sample import Sample, uses_per_epoch
from coinage.data.sampling import share_samples, shares
from coinage.data.scan import balance_regularisation
from coinage.data_config import SubsetConfig
from coinage.errors import Findings
from tests.data.test_batches import samples


def sampled(
    *buckets: tuple[int, int], wanted: int, regularisation: bool = False
) -> tuple[list[Sample], Findings]:
    subset = SubsetConfig(image_dir=Path(), samples_per_epoch=wanted, regularisation=regularisation)
    images = [replace(sample, subset=subset) for sample in samples(*buckets)]
    findings = Findings()
    return share_samples(images, findings), findings


def used(images: list[Sample], epoch: int) -> list[int]:
    return [item.sample for batch in plan_epoch(images, [2], 5, epoch) for item in batch]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 100))
def test_shares_are_whole_and_none_is_empty(sizes: list[int], wanted: int) -> None:
    counts = shares({(64 * i, 64): size for i, size in enumerate(sizes, 1)}, wanted)
    assert sum(counts.values()) == max(wanted, len(sizes))
    assert min(counts.values()) >= 1
    if wanted >= sum(sizes):
        for count, size in zip(counts.values(), sizes, strict=True):
            assert abs(count - wanted * size / sum(sizes)) < 1


@given(st.integers(1, 12), st.integers(1, 30))
def test_all_images_are_used_as_often_within_one(count: int, wanted: int) -> None:
    images, _ = sampled(*[(64, 64)] * count, wanted=wanted)
    totals: Counter[int] = Counter()
    for epoch in range(7):
        uses = used(images, epoch)
        assert len(uses) == wanted == uses_per_epoch(images)
        totals.update(uses)
    assert max(totals.values()) - min(totals[i] for i in range(count)) <= 1


def test_every_epoch_has_as_many_batches_whatever_the_buckets() -> None:
    images, findings = sampled(*[(64, 64)] * 9, *[(128, 64)] * 4, (64, 128), wanted=7)
    expected = batches_per_epoch(images, [2])
    plans = [plan_epoch(images, [2], 5, epoch) for epoch in range(6)]
    assert {len(plan) for plan in plans} == {expected}
    assert not findings.notes
    assert len({tuple(used(images, epoch)) for epoch in range(6)}) == 6
    assert used(images, 3) == used(images, 3)


def test_fewer_samples_than_buckets_are_told() -> None:
    images, findings = sampled((64, 64), (128, 64), (64, 128), wanted=2)
    assert uses_per_epoch(images) == 3
    assert findings.notes == [
        "samples_per_epoch is 2, and the images are in 3 buckets: 3 samples are used, one of each"
    ]


def test_regularisation_images_with_a_number_are_not_repeated_further() -> None:
    beside, _ = sampled(*[(64, 64)] * 5, wanted=3, regularisation=True)
    balanced = balance_regularisation([*samples(*[(64, 64)] * 20), *beside], Findings())
    assert balanced[20:] == beside
    own = SubsetConfig(image_dir=Path(), samples_per_epoch=8)
    shared = share_samples(
        [replace(one, subset=own) for one in samples(*[(64, 64)] * 3)], Findings()
    )
    regular = SubsetConfig(image_dir=Path(), regularisation=True)
    plain = [replace(one, subset=regular) for one in samples(*[(64, 64)] * 5)]
    both = balance_regularisation([*shared, *plain], Findings())
    assert uses_per_epoch(both) == 8 + 8
