"""Pixels: decoded upright, resized, cut, varied; masks go the same way."""

import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coinage.data.augment import (
    GAMMA,
    adjust_color,
    apply_gamma,
    draw_angle,
    face_fit,
    face_of,
    shift_hue,
    turn,
    turned_fit,
    vary_color,
    vary_fit,
)
from coinage.data.buckets import Fit, cover
from coinage.data.images import decode, load_view, resize, sample_rows, shrink_rows
from coinage.data_config import ImageRules, Interpolation
from coinage.errors import CoinageError
from coinage.seeding import rng_for
from tests.data.pictures import one, picture

PLAIN = ImageRules()
REFERENCE = ImageRules(as_reference=True)
# EXIF: where the first row and the first column of the stored image are displayed, for orientations 1 to 8.
SIDES = (
    "top left",
    "top right",
    "bottom right",
    "bottom left",
    "left top",
    "right top",
    "right bottom",
    "left bottom",
)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_orientation_is_applied_to_size_and_pixels(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    """Against the definition: where the first row and the first column of the stored image are displayed."""
    stored = np.zeros((2, 3, 3), dtype=np.uint8)
    stored[0, 0], stored[0, 2], stored[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"p.{suffix}", exif=exif, lossless=True)
    row_side, column_side = SIDES[orientation - 1].split()
    shown = stored.transpose(1, 0, 2) if row_side in ("left", "right") else stored
    shown = shown[::-1] if "bottom" in (row_side, column_side) else shown
    shown = shown[:, ::-1] if "right" in (row_side, column_side) else shown
    upright, _ = decode(tmp_path / f"p.{suffix}", PLAIN)
    assert np.array_equal(np.asarray(upright), shown)
    assert one(tmp_path).image_wh == upright.size
    assert np.array_equal(np.asarray(decode(tmp_path / f"p.{suffix}", REFERENCE)[0]), stored)


def test_broken_exif_counts_as_upright(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "p.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert one(tmp_path).image_wh == (4, 2)
    assert decode(tmp_path / "p.jpg", PLAIN)[0].size == (4, 2)


def test_transparency_is_shown_over_white(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", colour=(200, 0, 0, 0), mode="RGBA")
    assert decode(path, PLAIN)[0].getpixel((0, 0)) == (255, 255, 255)
    assert decode(path, REFERENCE)[0].getpixel((0, 0)) == (200, 0, 0)
    assert decode(path, ImageRules(background="#102030"))[0].getpixel((0, 0)) == (16, 32, 48)
    half = picture(tmp_path / "b.png", colour=(0, 0, 0, 51), mode="RGBA")
    assert decode(half, PLAIN)[0].getpixel((0, 0)) == (204, 204, 204)


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png", PLAIN)[0])[..., 0].tolist() == [[0, 255], [128, 1]]


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "a.jpg"), ("P", "a.png"), ("L", "a.png"), ("1", "a.png"), ("LA", "a.png")],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str, name: str) -> None:
    Image.new("RGB", (8, 8), "white").convert(mode).save(tmp_path / name)
    rgb, _ = decode(tmp_path / name, PLAIN)
    assert rgb.mode == "RGB"
    assert min(rgb.getpixel((3, 3))) >= 254  # type: ignore[arg-type,type-var]


def test_palette_transparency_is_shown_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    rgb, alpha = decode(tmp_path / "a.png", PLAIN)
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]
    assert alpha is not None
    assert [alpha.getpixel((x, 0)) for x in (0, 1)] == [0, 255]


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "b.jpg"):
        path = tmp_path / name
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-800])
        with pytest.raises(CoinageError, match=rf"cannot decode the image[\s\S]*{name}"):
            decode(path, PLAIN)


def test_a_second_header_does_not_get_past_the_limit(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png").read_bytes()
    body = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(CoinageError, match="60000x60000 is too large"):
        load_view(one(tmp_path))


def test_an_image_that_changed_after_the_scan_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (8, 8))
    sample = one(tmp_path)
    picture(tmp_path / "a.png", (9, 8))
    with pytest.raises(CoinageError, match="the image is 9x8, and was 8x8"):
        load_view(sample)


