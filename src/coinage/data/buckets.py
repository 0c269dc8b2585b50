"""Fit images to aspect-ratio buckets, in pure integers. The rules are sd-scripts'."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coinage.data_config import BucketConfig

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image comes to its bucket: it is resized to cover the bucket, then cut.

    `resized_wh` is at least `bucket_wh` on both sides; the cut starts at `crop_xy`, in resized
    pixels. Names of kept latents and states hold this class as text: with another name or other
    fields, both are no longer found.
    """

    bucket_wh: Size
    resized_wh: Size
    crop_xy: tuple[int, int]

    @property
    def slack(self) -> tuple[int, int]:
        """Pixels that are cut off, across and down."""
        return self.resized_wh[0] - self.bucket_wh[0], self.resized_wh[1] - self.bucket_wh[1]


def bucket_sizes(resolution_wh: Size, rules: BucketConfig) -> list[Size]:
    """Return all buckets for a resolution, sorted.

    Sides are multiples of the step, areas at most the resolution's.
    """
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


def fit(image_wh: Size, resolution_wh: Size, rules: BucketConfig, sizes: list[Size]) -> Fit | None:
    """Return how an image is resized and cut: to a bucket, or without buckets to the resolution.

    Args:
        image_wh: the image's size.
        resolution_wh: the dataset's resolution; its area bounds the buckets.
        rules: whether and how buckets are chosen.
        sizes: of `bucket_sizes`; not used without buckets or without upscaling.

    Returns:
        The fit, cut in the middle; None when an image that must not grow is smaller than a bucket step.
    """
    if not rules.enabled:
        return cover(image_wh, resolution_wh)
    if rules.no_upscale:
        resized = _shrunk(image_wh, resolution_wh[0] * resolution_wh[1], rules.step)
        bucket = (resized[0] // rules.step * rules.step, resized[1] // rules.step * rules.step)
        return centred(bucket, resized) if min(bucket) else None
    if image_wh in sizes:
        return cover(image_wh, image_wh)
    ratio = image_wh[0] / image_wh[1]

    def error(size: Size) -> float:
        bucket_ratio = size[0] / size[1]
        return abs(math.log(bucket_ratio / ratio) if rules.log_ratio else bucket_ratio - ratio)

    return cover(image_wh, min(sizes, key=error))


def cover(image_wh: Size, bucket_wh: Size) -> Fit:
    """Return the fit that just covers the bucket and cuts the middle out."""
    (width, height), (across, down) = image_wh, bucket_wh
    scale = down / height if width * down > across * height else across / width
    resized = (max(across, int(width * scale + 0.5)), max(down, int(height * scale + 0.5)))
    return centred(bucket_wh, resized)


def centred(bucket_wh: Size, resized_wh: Size) -> Fit:
    """Return the fit that cuts the middle out."""
    left = (resized_wh[0] - bucket_wh[0]) // 2
    top = (resized_wh[1] - bucket_wh[1]) // 2
    return Fit(bucket_wh, resized_wh, (left, top))


def _shrunk(image_wh: Size, area: int, step: int) -> Size:
    """Return the image's size shrunk to an area, one side a multiple of the step.

    Of both sides, the one is rounded down that changes the aspect ratio less.
    """
    width, height = image_wh
    if width * height <= area:
        return image_wh
    ratio = width / height

    def floored(side: float) -> int:
        return int(side + 0.5) // step * step

    across = floored(math.sqrt(area * ratio))
    down = floored(area / math.sqrt(area * ratio))
    if not across or not down:
        return across, down
    other_down, other_across = floored(across / ratio), floored(down * ratio)
    wide_error = abs(across / other_down - ratio) if other_down else math.inf
    if wide_error < abs(other_across / down - ratio):
        return across, int(across / ratio + 0.5)
    return int(down * ratio + 0.5), down


def letterbox(image_wh: Size, bucket_wh: Size) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of the image inside its bucket, as sd-scripts reports them."""
    ratio = image_wh[0] / image_wh[1]
    width, height = bucket_wh
    across, down = float(width), width / ratio
    if width / height > ratio:
        across, down = height * ratio, float(height)
    left, top = math.floor((width - across) / 2), math.floor((height - down) / 2)
    return left, top, left + across, top + down


@dataclass(frozen=True, slots=True)
class SizeCondition:
    """SDXL's conditioning on an image's size: sizes and crop as (height, width).

    Podell et al. 2023, arXiv:2307.01952.
    """

    original_hw: tuple[int, int]
    crop_top_left: tuple[int, int]
    target_hw: tuple[int, int]


def size_condition(
    image_wh: Size, used: Fit, *, flipped: bool, as_reference: bool = False
) -> SizeCondition:
    """Return the size conditioning of one use of an image.

    By default the crop is the true one, in resized pixels, mirrored with the image. As in
    sd-scripts, it describes a letterbox that is not drawn, whatever was cut.
    """
    (x, y), (width, height) = used.crop_xy, used.bucket_wh
    left, top = (used.slack[0] - x if flipped else x), y
    if as_reference:
        box = letterbox(image_wh, used.bucket_wh)
        left, top = int(width - box[2] if flipped else box[0]), int(box[1])
    return SizeCondition((image_wh[1], image_wh[0]), (top, left), (height, width))
