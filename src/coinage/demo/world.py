"""The demo world: small pictures of captioned shapes, drawn from a handful of words.

A picture is 64 x 64 RGB: one, two or three equal objects on a plain background. An object has a
shape, a colour and a texture. The world is small enough for a tiny model to learn, and exact enough
for `reader.read` to read from pixels what is in a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.float64]
Point = tuple[float, float]
Polygon = list[Point]

SIZE = 64  # pixels, both sides
SUPERSAMPLE = 4
SHADE = 0.35  # the dark part of a texture is the object's colour times this

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 160, 60),
    "cyan": (40, 210, 220),
    "blue": (40, 70, 220),
    "purple": (140, 50, 180),
    "pink": (250, 120, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "black": (12, 12, 12),
    "brown": (130, 85, 50),
    "sky": (150, 200, 245),
    "mint": (170, 235, 190),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows. Where, how large and how tilted is left to the renderer's dice."""

    shape: str
    colour: str
    background: str
    texture: str = "solid"
    count: int = 1


# --- Shapes: outlines in a square from -1 to 1, y downwards; a second polygon is a hole. ---


def _polygon(x: Array, y: Array) -> Polygon:
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _circle(radius: float = 1.0, points: int = 48) -> Polygon:
    angles = np.linspace(0.0, 2 * np.pi, points, endpoint=False)
    return _polygon(radius * np.cos(angles), radius * np.sin(angles))


def _star(points: int = 5, inner: float = 0.5) -> Polygon:
    radii = np.array([1.05, 1.05 * inner] * points)
    angles = -np.pi / 2 + np.arange(2 * points) * np.pi / points
    return _polygon(radii * np.cos(angles), radii * np.sin(angles))


