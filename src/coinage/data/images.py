"""Turn images into pixel arrays: decode upright, resize to cover the bucket, cut to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.data.augment import (
    Pixels,
    adjust_color,
    draw_angle,
    turn,
    turned_fit,
    vary_color,
    vary_fit,
)
from coinage.data.buckets import Fit, Size
from coinage.data.headers import check_size, read_header
from coinage.data.sample import Sample
from coinage.data_config import ImageRules, Interpolation
from coinage.errors import CoinageError

Floats = NDArray[np.float32]
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
METHOD_NAMES = {"linear": "bilinear", "bicubic": "cubic"}  # names of the same
PILLOW = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


@dataclass(frozen=True, slots=True)
class View:
    """An image as one use of it sees it.

    Attributes:
        pixels: [3, H, W] float32 in -1..1, H and W the bucket's.
        mask: weight of each pixel in the loss, [H, W] float32 in 0..1; None where all count alike.
        fit: how it was resized and cut.
    """

    pixels: Floats
    mask: Floats | None
    fit: Fit


def decode(path: Path, rules: ImageRules) -> tuple[Image.Image, Image.Image | None]:
    """Return the image as displayed, 8-bit RGB, and its alpha channel where it has one.

    Transparency is shown over the background colour, 16 bits are scaled to 8. As in sd-scripts,
    hidden colours show instead, 16-bit grey saturates, and photos lie on their side.

    Raises:
        CoinageError: the file cannot be decoded.
    """
    try:
        # The scan has read it in the same way: both must always agree
        orientation = read_header(path).orientation
        with Image.open(path) as image:
            check_size(image.size)  # Pillow may read another one than the header gave
            image.load()
            if rules.as_reference:
                alpha = image.convert("RGBA").getchannel("A") if _transparent(image) else None
                return image.convert("RGB"), alpha
            rgb, alpha = _flatten(image, rules.background)
    except Exception as error:  # a plugin may raise anything on a broken file
        reason = str(error) or type(error).__name__
        raise CoinageError(
            f"cannot decode the image: {reason}", str(path), "replace or remove the file"
        ) from error
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
        alpha = alpha.transpose(UPRIGHT[orientation]) if alpha else None
    return rgb, alpha


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _flatten(image: Image.Image, background: str) -> tuple[Image.Image, Image.Image | None]:
    """Return 8-bit RGB over a colour, and the alpha channel."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64) / 257  # 65535 becomes 255
        image = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
    if not _transparent(image):
        return image.convert("RGB"), None
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(ground, image).convert("RGB"), image.getchannel("A")


def shrink_rows(pixels: NDArray[Any], height: int) -> Floats:
    """Average [H, W, C] to `height` <= H rows.

    Each is the mean of the source rows that it covers, in part or whole.
    """
    source = len(pixels)
    edges = np.arange(height + 1) * (source / height)
    whole = np.minimum(edges.astype(int), source)
    part = (edges - whole).astype(np.float32)[:, None, None]
    counts = np.diff(whole)
    dtype = np.uint32 if pixels.dtype == np.uint8 else np.float32
    total = np.zeros((height, *pixels.shape[1:]), dtype=dtype)
    # Adding whole images of k-th rows is several times faster than reduceat
    for k in range(int(counts.max())):
        rows = np.flatnonzero(counts > k)
        total[rows] += pixels[whole[rows] + k]
    # The first row of each group counts only in part, and the row after its last one in the rest.
    covered = total.astype(np.float32)
    covered += part[1:] * pixels[np.minimum(whole[1:], source - 1)]
    covered -= part[:-1] * pixels[whole[:-1]]
    return covered * np.float32(height / source)


def sample_rows(pixels: NDArray[Any], height: int, method: str) -> Floats:
    """Interpolate [H, W, C] to `height` rows from the nearest 1, 2 or 4, as OpenCV does.

    Shrinking averages nothing.

    Args:
        pixels: of any type.
        height: rows of the result.
        method: "nearest", "bilinear", "cubic"; or "area", which is OpenCV's when a side grows.
    """
    source = len(pixels)
    middle = (np.arange(height) + 0.5) * (source / height)
    if method == "nearest":
        return np.asarray(pixels[middle.astype(int)], dtype=np.float32)
    if method == "area":
        return _enlarged_area(pixels, height)
    first = np.floor(middle - 0.5)
    t = middle - 0.5 - first
    taps = {0: 1 - t, 1: t}
    if method == "cubic":
        taps = {k: _cubic(np.abs(t - k)) for k in (-1, 0, 1, 2)}
    rows: Any = 0
    for offset, weights in taps.items():
        sources = np.clip(first + offset, 0, source - 1).astype(int)
        rows = rows + weights[:, None, None] * pixels[sources]
    return np.asarray(rows, dtype=np.float32)