def test_pixels_are_cut_from_the_middle_and_scaled(tmp_path: Path) -> None:
    array = np.zeros((8, 16, 3), dtype=np.uint8)
    array[:, 4:12] = 255
    Image.fromarray(array).save(tmp_path / "a.png")
    view = load_view(one(tmp_path))
    assert view.pixels.shape == (3, 8, 8)
    assert view.pixels.min() == view.pixels.max() == 1.0
    array[:, 4] = 0
    Image.fromarray(array).save(tmp_path / "a.png")
    assert load_view(one(tmp_path)).pixels[0, 0, 0] == -1.0
    assert load_view(one(tmp_path), flipped=True).pixels[0, 0, -1] == -1.0


# Resizing


@pytest.mark.parametrize(("source", "target"), [(10, 4), (7, 7), (100, 33)])
def test_shrinking_averages_by_covered_area(source: int, target: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (source, 300, 3)).astype(np.float64)
    expected = np.zeros((target, 300, 3))
    for i in range(target):
        low, high = i * source / target, (i + 1) * source / target
        for j in range(source):
            expected[i] += max(0.0, min(high, j + 1) - max(low, j)) * pixels[j] * target / source
    np.testing.assert_allclose(shrink_rows(pixels, target), expected, rtol=1e-4, atol=1e-3)


def test_shrinking_averages_blocks() -> None:
    array = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    blocks = array.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(Image.fromarray(array), (6, 4)) - blocks).max() <= 0.5


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("height", [3, 7, 20, 40])
def test_interpolation_by_the_formula(method: str, height: int) -> None:
    """Row by row from the definition: weights of a kernel at pixel centres, edges repeated."""

    def weight(d: float) -> float:
        d = abs(d)
        if method == "bilinear":
            return max(0.0, 1 - d)
        return (
            (1.25 * d - 2.25) * d * d + 1
            if d <= 1
            else ((-0.75 * d + 3.75) * d - 6) * d + 3
            if d < 2
            else 0.0
        )

    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 3)).astype(np.float64)
    found = sample_rows(pixels, height, method)
    for i in range(height):
        at = (i + 0.5) * 20 / height - 0.5
        if method == "nearest":
            expected = pixels[int((i + 0.5) * 20 / height)]
        else:
            taps = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
            expected = sum(weight(at - j) * pixels[min(max(j, 0), 19)] for j in taps)
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("row", "width", "expected"),
    [
        ([0, 100], 3, [0, 50, 100]),
        ([0, 100], 4, [0, 0, 100, 100]),
        ([0, 100], 5, [0, 0, 50, 100, 100]),
        ([0, 60, 120], 4, [0, 40, 80, 120]),
        ([0, 60, 120], 5, [0, 20, 60, 100, 120]),
        ([7], 3, [7, 7, 7]),
    ],
)
def test_enlarging_by_area_repeats_rows_and_mixes_at_edges(
    row: list[int], width: int, expected: list[int]
) -> None:
    """By hand, from OpenCV's rule.

    Scale s = width / source, x0 = floor(i / s), the next pixel's share (i + 1) - (x0 + 1) s.
    """
    array = np.array([row], dtype=np.uint8)
    assert resize(Image.fromarray(array), (width, 1), "area").tolist() == [expected]
    assert resize(Image.fromarray(array.T), (1, width), "area")[:, 0].tolist() == expected


def test_where_a_new_row_begins_on_an_old_ones_edge_opencv_rounds() -> None:
    """For 3 to 147, 49 x (1 / 49) is below 1: pixel 49 is the first one again, as 0 to 48 are.

    OpenCV 5.0 gives this row.
    """
    found = resize(Image.fromarray(np.array([[0, 100, 200]], dtype=np.uint8)), (147, 1), "area")[
        0
    ].tolist()
    assert found == [0] * 50 + [100] * 49 + [200] * 48


def test_a_side_that_shrinks_while_the_other_grows_takes_the_same_rule() -> None:
    """s = 1/2: x0 = 2i, share (i + 1) - (2i + 1) / 2 = 1/2 on the first.

    On the others, it counts without its whole part.
    """
    array = np.array([[0, 100, 40, 80]], dtype=np.uint8)
    assert resize(Image.fromarray(array), (2, 3), "area").tolist() == [[50, 60]] * 3