def _heart() -> Polygon:
    t = np.linspace(0.0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _polygon(x / 16, -(y + 2.5) / 14.5)


def _moon() -> Polygon:
    # Outer arc of the unit circle, closed by the inner arc of a circle shifted to the right.
    outer = np.linspace(np.pi * 0.3, np.pi * 1.7, 40)
    tip = complex(np.cos(np.pi * 0.3), np.sin(np.pi * 0.3))
    shift = 0.62
    radius = abs(tip - shift)
    half = float(np.angle(tip - shift))
    inner = np.linspace(2 * np.pi - half, half, 30)
    outer_arc = _polygon(np.cos(outer) + 0.25, np.sin(outer))
    return outer_arc + _polygon(shift + radius * np.cos(inner) + 0.25, radius * np.sin(inner))


def _drop() -> Polygon:
    t = np.linspace(0.0, 2 * np.pi, 60, endpoint=False)
    x = np.sin(t) * np.sin(t / 2) ** 1.6 * 0.85
    return _polygon(x, -np.cos(t))


SHAPES: dict[str, list[Polygon]] = {
    "circle": [_circle(0.95)],
    "square": [[(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]],
    "triangle": [[(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]],
    "cross": [
        [
            (-0.34, -1), (0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34),
            (0.34, 1), (-0.34, 1), (-0.34, 0.34), (-1, 0.34), (-1, -0.34), (-0.34, -0.34),
        ]
    ],
    "star": [_star()],
    "ring": [_circle(1.0), _circle(0.46)],
    "bar": [[(-1.05, -0.36), (1.05, -0.36), (1.05, 0.36), (-1.05, 0.36)]],
    "diamond": [[(0, -1.15), (0.75, 0), (0, 1.15), (-0.75, 0)]],
    "heart": [_heart()],
    "arrow": [[(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1.05, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)]],
    # Drawn by the model, but it has no word for them (see `concepts`).
    "moon": [_moon()],
    "drop": [_drop()],
    "tee": [[
        (-1, -0.95), (1, -0.95), (1, -0.3), (0.33, -0.3), (0.33, 1), (-0.33, 1), (-0.33, -0.3), (-1, -0.3),
    ]],
    "ell": [[(-0.85, -1), (-0.15, -1), (-0.15, 0.35), (0.9, 0.35), (0.9, 1), (-0.85, 1)]],
    "bolt": [[
        (0.2, -1.1), (-0.95, 0.25), (-0.2, 0.25), (-0.45, 1.1), (0.95, -0.35), (0.25, -0.35), (0.85, -1.1),
    ]],
    "bowtie": [[(-1.05, -0.8), (0, -0.22), (1.05, -0.8), (1.05, 0.8), (0, 0.22), (-1.05, 0.8)]],
    "frame": [
        [(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)],
        [(-0.48, -0.48), (0.48, -0.48), (0.48, 0.48), (-0.48, 0.48)],
    ],
    "cup": [[
        (-0.95, -0.95), (-0.35, -0.95), (-0.35, 0.3), (0.35, 0.3),
        (0.35, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95),
    ]],
    # Never drawn in training: the honest limits.
    "comb": [
        [
            (-1, -0.9), (1, -0.9), (1, 0.9), (0.6, 0.9), (0.6, -0.3), (0.2, -0.3),
            (0.2, 0.9), (-0.2, 0.9), (-0.2, -0.3), (-0.6, -0.3), (-0.6, 0.9), (-1, 0.9),
        ]
    ],
    "fish": [[
        (-1.1, -0.6), (-0.6, -0.12), (-0.1, -0.6), (0.5, -0.6), (1.1, 0),
        (0.5, 0.6), (-0.1, 0.6), (-0.6, 0.12), (-1.1, 0.6),
    ]],
}  # fmt: skip

# --- Textures: where an object is dark. Arguments: x, y in pixels from the object's centre, its
# radius, and a phase in pixels; the result is True where dark. ---

Texture = Callable[[Array, Array, float, float, float], NDArray[np.bool_]]


def _dots(x: Array, y: Array, _radius: float, px: float, py: float) -> NDArray[np.bool_]:
    dx = (x + px) % 8 - 4
    dy = (y + py) % 8 - 4
    return dx**2 + dy**2 < 6.0


TEXTURES: dict[str, Texture] = {
    "solid": lambda x, y, r, px, py: np.zeros(x.shape, dtype=bool),
    "striped": lambda x, y, r, px, py: (x + y + px) % 8 < 4,
    "dotted": _dots,
    "checkered": lambda x, y, r, px, py: ((x + px) % 12 < 6) ^ ((y + py) % 12 < 6),
    "banded": lambda x, y, r, px, py: (y + py) % 10 < 5,
    "halved": lambda x, y, r, px, py: x < 0,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """One object's place: centre, radius and texture phase in pixels, tilt in degrees."""

    x: float
    y: float
    radius: float
    tilt: float
    phase: tuple[float, float]


def place(count: int, rng: np.random.Generator, spread: float = 1.0) -> list[Placement]:
    """Return random places for `count` (1 to 3) objects that do not touch.

    `spread` in 0..1 is how far places, sizes, tilts and phases may lie from their middle, as a share.
    """

    def draw(low: float, high: float) -> float:
        middle, half = (low + high) / 2, (high - low) / 2 * spread
        return rng.uniform(middle - half, middle + half)

    if count == 1:
        radius = draw(14, 21)
        slack = 30 - 1.1 * radius
        centres = [(32 + draw(-slack, slack), 32 + draw(-slack, slack))]
    elif count == 2:
        radius = draw(11, 13)
        centres = [
            (17 + draw(-2, 1.5), 32 + draw(-9, 9)),
            (47 + draw(-1.5, 2), 32 + draw(-9, 9)),
        ]
    else:
        radius = draw(10, 11.5)
        middles = ((16, 18), (48, 18), (32, 47))
        centres = [(x + draw(-1.5, 1.5), y + draw(-1.5, 1.5)) for x, y in middles]
    tilt = draw(-10, 10)
    phase = (float(draw(0, 24)), float(draw(0, 24)))
    return [Placement(float(x), float(y), float(radius), float(tilt), phase) for x, y in centres]


def shape_mask(shape: str, at: Placement, scale: int = SUPERSAMPLE) -> NDArray[np.bool_]:
    """Return [SIZE * scale, SIZE * scale], True inside the shape."""
    image = Image.new("1", (SIZE * scale, SIZE * scale))
    draw = ImageDraw.Draw(image)
    c, s = np.cos(np.radians(at.tilt)), np.sin(np.radians(at.tilt))
    for fill, polygon in zip((1, 0), SHAPES[shape], strict=False):
        points = []
        for x, y in polygon:
            across, down = at.x + at.radius * (c * x - s * y), at.y + at.radius * (s * x + c * y)
            points.append((across * scale, down * scale))
        draw.polygon(points, fill=fill)
    return np.asarray(image, dtype=bool)


def _pixel_grid(scale: int) -> tuple[Array, Array]:
    axis = (np.arange(SIZE * scale) + 0.5) / scale
    x, y = np.meshgrid(axis, axis)
    return x, y


def _shrink(image: Array) -> Array:
    small: Array = image.reshape(SIZE, SUPERSAMPLE, SIZE, SUPERSAMPLE).mean(axis=(1, 3))
    return small


def render(scene: Scene, rng: np.random.Generator, spread: float = 1.0) -> NDArray[np.uint8]:
    """Draw a scene at a random place, size and tilt (see `place`): [64, 64, 3] uint8 RGB."""
    x, y = _pixel_grid(SUPERSAMPLE)
    light = np.zeros((SIZE, SIZE, 1))
    dark = np.zeros((SIZE, SIZE, 1))
    for at in place(scene.count, rng, spread):
        mask = shape_mask(scene.shape, at)
        shade = TEXTURES[scene.texture](x - at.x, y - at.y, at.radius, *at.phase) & mask
        dark[..., 0] += _shrink(shade.astype(np.float64))
        light[..., 0] += _shrink((mask & ~shade).astype(np.float64))
    colour = np.array(COLOURS[scene.colour], dtype=np.float64)
    background = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
    pixels = light * colour + dark * SHADE * colour + (1 - light - dark) * background
    result: NDArray[np.uint8] = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return result
