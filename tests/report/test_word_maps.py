"""Where a word acts, as colours over a picture."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.report.word_maps import LAYER_SIDE, heat, layer_url, map_path, overlay

SPOT = np.full((4, 6), 0.9, dtype=np.float32)
SPOT[1, 2] = 3.0
SPOT[3, 5] = 0.5


def test_heat_is_what_exceeds_the_mean() -> None:
    found = heat(SPOT, (6, 4))
    assert found[1, 2] == 1
    assert found.sum() == 1
    faint = heat(np.where(SPOT > 1, np.float32(1.1), np.float32(0.99)), (6, 4))
    assert faint.max() == pytest.approx(0.2), "hardly above the mean: no bright spot"
    assert heat(np.ones((2, 2), dtype=np.float32), (2, 2)).max() == 0
    fine = heat(SPOT, (60, 40))
    assert fine[14:16, 24:26].min() > 0.9
    assert (fine > 0).sum() < 20**2


def test_a_picture_is_grey_but_where_the_word_acts() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    shown = overlay(pixels, SPOT).astype(int)
    assert shown.shape == (40, 60, 3)
    colourful = shown.max(-1) - shown.min(-1)
    assert colourful[35:, :20].max() == 0
    assert colourful[15, 25] > 60


def test_more_heat_is_lighter_to_an_eye_that_sees_no_colours() -> None:
    black = np.zeros((1, 60, 3), dtype=np.uint8)
    ramp = np.linspace(1, 2, 60, dtype=np.float32)[None]
    grey = np.asarray(Image.fromarray(overlay(black, ramp)).convert("L")).astype(int)[0]
    assert (np.diff(grey) >= 0).all()
    assert grey[-1] > 150


@pytest.mark.parametrize(
    ("shape", "size"),
    [((4, 8), (LAYER_SIDE, LAYER_SIDE // 2)), ((128, 64), (LAYER_SIDE // 2, LAYER_SIDE))],
)
def test_a_layer_is_small(shape: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    url = layer_url(rng.random(shape, dtype=np.float32) * 2)
    assert len(url) < 6000
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.mode) == (size, "RGBA")


def test_names() -> None:
    path = Path("a/0000_1.png")
    assert [map_path(path, i).name for i in range(3)] == [
        "0000_1.word.png", "0000_1.word2.png", "0000_1.word3.png",
    ]  # fmt: skip
