"""Read from pixels what a demo picture shows, exactly, with the renderer's own drawings.

No network and no weights: the background is the border's colour, objects are what differs from it,
the colour is the palette entry that explains the objects' pixels best, and shape and texture are the
drawings that overlap best. What overlaps with nothing well enough is read as None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from coinage.demo.world import (
    BACKGROUNDS,
    COLOURS,
    SHADE,
    SHAPES,
    SIZE,
    TEXTURES,
    Array,
    Placement,
    shape_mask,
)

GRID = 28  # side of the patch that shapes are compared on
REACH = 2.3  # half the patch's side, in units of the object's root mean square radius
MIN_OVERLAP = 0.66  # below this the object is no shape of the world
MIN_AREA = 24  # pixels; smaller specks are not counted as objects
MAX_COLOUR_ERROR = 70.0  # mean RGB distance to the best palette entry
DISTANCE = 42.0  # RGB distance from the background at which a pixel belongs to an object


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture shows; None where the reader sees nothing it knows."""

    shape: str | None
    colour: str | None
    background: str | None
    texture: str | None
    count: int


def _nearest(rgb: Array, palette: Mapping[str, tuple[int, int, int]]) -> tuple[str, float]:
    names = list(palette)
    colours = np.array(list(palette.values()), dtype=np.float64)
    distances = np.linalg.norm(colours - rgb, axis=1)
    best = int(distances.argmin())
    return names[best], float(distances[best])


