"""The epoch plan: which images, in which batches, in which order. Pure, from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coinage.data.scan import Sample
from coinage.seeding import rng_for


@dataclass(frozen=True, slots=True)
class Item:
    """One use of an image. `position` counts the uses of an epoch and keys their random draws."""

    sample: int  # index into the samples
    position: int
    flipped: bool


PlannedBatch = tuple[Item, ...]


def plan_epoch(samples: Sequence[Sample], batch_sizes: Sequence[int], seed: int, epoch: int) -> list[PlannedBatch]:
    """The batches of one epoch.

    Every image occurs exactly `num_repeats` times; a batch never mixes buckets or datasets; the last
    batch of a bucket may be short.

    Args:
        samples: all images.
        batch_sizes: one per dataset.
        seed: of the run.
        epoch: counted from 0.
    """
    groups: dict[tuple[int, tuple[int, int]], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault((sample.dataset, sample.fit.bucket_wh), []).extend([index] * sample.subset.num_repeats)
    rng = rng_for(seed, "plan", epoch)
    waiting: dict[tuple[int, tuple[int, int]], list[list[int]]] = {}
    for key, entries in sorted(groups.items()):
        rng.shuffle(entries)
        size = batch_sizes[key[0]]
        waiting[key] = [entries[i : i + size] for i in range(0, len(entries), size)][::-1]
    # Only the turns of the buckets are shuffled, not their batches: so one bucket gives the same order
    # of images whatever the batch size.
    turns = [key for key, batches in waiting.items() for _ in batches]
    position = 0
    planned: list[PlannedBatch] = []
    for turn in rng.permutation(len(turns)):
        items = []
        for index in waiting[turns[turn]].pop():
            flipped = samples[index].subset.flip and rng_for(seed, "flip", epoch, position).random() < 0.5
            items.append(Item(index, position, bool(flipped)))
            position += 1
        planned.append(tuple(items))
    return planned


def batches_per_epoch(samples: Sequence[Sample], batch_sizes: Sequence[int]) -> int:
    """Number of batches of any epoch."""
    counts: dict[tuple[int, tuple[int, int]], int] = {}
    for sample in samples:
        key = (sample.dataset, sample.fit.bucket_wh)
        counts[key] = counts.get(key, 0) + sample.subset.num_repeats
    return sum(-(-count // batch_sizes[dataset]) for (dataset, _), count in counts.items())
