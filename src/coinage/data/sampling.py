"""Share out a subset's samples per epoch among its images, and choose those of an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from coinage.data.buckets import Size
from coinage.data.sample import Draw, Sample
from coinage.data_config import SubsetConfig
from coinage.errors import Findings
from coinage.seeding import rng_for
from coinage.wording import counted


def share_samples(samples: Sequence[Sample], findings: Findings) -> list[Sample]:
    """Return the images with the repeats and draws that make the samples per epoch of each subset.

    Every bucket gives its share of them, at least one, in every epoch: so all epochs have the same
    number of batches.
    """
    subsets: dict[tuple[int, SubsetConfig], dict[Size, list[int]]] = {}
    for place, sample in enumerate(samples):
        if sample.subset.samples_per_epoch and not sample.held_out:
            buckets = subsets.setdefault((sample.dataset, sample.subset), {})
            buckets.setdefault(sample.fit.bucket_wh, []).append(place)
    shared = list(samples)
    group = 0
    for (_, subset), buckets in subsets.items():
        wanted = subset.samples_per_epoch or 0
        if wanted < len(buckets):
            what = f"samples_per_epoch is {wanted}, and the images are in {len(buckets)} buckets"
            each = counted(len(buckets), "sample")
            findings.note(f"{what}: {each} are used, one of each")
        counts = shares({size: len(places) for size, places in buckets.items()}, wanted)
        for size, places in buckets.items():
            repeats, count = divmod(counts[size], len(places))
            draw = Draw(group, count) if count else None
            group += 1
            for place in places:
                shared[place] = replace(shared[place], repeats=repeats, draw=draw)
    return shared


def shares(sizes: Mapping[Size, int], wanted: int) -> dict[Size, int]:
    """Return how many of `wanted` samples each bucket gives, by the number of its images.

    The largest remainders are rounded up; each bucket gives at least one.
    """
    total = sum(sizes.values())
    exact = {size: Fraction(wanted * count, total) for size, count in sizes.items()}
    counts = {size: max(1, int(share)) for size, share in exact.items()}

    def surplus(size: Size) -> tuple[Fraction, Size]:
        return counts[size] - exact[size], size

    while sum(counts.values()) < wanted:
        counts[min(counts, key=surplus)] += 1
    while sum(counts.values()) > max(wanted, len(counts)):
        counts[max((size for size in counts if counts[size] > 1), key=surplus)] -= 1
    return counts


def drawn(members: Sequence[int], draw: Draw, seed: int, epoch: int) -> list[int]:
    """Return the images of a group that an epoch uses once more.

    The group is gone through in one random order after the other, so that all are used as often.

    Args:
        members: the samples' numbers.
        draw: group and number of uses.
        seed: of the run.
        epoch: counted from 0.
    """
    first, end = epoch * draw.count, (epoch + 1) * draw.count
    chosen: list[int] = []
    for turn in range(first // len(members), -(-end // len(members))):
        order = rng_for(seed, "draw", draw.group, turn).permutation(np.array(members)).tolist()
        at = turn * len(members)
        chosen += order[max(0, first - at) : end - at]
    return chosen
