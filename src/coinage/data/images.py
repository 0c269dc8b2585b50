"""Images to pixel arrays: resized to cover their bucket, cut to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.data.scan import Sample, load_rgb
from coinage.errors import CoinageError

Floats = NDArray[np.float32]
STRIP = 256  # columns averaged at a time


def shrink_rows(pixels: NDArray[Any], height: int) -> Floats:
    """Average [H, W, C] to `height` rows, each the mean of the source rows it covers, in part or whole."""
    source = pixels.shape[0]
    edges = np.arange(height + 1) * (source / height)
    whole = np.minimum(edges.astype(int), source)
    part = (edges - whole)[:, None, None]
    strips = []
    for start in range(0, pixels.shape[1], STRIP):  # bounds the memory that a large photo takes
        strip = pixels[:, start : start + STRIP].astype(np.float64)
        total = np.concatenate([np.zeros_like(strip[:1]), strip.cumsum(axis=0)])
        at_edges = total[whole] + part * strip[np.minimum(whole, source - 1)]
        strips.append((np.diff(at_edges, axis=0) * (height / source)).astype(np.float32))
    return np.concatenate(strips, axis=1)


def resize(image: Image.Image, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] uint8: area averaging when neither side grows, else Lanczos, as the reference."""
    if image.size == size_wh:
        return np.asarray(image)
    width, height = size_wh
    if width > image.size[0] or height > image.size[1]:
        return np.asarray(image.resize(size_wh, Image.Resampling.LANCZOS))
    mean = shrink_rows(np.asarray(image), height)
    mean = shrink_rows(mean.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return (mean + 0.5).clip(0, 255).astype(np.uint8)


def load_pixels(sample: Sample, *, flipped: bool = False) -> Floats:
    """The image as trained on: [3, H, W] float32 in -1..1, H and W the bucket's.

    Raises:
        CoinageError: the file cannot be decoded.
    """
    try:
        image = load_rgb(sample.path)
    except (OSError, ValueError, SyntaxError) as error:
        raise CoinageError(f"cannot decode the image: {error}", str(sample.path), "replace or remove the file") from None
    pixels = resize(image, sample.fit.resized_wh)
    (x, y), (width, height) = sample.fit.crop_xy, sample.fit.bucket_wh
    cut = pixels[y : y + height, x : x + width]
    if flipped:
        cut = cut[:, ::-1]
    return np.ascontiguousarray(cut.transpose(2, 0, 1), dtype=np.float32) / np.float32(127.5) - 1
