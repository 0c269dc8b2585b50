"""Images to pixel arrays: resized to cover their bucket, cut to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.data.scan import Sample, load_rgb
from coinage.errors import CoinageError

Floats = NDArray[np.float32]


def area_weights(source: int, target: int) -> Floats:
    """[target, source] weights that average each target pixel's share of the source; rows sum to 1."""
    edges = np.arange(target + 1) * (source / target)
    cells = np.arange(source)
    upper = np.minimum(edges[1:, None], cells + 1)
    lower = np.maximum(edges[:-1, None], cells)
    weights = np.clip(upper - lower, 0, None) * (target / source)
    result: Floats = weights.astype(np.float32)
    return result


def resize(image: Image.Image, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] uint8: area averaging when neither side grows, else Lanczos, as the reference."""
    if image.size == size_wh:
        return np.asarray(image)
    if size_wh[0] <= image.size[0] and size_wh[1] <= image.size[1]:
        pixels = np.asarray(image, dtype=np.float32)
        columns = area_weights(image.size[0], size_wh[0])
        rows = area_weights(image.size[1], size_wh[1])
        mean = np.einsum("yh,hwc,xw->yxc", rows, pixels, columns, optimize=True)
        shrunk: NDArray[np.uint8] = (mean + 0.5).astype(np.uint8)
        return shrunk
    return np.asarray(image.resize(size_wh, Image.Resampling.LANCZOS))


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
