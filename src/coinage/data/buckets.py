"""Aspect-ratio buckets as pure integers. The rules are the reference trainer's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coinage.config import BucketConfig

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image comes to its bucket: resize to cover it, then cut the middle out.

    `resized_wh` is at least `bucket_wh` on both sides; the cut starts at `crop_xy`.
    """

    bucket_wh: Size
    resized_wh: Size
    crop_xy: tuple[int, int]


def bucket_sizes(resolution_wh: Size, rules: BucketConfig) -> list[Size]:
    """All buckets for a resolution, sorted; sides are multiples of the step, areas within the resolution's."""
    step = rules.step
    low, high = rules.min_side // step * step, -(-rules.max_side // step) * step
    area = resolution_wh[0] * resolution_wh[1]
    square = math.isqrt(area) // step * step
    sizes = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step) if width else 0
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def fit(image_wh: Size, resolution_wh: Size, rules: BucketConfig, sizes: list[Size]) -> Fit:
    """The bucket with the nearest aspect ratio, or the resolution itself when buckets are off."""
    width, height = image_wh
    if not rules.enabled:
        bucket = resolution_wh
    elif image_wh in sizes:
        bucket = image_wh
    else:
        bucket = min(sizes, key=lambda size: abs(size[0] / size[1] - width / height))
    wide = width * bucket[1] > bucket[0] * height
    scale = bucket[1] / height if wide else bucket[0] / width
    resized = (max(bucket[0], int(width * scale + 0.5)), max(bucket[1], int(height * scale + 0.5)))
    return Fit(bucket, resized, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2))