def _shifted(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the nine neighbours of every pixel, [9, H, W]; outside is 0."""
    padded = np.pad(image, 1)
    h, w = image.shape
    offsets = product(range(3), range(3))
    return np.stack([padded[dy : dy + h, dx : dx + w] for dy, dx in offsets])


def components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return connected parts (eight neighbours) of at least MIN_AREA and a quarter of the largest."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = np.where(mask, _shifted(labels).max(axis=0), 0)
        if (spread == labels).all():
            break
        labels = spread
    values, sizes = np.unique(labels[mask], return_counts=True)
    least = max(MIN_AREA, sizes.max(initial=0) / 4)
    return [labels == value for value in values[sizes >= least]]


def _patch(mask: Array) -> Array:
    """Return the object, centred and scaled to unit root mean square radius, [GRID, GRID] in 0..1."""
    h, w = mask.shape
    y, x = np.mgrid[0:h, 0:w] + 0.5
    total = mask.sum()
    cx, cy = (mask * x).sum() / total, (mask * y).sum() / total
    rms = np.sqrt((mask * ((x - cx) ** 2 + (y - cy) ** 2)).sum() / total)
    axis = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    gx, gy = np.meshgrid(cx + axis * REACH * rms - 0.5, cy + axis * REACH * rms - 0.5)
    return _bilinear(mask, gx, gy)


def _bilinear(image: Array, x: Array, y: Array) -> Array:
    padded = np.pad(image, 1)
    x = np.clip(x + 1, 0, image.shape[1] + 0.999)
    y = np.clip(y + 1, 0, image.shape[0] + 0.999)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = x - x0, y - y0
    top = padded[y0, x0] * (1 - fx) + padded[y0, x0 + 1] * fx
    bottom = padded[y0 + 1, x0] * (1 - fx) + padded[y0 + 1, x0 + 1] * fx
    result: Array = top * (1 - fy) + bottom * fy
    return result


@cache
def _shape_patches() -> tuple[list[str], Array]:
    """Return every shape at five tilts: names, and patches [K, GRID * GRID]."""
    names, patches = [], []
    for shape in SHAPES:
        for tilt in (-10.0, -5.0, 0.0, 5.0, 10.0):
            mask = shape_mask(shape, Placement(SIZE / 2, SIZE / 2, 20.0, tilt, (0.0, 0.0)), scale=2)
            names.append(shape)
            patches.append(_patch(mask.astype(np.float64)).ravel())
    return names, np.stack(patches)


def shape_overlaps(mask: Array) -> dict[str, float]:
    """Return the soft intersection over union, 0..1, with each shape at its best tilt."""
    names, patches = _shape_patches()
    patch = _patch(mask).ravel()
    overlaps = np.minimum(patches, patch).sum(1) / np.maximum(patches, patch).sum(1)
    best = dict.fromkeys(SHAPES, 0.0)
    for name, overlap in zip(names, overlaps, strict=True):
        best[name] = max(best[name], float(overlap))
    return best


def _read_colour(pixels: Array) -> tuple[str | None, Array]:
    """Return the palette entry nearest to object pixels, and how dark each pixel is.

    Args:
        pixels: [N, 3].

    Returns:
        The entry's name, None where none is near, and darkness [N] in 0..1.
    """
    best, best_error, best_dark = None, np.inf, np.zeros(len(pixels))
    for name, rgb in COLOURS.items():
        light = np.array(rgb, dtype=np.float64)
        span = light * (SHADE - 1)
        dark = np.clip((pixels - light) @ span / (span @ span), 0, 1)
        error = float(np.linalg.norm(pixels - light - dark[:, None] * span, axis=1).mean())
        if error < best_error:
            best, best_error, best_dark = name, error, dark
    return (best if best_error < MAX_COLOUR_ERROR else None), best_dark


@cache
def _texture_phases() -> list[tuple[str, float, float]]:
    steps = np.arange(0, 12, 1.0)
    phases = [("striped", float(phase), 0.0) for phase in range(8)]
    phases += [("banded", 0.0, float(phase)) for phase in range(10)]
    for name in ("dotted", "checkered"):
        for px, py in product(steps, steps):
            phases.append((name, float(px), float(py)))
    return [*phases, ("halved", 0.0, 0.0)]


def _read_texture(mask: NDArray[np.bool_], darkness: Array) -> str:
    """Return the texture whose dark parts correlate best; solid where little is dark."""
    inner = mask & (_shifted(mask.astype(np.int64)).min(axis=0) == 1)
    inside = inner if inner.sum() >= MIN_AREA else mask
    dark = darkness[inside]
    if dark.mean() < 0.12 or dark.std() < 0.14:
        return "solid"
    y, x = np.nonzero(inside)
    every_y, every_x = np.nonzero(mask)
    # Textures are phased by the object's own centre; the middle of its box is close to it.
    cx, cy = (every_x.min() + every_x.max() + 1) / 2, (every_y.min() + every_y.max() + 1) / 2
    radius = (np.ptp(every_x) + np.ptp(every_y)) / 4
    best, score = "solid", 0.0
    for name, px, py in _texture_phases():
        shifts = (-3.0, 0.0, 3.0) if name == "halved" else (0.0,)
        for shift in shifts:
            dark_parts = TEXTURES[name](x + 0.5 - cx - shift, y + 0.5 - cy, radius, px, py)
            drawn = dark_parts.astype(np.float64)
            if drawn.std() == 0:
                continue
            value = float(np.corrcoef(drawn, dark)[0, 1])
            if value > score:
                best, score = name, value
    return best


def objects_in(image: NDArray[np.uint8]) -> tuple[Array, list[NDArray[np.bool_]]]:
    """Return a picture's ground, RGB [3], and a mask [64, 64] for each object on it."""
    pixels = image.astype(np.float64)
    edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    border = np.concatenate([edge.reshape(-1, 3) for edge in edges])
    ground: Array = np.median(border, axis=0)
    mask = np.linalg.norm(pixels - ground, axis=2) > DISTANCE
    # Close one-pixel gaps, so that a dark stripe on a dark ground does not cut an object in two.
    grown = _shifted(mask.astype(np.int64)).max(axis=0)
    closed = _shifted(np.pad(grown, 1, constant_values=1)).min(axis=0)[1:-1, 1:-1] == 1
    return ground, components(closed | mask)


def read(image: NDArray[np.uint8]) -> Reading:
    """Read a [64, 64, 3] uint8 RGB picture."""
    ground, objects = objects_in(image)
    background, error = _nearest(ground, BACKGROUNDS)
    known_background = background if error < MAX_COLOUR_ERROR else None
    if not objects:
        return Reading(None, None, known_background, None, 0)
    whole = np.logical_or.reduce(objects)
    colour, dark = _read_colour(image[whole].astype(np.float64))
    darkness = np.zeros(whole.shape)
    darkness[whole] = dark
    shape = _read_shape(objects)
    textures = [_read_texture(part, darkness) for part in objects]
    texture = max(sorted(set(textures)), key=textures.count)
    return Reading(shape, colour, known_background, texture, len(objects))


def _read_shape(objects: Sequence[NDArray[np.bool_]]) -> str | None:
    """Return the shape that all objects overlap best with; None where none is like it."""
    overlaps = [shape_overlaps(part.astype(np.float64)) for part in objects]
    means = {}
    for shape in SHAPES:
        means[shape] = float(np.mean([of_object[shape] for of_object in overlaps]))
    best = max(means, key=lambda name: means[name])
    return best if means[best] >= MIN_OVERLAP else None
