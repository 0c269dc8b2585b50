"""Draw where a word acts in a picture: warm colours over the picture in grey. Imports no torch."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
# Heat, and its colour; lighter all the way, so that it can also be read without telling colours apart
COLOURS = (
    (0.0, (62, 20, 110)),
    (0.35, (178, 40, 110)),
    (0.7, (248, 124, 42)),
    (1.0, (255, 232, 128)),
)
MOST_COVER = 0.8  # of the picture where the heat is 1
GREY_LIGHT = 0.6  # brightness of the picture in grey
# The hottest place has at least this much more than the mean before it gets the last colour: a word
# that acts everywhere alike shows no spots
LEAST_EXCESS = 0.5
LAYER_SIDE = 32  # pixels: the longer side of a layer


def heat(word_map: Floats, size_wh: tuple[int, int]) -> Floats:
    """Return how much a word acts at each place beyond what it would if it acted everywhere alike.

    Args:
        word_map: attention relative to its mean, [h, w].
        size_wh: of the result, which is smooth between the cells of the map.

    Returns:
        [H, W] in 0..1; 1 is the hottest place, unless it is hardly above the mean.
    """
    image = Image.fromarray(word_map.astype(np.float32))
    resized = np.asarray(image.resize(size_wh, Image.Resampling.BILINEAR))
    excess = np.maximum(resized - 1, 0)
    scaled: Floats = excess / max(float(excess.max()), LEAST_EXCESS)
    return scaled


def overlay(pixels: Pixels, word_map: Floats) -> Pixels:
    """Return a picture in grey, coloured where a word acts: [H, W, 3] uint8 RGB.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        word_map: attention relative to its mean, of any size.
    """
    height, width = pixels.shape[:2]
    layer = _coloured(heat(word_map, (width, height)))
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[..., None]
    cover = layer[..., 3:] / 255
    mixed = GREY_LIGHT * grey * (1 - cover) + layer[..., :3] * cover
    result: Pixels = mixed.round().astype(np.uint8)
    return result


def layer_url(word_map: Floats) -> str:
    """Return the colours alone as the data URL of a small PNG, which a page lays over the picture."""
    height, width = word_map.shape
    scale = LAYER_SIDE / max(height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    layer = _coloured(heat(word_map, size_wh))
    buffer = io.BytesIO()
    Image.fromarray(layer.round().astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _coloured(values: Floats) -> Floats:
    """Return colours and how much they cover: [H, W, 4] in 0..255 for heat [H, W]."""
    at = [place for place, _ in COLOURS]
    channels = [
        np.interp(values, at, column) for column in zip(*(c for _, c in COLOURS), strict=True)
    ]
    cover = 255 * MOST_COVER * values**0.7  # little heat is seen too
    return np.stack([*channels, cover], axis=-1).astype(np.float32)


def map_path(picture: Path, number: int = 0) -> Path:
    """Return the file of a word's map beside its picture: `NAME.word.png`.

    Args:
        picture: its path.
        number: of the word, from 0, where a prompt has several: `NAME.word2.png` is the second's.
    """
    return picture.with_suffix(f".word{number + 1 if number else ''}{picture.suffix}")
