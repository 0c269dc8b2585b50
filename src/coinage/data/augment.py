"""Vary an image from use to use: where it is cut, its colours. Pure, from a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.config import ImageRules
from coinage.data.buckets import Fit, Size, centred

Pixels = NDArray[np.uint8]
COLOR_RATE = 0.33  # share of images whose colours vary
HUE_SHIFT = 8 * 256 / 180  # sd-scripts' 8 of 180 hues, on Pillow's scale of 256
GAMMA = (0.95, 1.05)


def vary_fit(
    fit: Fit,
    image_wh: Size,
    path: Path,
    rules: ImageRules,
    rng: np.random.Generator,
    *,
    bucketed: bool,
) -> Fit:
    """Return how an image is cut this time: around its face, anywhere, or in the middle."""
    face = face_of(path, image_wh) if rules.face_crop and not bucketed else None
    if face and rules.face_crop:
        return face_fit(fit, image_wh, face, rules.face_crop, rng, anywhere=rules.random_crop)
    if rules.random_crop:
        across, down = fit.slack
        return replace(fit, crop_xy=(int(rng.integers(across + 1)), int(rng.integers(down + 1))))
    return fit


def face_of(path: Path, image_wh: Size) -> tuple[int, int, int, int] | None:
    """Return x and y of a face's centre, width and height from a name: `photo_320_240_96_96.png`.

    None when the name ends otherwise, or its numbers, such as a date, are not a face inside the
    image.
    """
    parts = path.stem.split("_")
    if len(parts) < 5 or not all(part.isdecimal() and len(part) <= 6 for part in parts[-4:]):
        return None
    x, y, width, height = map(int, parts[-4:])
    is_inside = 0 < x <= image_wh[0] and y <= image_wh[1]
    is_small_enough = width <= image_wh[0] and height <= image_wh[1]
    if not is_inside or not is_small_enough or max(width, height) == 0:
        return None
    return x, y, width, height


def face_fit(
    fit: Fit,
    image_wh: Size,
    face: tuple[int, int, int, int],
    limits: tuple[float, float],
    rng: np.random.Generator,
    *,
    anywhere: bool,
) -> Fit:
    """Return the fit in which the face takes 1/hi to 1/lo of the shorter side, cut around it.

    The rule is sd-scripts'; an image smaller than the target is enlarged until it covers it.

    Args:
        fit: gives the bucket.
        image_wh: size of the image, pixels.
        face: x and y of the centre, width and height, pixels.
        limits: lo and hi.
        rng: draws the scale and a shift of the cut.
        anywhere: cut farther from the face too.
    """
    x, y, face_width, face_height = face
    size, side = max(face_width, face_height), min(fit.bucket_wh)
    (width, height), (bucket_width, bucket_height) = image_wh, fit.bucket_wh
    least = max(bucket_width / width, bucket_height / height)
    low = min(1.0, max(least, side / (size * limits[1])))
    high = min(1.0, max(low, side / (size * limits[0])))
    scale = max(least, low if low == high else float(rng.uniform(low, high)))
    lengths = (
        max(bucket_width, int(width * scale + 0.5)),
        max(bucket_height, int(height * scale + 0.5)),
    )
    starts = [0, 0]
    for axis, middle in ((1, int(y * scale + 0.5)), (0, int(x * scale + 0.5))):
        length, target = lengths[axis], fit.bucket_wh[axis]
        start = middle - target // 2
        if anywhere:
            reach = max(length - middle, middle, 0)
            start += int(rng.integers(reach + 1)) + int(rng.integers(reach + 1)) - reach
        elif limits[0] != limits[1] and size > side // 10 and size >= 40:
            start += int(rng.integers(-(size // 20), size // 20 + 1))
        starts[axis] = max(0, min(start, length - target))
    return replace(centred(fit.bucket_wh, (lengths[0], lengths[1])), crop_xy=(starts[0], starts[1]))


def vary_color(pixels: Pixels, rng: np.random.Generator, *, as_reference: bool = False) -> Pixels:
    """Return [H, W, 3] uint8 with another hue or gamma in a third of the calls, else unchanged."""
    if rng.random() >= COLOR_RATE:
        return pixels
    if rng.random() > 0.5:
        return shift_hue(pixels, float(rng.uniform(-HUE_SHIFT, HUE_SHIFT)))
    return apply_gamma(pixels, float(rng.uniform(*GAMMA)), as_reference=as_reference)


def shift_hue(pixels: Pixels, shift: float) -> Pixels:
    """Move hues by `shift` of 256, around the circle."""
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(shift)) % 256
    return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))


def apply_gamma(pixels: Pixels, gamma: float, *, as_reference: bool = False) -> Pixels:
    """Return values to the power of gamma, on a scale of 0..1.

    As in sd-scripts, the scale is 0..255, which changes the brightness.
    """
    values = np.arange(256)
    table = np.clip(values**gamma, 0, 255) if as_reference else (values / 255) ** gamma * 255 + 0.5
    return table.astype(np.uint8)[pixels]
