"""Vary an image from use to use: where it is cut, how it is turned, its colours. Pure, from a generator."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from coinage.data.buckets import Fit, Size, centred
from coinage.data_config import ImageRules

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


def turned_fit(fit: Fit, degrees: float) -> Fit:
    """Return a fit that is large enough to be turned about the middle of its cut without bare corners.

    The image is enlarged as far as it must be, and the cut moves away from its edges.

    Args:
        fit: of the image as it stands.
        degrees: of the turn.
    """
    width, height = fit.bucket_wh
    cosine, sine = (abs(f(math.radians(degrees))) for f in (math.cos, math.sin))
    # What the turned cut takes, and a pixel on each side to interpolate
    needed = (width * cosine + height * sine + 2, width * sine + height * cosine + 2)
    scale = max(1.0, *(need / side for need, side in zip(needed, fit.resized_wh, strict=True)))
    crop, resized = [], []
    for axis in (0, 1):
        side, cut = math.ceil(fit.resized_wh[axis] * scale), fit.bucket_wh[axis]
        middle = (fit.crop_xy[axis] + cut / 2) * side / fit.resized_wh[axis]
        middle = min(max(middle, needed[axis] / 2), side - needed[axis] / 2)
        resized.append(side)
        crop.append(round(middle - cut / 2))
    return replace(fit, resized_wh=(resized[0], resized[1]), crop_xy=(crop[0], crop[1]))


def turn(pixels: Pixels, fit: Fit, degrees: float) -> Pixels:
    """Return a resized image, [H, W] or [H, W, 3], turned counterclockwise about the middle of its cut."""
    (x, y), (width, height) = fit.crop_xy, fit.bucket_wh
    image = Image.fromarray(pixels)
    middle = (x + width / 2, y + height / 2)
    return np.asarray(image.rotate(degrees, Image.Resampling.BICUBIC, center=middle))


def draw_angle(rules: ImageRules, rng: np.random.Generator) -> float:
    """Draw by how many degrees an image is turned; 0 where it is not to be."""
    return float(rng.uniform(-rules.rotate, rules.rotate)) if rules.rotate else 0.0


def adjust_color(pixels: Pixels, rules: ImageRules, rng: np.random.Generator) -> Pixels:
    """Vary brightness, contrast, saturation and hue of [H, W, 3] uint8, in this order, where they are set.

    The first three are factors from 1 - s to 1 + s, of the distance to black, to the mean grey, and to the
    picture in grey; of hue, s is the largest shift in half circles.
    """
    kinds = (
        (rules.brightness, ImageEnhance.Brightness),
        (rules.contrast, ImageEnhance.Contrast),
        (rules.saturation, ImageEnhance.Color),
    )
    for strength, kind in kinds:
        if strength:
            factor = max(0.0, float(rng.uniform(1 - strength, 1 + strength)))
            pixels = np.asarray(kind(Image.fromarray(pixels)).enhance(factor))
    if rules.hue:
        pixels = shift_hue(pixels, 128 * float(rng.uniform(-rules.hue, rules.hue)))
    return pixels