def _enlarged_area(pixels: NDArray[Any], height: int) -> Floats:
    """Enlarge [H, W, C] to `height` rows by area, as OpenCV does.

    Rows are repeated, and mixed where they meet.
    """
    source, rows = len(pixels), np.arange(height)
    scale = height / source
    # As OpenCV computes it: rows / scale rounds otherwise, and would sometimes repeat a wrong row.
    first = np.floor(rows * (1 / scale)).astype(int)
    # How far the row reaches into the next one
    over = ((rows + 1) - (first + 1) * scale).astype(np.float32)
    share = np.where(over <= 0, 0, over - np.floor(over)).astype(np.float32)[:, None, None]
    upper, lower = (pixels[np.minimum(at, source - 1)] for at in (first, first + 1))
    return np.asarray(upper * (1 - share) + lower * share, dtype=np.float32)


def _cubic(distance: NDArray[np.float64], a: float = -0.75) -> NDArray[np.float64]:
    """Return the weight of a row at a distance of 0..2 (Keys 1981: a = -0.5; OpenCV: -0.75)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)


def resize(image: Image.Image, size_wh: Size, method: Interpolation | None = None) -> Pixels:
    """Return the resized image, [H, W] or [H, W, 3] uint8.

    Args:
        image: RGB or grey.
        size_wh: of the result.
        method: None: area averaging when neither side grows, else Lanczos, as in sd-scripts.
    """
    if image.size == size_wh:
        return np.asarray(image)
    grows = size_wh[0] > image.size[0] or size_wh[1] > image.size[1]
    chosen = METHOD_NAMES.get(method, method) if method else "lanczos" if grows else "area"
    if chosen in PILLOW:
        return np.asarray(image.resize(size_wh, PILLOW[chosen]))
    pixels = np.atleast_3d(np.asarray(image))
    for length in (size_wh[1], size_wh[0]):
        shrinks = chosen == "area" and not grows
        scaled = shrink_rows(pixels, length) if shrinks else sample_rows(pixels, length, chosen)
        pixels = np.ascontiguousarray(scaled.transpose(1, 0, 2))
    whole = (pixels + np.float32(0.5)).clip(0, 255).astype(np.uint8)
    return whole if image.mode == "RGB" else whole[..., 0]


def load_view(
    sample: Sample, *, flipped: bool = False, rng: np.random.Generator | None = None
) -> View:
    """Return the image and its mask as trained on.

    Args:
        sample: the image.
        flipped: mirror it.
        rng: draws crop, angle and colours where the subset varies them; None: cut in the middle,
            upright, colours as they are.

    Raises:
        CoinageError: the file cannot be decoded, or has changed since it was scanned.
    """
    rules = sample.subset.images
    rgb, alpha = decode(sample.path, rules)
    if rgb.size != sample.image_wh:
        (width, height), (old_width, old_height) = rgb.size, sample.image_wh
        what = f"the image is {width}x{height}, and was {old_width}x{old_height} when it was found"
        hint = "start again, and leave the images alone meanwhile"
        raise CoinageError(what, str(sample.path), hint)
    fit, angle = _placed(sample, rng)
    cut = partial(_cut, fit=fit, angle=angle, flipped=flipped)
    pixels = cut(resize(rgb, fit.resized_wh, rules.interpolation))
    if rng is not None:
        if rules.color:
            pixels = vary_color(pixels, rng, as_reference=rules.as_reference)
        pixels = adjust_color(pixels, rules, rng)
    channels = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    scaled = channels / np.float32(127.5) - 1
    mask = _mask(sample, alpha)
    if mask is None:
        return View(scaled, None, fit)
    weights = cut(resize(mask, fit.resized_wh)).astype(np.float32) / np.float32(255)
    return View(scaled, weights, fit)


def _placed(sample: Sample, rng: np.random.Generator | None) -> tuple[Fit, float]:
    """Return how an image is resized and cut this time, and by how many degrees it is turned."""
    fit, rules = sample.fit, sample.subset.images
    if rng is None:
        return fit, 0.0
    fit = vary_fit(fit, sample.image_wh, sample.path, rules, rng, bucketed=sample.bucketed)
    angle = draw_angle(rules, rng)
    return (turned_fit(fit, angle) if angle else fit), angle


def _mask(sample: Sample, alpha: Image.Image | None) -> Image.Image | None:
    """Return the mask of an image, as large as it stands; a file wins over the alpha channel."""
    if sample.mask is not None:
        return decode(sample.mask, sample.subset.images)[0].getchannel("R")
    return alpha if sample.subset.images.alpha_mask else None


def _cut(pixels: Pixels, fit: Fit, *, angle: float, flipped: bool) -> Pixels:
    (x, y), (width, height) = fit.crop_xy, fit.bucket_wh
    pixels = turn(pixels, fit, angle) if angle else pixels
    cut = pixels[y : y + height, x : x + width]
    return cut[:, ::-1] if flipped else cut