@pytest.mark.parametrize(
    "method", ["lanczos", "box", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", None]
)
@pytest.mark.parametrize("size", [(6, 4), (30, 30), (6, 30)])
def test_every_method_keeps_flat_colours(
    method: Interpolation | None, size: tuple[int, int]
) -> None:
    for mode, colour in (("RGB", (10, 200, 30)), ("L", 77)):
        pixels = resize(Image.new(mode, (12, 12), colour), size, method)  # type: ignore[arg-type]
        assert pixels.shape[:2] == (size[1], size[0])
        assert pixels.ndim == (3 if mode == "RGB" else 2)
        assert np.abs(pixels.astype(int) - np.array(colour)).max() <= 1


# What varies


def test_random_crops_reach_both_ends_and_stay_inside() -> None:
    fit = cover((16, 8), (8, 8))
    rng = rng_for(0)
    rules = ImageRules(random_crop=True)
    found = {
        vary_fit(fit, (16, 8), Path("a.png"), rules, rng, bucketed=False).crop_xy
        for _ in range(200)
    }
    assert found == {(x, 0) for x in range(9)}


@pytest.mark.parametrize(
    ("name", "face"),
    [
        ("me_100_80_40_50.png", (100, 80, 40, 50)),
        ("a_b_100_80_40_50.png", (100, 80, 40, 50)),
        ("my_cool_photo_of_cat.png", None),
        ("me_0_80_40_50.png", None),
        ("me_100_80_0_0.png", None),
        ("me_1_2_3.png", None),
        ("photo_2023_11_14_80.png", None),
        ("me_100_80_900_50.png", None),
        (f"me_{'9' * 5000}_80_40_50.png", None),
    ],
)
def test_faces_are_read_from_names_where_they_are_inside_the_image(
    name: str, face: tuple[int, ...] | None
) -> None:
    assert face_of(Path(name), (800, 600)) == face


def test_a_face_is_in_the_cut_at_the_asked_size() -> None:
    for seed in range(50):
        fit = face_fit(
            cover((800, 600), (256, 256)),
            (800, 600),
            (600, 400, 100, 90),
            (2.0, 4.0),
            rng_for(seed),
            anywhere=False,
        )
        scale = fit.resized_wh[0] / 800
        assert 256 / 4 - 1 <= 100 * scale <= 256 / 2 + 1
        x, y = 600 * scale - fit.crop_xy[0], 400 * scale - fit.crop_xy[1]
        assert 0 < x < 256
        assert 0 < y < 256


@given(
    st.integers(8, 400),
    st.integers(8, 400),
    st.integers(1, 500),
    st.integers(0, 500),
    st.integers(1, 300),
    st.booleans(),
    st.integers(0, 99),
)
def test_face_cuts_stay_inside(
    width: int, height: int, x: int, y: int, size: int, anywhere: bool, seed: int
) -> None:
    found = face_fit(
        cover((width, height), (64, 48)),
        (width, height),
        (x, y, size, size),
        (1.5, 3.0),
        rng_for(seed),
        anywhere=anywhere,
    )
    (rw, rh), (cx, cy) = found.resized_wh, found.crop_xy
    assert 0 <= cx <= rw - 64
    assert 0 <= cy <= rh - 48


def test_faces_count_only_without_buckets() -> None:
    fit, rules, path = (
        cover((800, 600), (256, 256)),
        ImageRules(face_crop=(2.0, 2.0)),
        Path("a_600_400_100_100.png"),
    )
    assert vary_fit(fit, (800, 600), path, rules, rng_for(0), bucketed=True) == fit
    assert vary_fit(fit, (800, 600), path, rules, rng_for(0), bucketed=False) != fit
    assert vary_fit(fit, (800, 600), Path("plain.png"), rules, rng_for(0), bucketed=False) == fit


LEVELS = np.array([16, 64, 128, 200, 255], dtype=np.uint8)


@pytest.mark.parametrize(
    ("gamma", "expected"), [(0.95, [13, 51, 100, 153, 193]), (1.05, [18, 78, 163, 255, 255])]
)
def test_the_references_gamma_changes_the_brightness(gamma: float, expected: list[int]) -> None:
    assert apply_gamma(LEVELS, gamma, as_reference=True).tolist() == expected


@pytest.mark.parametrize("gamma", GAMMA)
def test_gamma_keeps_black_and_white(gamma: float) -> None:
    expected = np.round((LEVELS / 255.0) ** gamma * 255)
    assert np.abs(apply_gamma(LEVELS, gamma) - expected).max() <= 1
    assert apply_gamma(np.array([0, 255], dtype=np.uint8), gamma).tolist() == [0, 255]


def test_hue_goes_round_the_circle() -> None:
    red = np.full((2, 2, 3), (255, 0, 0), dtype=np.uint8)
    assert shift_hue(red, 256 / 3)[0, 0].tolist() == pytest.approx([0, 255, 0], abs=6)
    assert shift_hue(red, -256 / 3)[0, 0].tolist() == pytest.approx([0, 0, 255], abs=6)
    grey = np.full((2, 2, 3), 90, dtype=np.uint8)
    assert np.array_equal(shift_hue(grey, 8), grey)


def test_a_third_of_the_images_change_their_colours() -> None:
    pixels = np.full((2, 2, 3), (200, 60, 90), dtype=np.uint8)
    changed = sum(not np.array_equal(vary_color(pixels, rng_for(i)), pixels) for i in range(600))
    assert 140 <= changed <= 250


# Masks


def halves(path: Path, size: tuple[int, int], left: int) -> None:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, left, size[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_mask_is_resized_and_cut_as_its_image(tmp_path: Path, flipped: bool) -> None:
    """The image is the mask in colour: after resize, cut and mirror they must still agree.

    At a smaller mask size too.
    """
    halves(tmp_path / "images" / "a.png", (800, 600), 80)
    halves(tmp_path / "masks" / "a.png", (400, 300), 40)
    sample = one(tmp_path / "images", (576, 448), mask_dir=tmp_path / "masks")
    view = load_view(sample, flipped=flipped)
    assert view.mask is not None
    assert view.mask.shape == (448, 576)
    assert np.abs((view.pixels[0] + 1) / 2 - view.mask).mean() < 0.005
    strip = view.mask[0] if not flipped else view.mask[0, ::-1]
    assert int(strip.round().sum()) == 50, "80 of 800 pixels, less what the cut takes"


def test_a_strip_that_is_cut_off_masks_nothing(tmp_path: Path) -> None:
    halves(tmp_path / "images" / "a.png", (1000, 450), 90)
    halves(tmp_path / "masks" / "a.png", (1000, 450), 90)
    view = load_view(one(tmp_path / "images", (512, 512), mask_dir=tmp_path / "masks"))
    assert view.mask is not None
    assert view.mask.max() == 0


def test_alpha_weighs_the_loss_when_asked(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", colour=(200, 0, 0, 127), mode="RGBA")
    assert load_view(one(tmp_path)).mask is None
    mask = load_view(one(tmp_path, alpha_mask=True)).mask
    assert mask is not None
    assert mask.mean() == pytest.approx(127 / 255)


def test_a_mask_file_wins_over_alpha_and_its_red_channel_counts(tmp_path: Path) -> None:
    picture(tmp_path / "i" / "a.png", colour=(200, 0, 0, 0), mode="RGBA")
    picture(tmp_path / "m" / "a.png", colour=(51, 255, 255))
    mask = load_view(one(tmp_path / "i", alpha_mask=True, mask_dir=tmp_path / "m")).mask
    assert mask is not None
    assert mask.mean() == pytest.approx(0.2)


def test_an_opaque_image_has_no_mask(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert load_view(one(tmp_path, alpha_mask=True)).mask is None


def test_half_transparent_edges_show_no_hidden_colour(tmp_path: Path) -> None:
    array = np.zeros((16, 16, 4), dtype=np.uint8)
    array[:, :8] = (255, 255, 255, 255)
    array[:, 8:] = (255, 0, 0, 0)  # red that nobody sees
    Image.fromarray(array, mode="RGBA").save(tmp_path / "a.png")
    pixels = load_view(one(tmp_path, (5, 5), alpha_mask=True)).pixels
    assert pixels.min() == 1.0
    assert isinstance(one(tmp_path).fit, Fit)


# Turning and colours that vary


@given(
    st.integers(20, 200),
    st.integers(20, 200),
    st.sampled_from([(32, 32), (64, 32), (24, 48)]),
    st.floats(-180, 180),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_bare_corner_shows_in_a_turned_image(
    width: int, height: int, bucket: tuple[int, int], angle: float, x: float, y: float
) -> None:
    fit = cover((width, height), bucket)
    crop = (round(x * fit.slack[0]), round(y * fit.slack[1]))
    turned = turned_fit(replace(fit, crop_xy=crop), angle)
    white = np.full((turned.resized_wh[1], turned.resized_wh[0]), 255, np.uint8)
    (left, top), (across, down) = turned.crop_xy, turned.bucket_wh
    cut = turn(white, turned, angle)[top : top + down, left : left + across]
    assert cut.shape == (down, across)
    assert cut.min() == 255


def test_a_turn_goes_around_the_middle_of_the_cut(tmp_path: Path) -> None:
    board = np.zeros((64, 64, 3), np.uint8)
    board[28:36, 40:48] = 255  # right of the middle
    Image.fromarray(board).save(tmp_path / "a.png")
    sample = one(tmp_path, (64, 64), rotate=90.0)
    seen = set()
    for seed in range(40):
        view = load_view(sample, rng=rng_for(seed))
        ys, xs = np.nonzero(view.pixels[0] > 0.5)
        dx, dy = xs.mean() - 31.5, ys.mean() - 31.5
        assert 10 < math.hypot(dx, dy) < 20
        seen.add(round(math.degrees(math.atan2(-dy, dx)) / 45))
    assert seen == {-2, -1, 0, 1, 2}
    still = load_view(sample)
    assert still.pixels[0, 30, 44] == 1


def test_a_mask_turns_with_its_image(tmp_path: Path) -> None:
    halves(tmp_path / "images" / "a.png", (64, 64), 20)
    halves(tmp_path / "masks" / "a.png", (64, 64), 20)
    sample = one(tmp_path / "images", (64, 64), rotate=30.0, mask_dir=tmp_path / "masks")
    for seed, flipped in ((1, False), (2, True)):
        view = load_view(sample, rng=rng_for(seed), flipped=flipped)
        assert view.mask is not None
        shown = (view.pixels[0] + 1) / 2
        assert np.abs(shown - view.mask).max() < 0.02
        upright = load_view(sample, flipped=flipped).mask
        assert upright is not None
        assert np.abs(view.mask - upright).max() > 0.9


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_colours_vary_within_their_strength(kind: str) -> None:
    pixels = np.array([[[200, 100, 50], [60, 120, 90]]], np.uint8)
    strength: dict[str, Any] = {kind: 0.3}
    rules = ImageRules(**strength)
    views = [adjust_color(pixels, rules, rng_for(seed)) for seed in range(60)]
    assert len({view.tobytes() for view in views}) > 20
    hsv = [np.asarray(Image.fromarray(view).convert("HSV")).astype(int) for view in views]
    before = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(int)
    if kind == "brightness":
        factors = [view.mean() / pixels.mean() for view in views]
        assert 0.7 <= min(factors) < 0.8
        assert 1.2 < max(factors) < 1.31
    if kind == "hue":
        shifts = [(h[0, 0, 0] - before[0, 0, 0] + 128) % 256 - 128 for h in hsv]
        assert -39 <= min(shifts) < -25
        assert 25 < max(shifts) <= 39
    if kind == "saturation":
        assert min(h[0, 0, 1] for h in hsv) < before[0, 0, 1] < max(h[0, 0, 1] for h in hsv)
    if kind == "contrast":
        spreads = [float(np.ptp(view.mean(axis=2))) for view in views]
        assert min(spreads) < np.ptp(pixels.mean(axis=2)) < max(spreads)


def test_what_is_not_varied_draws_nothing() -> None:
    rng = rng_for(0)
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert adjust_color(pixels, ImageRules(), rng) is pixels
    assert draw_angle(ImageRules(), rng) == 0
    assert rng.random() == rng_for(0).random()
