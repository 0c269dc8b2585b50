"""Images and captions as found on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.config import DataConfig, DatasetConfig, SubsetConfig
from coinage.data.images import load_pixels, resize, shrink_rows
from coinage.data.scan import Sample, caption_problems, image_size, load_rgb, scan


def picture(path: Path, size: tuple[int, int] = (8, 8), colour: object = "red", mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def scanned(folder: Path, resolution: tuple[int, int] = (8, 8), **rules: object) -> tuple[list[Sample], list[str]]:
    subset = SubsetConfig(image_dir=folder, **rules)  # type: ignore[arg-type]
    data = DataConfig(datasets=(DatasetConfig(resolution_wh=resolution, subsets=(subset,)),))
    samples, problems = scan(data)
    return samples, [str(p) for p in problems]


def test_images_are_found_in_plain_order_whatever_the_case(tmp_path: Path) -> None:
    for name in ("a10.png", "a2.png", "B.PNG", "c.jpg", "d.Jpg", "y.bmp", "z.webp"):
        picture(tmp_path / name)
    (tmp_path / "e.gif").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    samples, problems = scanned(tmp_path)
    assert [s.path.name for s in samples] == ["B.PNG", "a10.png", "a2.png", "c.jpg", "d.Jpg", "y.bmp", "z.webp"]
    assert not problems


def test_captions_come_from_files_or_class_tokens(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    picture(tmp_path / "c_1_2_3_4.png")
    (tmp_path / "a.txt").write_text("\ufeff\n  a zibu  \nsecond", encoding="utf-8")
    (tmp_path / "c.txt").write_text("face", encoding="utf-8")
    samples, _ = scanned(tmp_path, class_tokens="cls")
    assert [s.caption for s in samples] == ["a zibu", "cls", "face"]
    samples, _ = scanned(tmp_path, caption_extensions=(".caption",))
    assert [s.caption for s in samples] == ["", "", ""]


def test_every_bad_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    picture(tmp_path / "ok.png")
    (tmp_path / "ok.txt").write_bytes(b"\xff\xfe\x00bad")
    samples, problems = scanned(tmp_path)
    assert not samples
    assert len(problems) == 3
    assert any("unreadable caption" in p and "UTF-8" in p for p in problems)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    assert "image folder not found" in scanned(tmp_path / "none")[1][0]
    assert "no images" in scanned(tmp_path)[1][0]


def test_orientation_is_applied_to_size_and_pixels(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), "blue")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise for display
    image.save(tmp_path / "p.png", exif=exif)
    assert image_size(tmp_path / "p.png") == (2, 4)
    upright = load_rgb(tmp_path / "p.png")
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 0, 0)


def test_transparency_is_shown_over_white(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", colour=(200, 0, 0, 0), mode="RGBA")
    assert load_rgb(path).getpixel((0, 0)) == (255, 255, 255)


def test_pixels_are_cut_from_the_middle_and_scaled(tmp_path: Path) -> None:
    array = np.zeros((8, 16, 3), dtype=np.uint8)
    array[:, 4:12] = 255
    Image.fromarray(array).save(tmp_path / "a.png")
    (sample,), _ = scanned(tmp_path)
    pixels = load_pixels(sample)
    assert pixels.shape == (3, 8, 8)
    assert pixels.min() == pixels.max() == 1.0
    array[:, 4] = 0
    Image.fromarray(array).save(tmp_path / "a.png")
    assert load_pixels(sample)[0, 0, 0] == -1.0
    assert load_pixels(sample, flipped=True)[0, 0, -1] == -1.0


@pytest.mark.parametrize(("source", "target"), [(10, 4), (7, 7), (100, 33)])
def test_shrinking_averages_by_covered_area(source: int, target: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (source, 300, 3)).astype(np.float64)
    expected = np.zeros((target, 300, 3))
    for i in range(target):
        low, high = i * source / target, (i + 1) * source / target
        for j in range(source):
            expected[i] += max(0.0, min(high, j + 1) - max(low, j)) * pixels[j] * target / source
    np.testing.assert_allclose(shrink_rows(pixels, target), expected, rtol=1e-4, atol=1e-3)


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16)).save(tmp_path / "a.png")
    grey = np.asarray(load_rgb(tmp_path / "a.png"))[..., 0]
    assert grey.tolist() == [[0, 255], [128, 1]]


def test_shrinking_averages_blocks() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    small = resize(Image.fromarray(array), (6, 4))
    blocks = array.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 0.5


def test_captions_without_the_word(tmp_path: Path) -> None:
    for name, text in (("a", "a zibu"), ("b", "a Zibu"), ("c", "zibus"), ("d", "(zibu)")):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text)
    samples, _ = scanned(tmp_path)
    errors, (warning,) = caption_problems(samples, "zibu")
    assert not errors
    assert "2 of 4 captions lack the word zibu" in warning.what
    assert "letter case" in warning.hint
    (error,), _ = caption_problems([s for s in samples if "Z" in s.caption], "zibu")
    assert "nothing would be learned" in error.what
