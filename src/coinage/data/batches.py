"""Plan an epoch: which images, in which batches, in which order. Pure, from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coinage.config import LoopConfig, TrainConfig
from coinage.data.buckets import Size
from coinage.data.sample import Draw, Sample, uses_per_epoch
from coinage.data.sampling import drawn
from coinage.seeding import rng_for


@dataclass(frozen=True, slots=True)
class Item:
    """One use of an image. `position` counts the uses of an epoch and keys their random draws."""

    sample: int  # index into the samples
    position: int
    flipped: bool


PlannedBatch = tuple[Item, ...]
Group = tuple[int, Size]  # dataset and bucket: what a batch never mixes


def plan_epoch(
    samples: Sequence[Sample], batch_sizes: Sequence[int], seed: int, epoch: int
) -> list[PlannedBatch]:
    """Return the batches of one epoch.

    Every image occurs exactly `repeats` times, and once more where its group draws it; a batch never
    mixes buckets or datasets; the last batch of a bucket may be short.

    Args:
        samples: all images; held-out ones have no repeats.
        batch_sizes: one per dataset.
        seed: of the run.
        epoch: counted from 0.
    """
    groups: dict[Group, list[int]] = {}
    for index in _used(samples, seed, epoch):
        sample = samples[index]
        groups.setdefault((sample.dataset, sample.fit.bucket_wh), []).append(index)
    rng = rng_for(seed, "plan", epoch)
    waiting: dict[Group, list[list[int]]] = {}
    for key, members in sorted(groups.items()):
        entries = rng.permutation(np.array(members)).tolist()
        size = batch_sizes[key[0]]
        waiting[key] = [entries[i : i + size] for i in range(0, len(entries), size)][::-1]
    # Only the turns of the buckets are shuffled, not their batches: so one bucket gives the same
    # order of images whatever the batch size.
    turns: list[Group] = []
    for key, batches in waiting.items():
        turns += [key] * len(batches)
    uses = uses_per_epoch(samples)
    flips = (rng_for(seed, "flip", epoch).random(uses) < 0.5).tolist()
    position = 0
    planned: list[PlannedBatch] = []
    for turn in rng.permutation(len(turns)):
        batch = []
        for index in waiting[turns[turn]].pop():
            flipped = samples[index].subset.images.flip and flips[position]
            batch.append(Item(index, position, flipped))
            position += 1
        planned.append(tuple(batch))
    return planned


def _used(samples: Sequence[Sample], seed: int, epoch: int) -> list[int]:
    """Return the images of an epoch, each as often as it is used."""
    used: list[int] = []
    draws: dict[Draw, list[int]] = {}
    for index, sample in enumerate(samples):
        used += [index] * sample.repeats
        if sample.draw:
            draws.setdefault(sample.draw, []).append(index)
    for draw, members in draws.items():
        used += drawn(members, draw, seed, epoch)
    return used


def uses_per_group(samples: Sequence[Sample]) -> dict[Group, int]:
    """Return the image uses per epoch of each dataset's buckets."""
    members: dict[Group, list[Sample]] = {}
    for sample in samples:
        members.setdefault((sample.dataset, sample.fit.bucket_wh), []).append(sample)
    return {key: uses_per_epoch(own) for key, own in members.items()}


def batches_per_epoch(samples: Sequence[Sample], batch_sizes: Sequence[int]) -> int:
    """Return the number of batches of any epoch."""
    batches = 0
    for (dataset, _), uses in uses_per_group(samples).items():
        batches += -(-uses // batch_sizes[dataset])
    return batches


def run_length(loop: LoopConfig, accumulation: int, batches: int) -> tuple[int, int]:
    """Return optimizer steps and epochs of a run.

    Args:
        loop: length of the run, in steps or epochs.
        accumulation: batches per step.
        batches: per epoch.
    """
    updates = -(-batches // accumulation)
    if loop.max_epochs is not None:
        return loop.max_epochs * updates, loop.max_epochs
    return loop.max_steps, -(-loop.max_steps // updates)


def updates_per_epoch(config: TrainConfig, samples: Sequence[Sample], processes: int) -> int:
    """Return the optimizer updates of any epoch of a run in so many processes."""
    batches = batches_per_epoch(samples, config.data.batch_sizes)
    return -(-batches // (config.optim.accumulation * processes))


def length_of(config: TrainConfig, samples: Sequence[Sample], processes: int) -> tuple[int, int]:
    """Return optimizer steps and epochs of a run in so many processes."""
    return run_length(config.loop, 1, updates_per_epoch(config, samples, processes))


def images_per_step(config: TrainConfig, samples: Sequence[Sample], processes: int) -> float:
    """Return the mean number of images per update of so many processes together."""
    return uses_per_epoch(samples) / updates_per_epoch(config, samples, processes)
