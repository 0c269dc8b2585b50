"""Images, captions, metadata and masks as found on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coinage.data.buckets import Fit
from coinage.data.sample import Sample
from coinage.data.scan import balance_regularisation, hold_out, regularisation_repeats, scan
from coinage.data.stored_sizes import SIZES_FILE
from coinage.data_config import BucketConfig, DataConfig, SubsetConfig
from coinage.errors import Findings
from tests.data.pictures import dataset, one, picture, scanned, subset


def texts(findings: Findings) -> list[str]:
    return [str(problem) for problem in findings.errors]


def test_images_are_found_in_plain_order_whatever_the_case(tmp_path: Path) -> None:
    for name in ("a10.png", "a2.png", "B.PNG", "c.jpg", "d.Jpg", "y.bmp", "z.webp"):
        picture(tmp_path / name)
    (tmp_path / "e.gif").write_bytes(b"x")
    (tmp_path / "x.tiff").write_bytes(b"x")
    picture(tmp_path / "deeper" / "f.png")
    samples, findings = scanned(tmp_path)
    assert [s.path.name for s in samples] == [
        "B.PNG",
        "a10.png",
        "a2.png",
        "c.jpg",
        "d.Jpg",
        "y.bmp",
        "z.webp",
    ]
    assert not findings.errors


def test_captions_come_from_files_or_class_tokens(tmp_path: Path) -> None:
    for name in ("a", "b", "c_1_2_3_4"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("\ufeff\n  a zibu  \nsecond", encoding="utf-8")
    (tmp_path / "c.txt").write_text("face", encoding="utf-8")
    assert [s.caption for s in scanned(tmp_path, class_tokens="cls")[0]] == [
        "a zibu",
        "cls",
        "face",
    ]
    assert [s.caption for s in scanned(tmp_path, class_tokens="")[0]] == ["a zibu", "", "face"]
    assert scanned(tmp_path, wildcard=True)[0][0].caption == "a zibu\nsecond"
    _, findings = scanned(tmp_path)
    assert "1 of 3 images has no caption" in findings.warnings[0].what


def test_a_suffix_that_matches_nothing_is_an_error_where_others_would(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="a zibu")
    _, findings = scanned(tmp_path, caption_extensions=(".caption",))
    assert "no image has a caption ending in .caption, but 1 have another" in texts(findings)[0]
    assert "caption_extension to .txt" in texts(findings)[0]
    assert not scanned(tmp_path, caption_extensions=(".caption", ".txt"))[1].errors


def test_a_template_needs_no_captions(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="")
    samples, findings = scanned(tmp_path, template="object")
    assert (len(samples), findings.errors, findings.warnings) == (1, [], [])


def test_every_bad_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "astray.png").symlink_to(tmp_path / "nowhere.png")
    for name, caption in (
        ("ok", b"\xff\x00bad"),
        ("none", b""),
        ("wide", "zibu".encode("utf-16-le")),
    ):
        picture(tmp_path / f"{name}.png").with_suffix(".txt").write_bytes(caption)
    samples, findings = scanned(tmp_path)
    found = {Path(p.where).name: p.what for p in findings.errors}
    assert set(found) == {
        "zero.png",
        "text.png",
        "loop.png",
        "astray.png",
        "ok.txt",
        "none.txt",
        "wide.txt",
    }
    assert "the file is empty" in found["zero.png"]
    assert "of an unknown kind" in found["text.png"]
    assert "leads nowhere" in found["loop.png"]
    assert "unreadable caption" in found["ok.txt"]
    assert "empty" in found["none.txt"]
    assert "it looks like UTF-16" in found["wide.txt"]
    assert [s.path.name for s in samples] == ["none.png", "ok.png", "wide.png"]


def sized_png(path: Path, width: int, height: int) -> None:
    """A PNG whose header claims a size."""
    picture(path)
    data = bytearray(path.read_bytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    path.write_bytes(data)


def test_bombs_and_empty_images_are_refused_by_their_headers(tmp_path: Path) -> None:
    sized_png(tmp_path / "bomb.png", 60000, 60000)
    sized_png(tmp_path / "none.png", 0, 10)
    bmp = bytearray(picture(tmp_path / "bomb.bmp").read_bytes())
    bmp[18:26] = (60000).to_bytes(4, "little") * 2
    (tmp_path / "bomb.bmp").write_bytes(bmp)
    picture(tmp_path / "long.png", (60000, 4))
    samples, findings = scanned(tmp_path)
    assert [s.path.name for s in samples] == ["long.png"]
    found = {Path(p.where).name: p.what for p in findings.errors}
    assert "60000x60000 is too large" in found["bomb.png"]
    assert "too large" in found["bomb.bmp"]
    assert "no pixels" in found["none.png"]


def test_images_too_thin_to_fill_their_bucket_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "thin.png", (4, 60000))
    samples, findings = scanned(tmp_path, (512, 512))
    assert not samples
    assert "4x60000: to fill 512x512 it would grow to 512x7680000" in texts(findings)[0]


def test_a_mask_that_is_refused_is_not_decoded(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    sized_png(tmp_path / "masks" / "a.png", 60000, 60000)
    (sample,), findings = scanned(tmp_path / "images", mask_dir=tmp_path / "masks")
    assert sample.mask is None
    assert "60000x60000 is too large" in texts(findings)[0]


def test_bad_images_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    picture(tmp_path / "ok.png")
    findings = Findings()
    samples = scan(
        DataConfig(datasets=(dataset(subset(tmp_path)),), skip_bad_images=True), 0, findings
    )
    assert [s.path.name for s in samples] == ["ok.png"]
    assert not findings.errors
    assert any("bad.png" in w.what for w in findings.warnings)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    assert "image folder not found" in texts(scanned(tmp_path / "none")[1])[0]
    (tmp_path / "file").write_text("x")
    assert "is a file" in texts(scanned(tmp_path / "file")[1])[0]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot read the image folder" in texts(scanned(tmp_path / "loop")[1])[0]
    _, findings = scanned(tmp_path)
    assert not findings.errors
    assert "the subset is left out" in findings.warnings[0].what


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    picture(folder / "a.png")
    folder.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from coinage.errors import Findings\n"
        "from coinage.data.folder import list_folder\n"
        "found = Findings(); os.getuid() or (os.setgid(65534), os.setuid(65534))\n"
        "list_folder(Path(sys.argv[1]), 'here', 'image folder', found); print(found.errors)"
    )
    tmp_path.chmod(0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
        )
    finally:
        folder.chmod(0o755)
    assert "cannot read the image folder" in done.stdout, done.stderr
    assert "Permission denied" in done.stdout


def test_twins_share_a_caption_and_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="zibu")
    picture(tmp_path / "a.jpg")
    assert "a.jpg and a.png" in scanned(tmp_path)[1].warnings[0].what


def test_sizes_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (8, 6))
    picture(tmp_path / "b.png", (8, 8))
    assert [s.image_wh for s in scanned(tmp_path, cache_sizes=True)[0]] == [(8, 6), (8, 8)]
    lines = json.loads((tmp_path / SIZES_FILE).read_text())
    lines["a.png"][2:4] = [80, 60]
    (tmp_path / SIZES_FILE).write_text(json.dumps(lines))
    assert [s.image_wh for s in scanned(tmp_path, cache_sizes=True)[0]] == [(80, 60), (8, 8)], (
        "the file was opened all the same"
    )
    assert scanned(tmp_path)[0][0].image_wh == (8, 6)
    picture(tmp_path / "a.png", (6, 6))
    picture(tmp_path / "c.png", (4, 4))
    assert [s.image_wh for s in scanned(tmp_path, cache_sizes=True)[0]] == [(6, 6), (8, 8), (4, 4)]
    lines = json.loads((tmp_path / SIZES_FILE).read_text())
    lines["b.png"][4], lines["c.png"][4] = 9, True
    (tmp_path / SIZES_FILE).write_text(json.dumps(lines))
    assert not any(s.rotated for s in scanned(tmp_path, cache_sizes=True)[0])
    (tmp_path / SIZES_FILE).write_text('{"a.png": [1, "x"]}')
    assert len(scanned(tmp_path, cache_sizes=True)[0]) == 3


def test_two_metadata_files_share_the_sizes_of_a_folder(tmp_path: Path) -> None:
    for name in ("deep/a.png", "b.png"):
        picture(tmp_path / name)
    for file, key in (("one.json", "deep/a.png"), ("two.json", "b.png")):
        (tmp_path / file).write_text(json.dumps({key: {"caption": "x"}}))
    findings = Findings()
    config = [
        subset(tmp_path, metadata_file=tmp_path / file, cache_sizes=True)
        for file in ("one.json", "two.json")
    ]
    scan(DataConfig(datasets=(dataset(*config),)), 0, findings)
    assert sorted(json.loads((tmp_path / SIZES_FILE).read_text())) == [
        "b.png",
        str(Path("deep/a.png")),
    ]


def test_an_edited_caption_is_read_again_whatever_is_remembered(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="before")
    scanned(tmp_path, cache_sizes=True)
    (tmp_path / "a.txt").write_text("after")
    assert scanned(tmp_path, cache_sizes=True)[0][0].caption == "after"


def test_sizes_are_never_guessed_from_other_files(tmp_path: Path) -> None:
    picture(tmp_path / "cat.png", (8, 8))
    (tmp_path / "cat_0300x0900_sd.npz").write_bytes(b"x")
    (tmp_path / "cat_big_0300x0900_sd.npz").write_bytes(b"x")
    assert one(tmp_path).image_wh == (8, 8)


def test_images_below_a_bucket_step_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (50, 50))
    picture(tmp_path / "b.png", (100, 130))
    rules = BucketConfig(enabled=True, no_upscale=True)
    samples, findings = scanned(tmp_path, (512, 512), rules)
    assert [(s.path.name, s.fit.bucket_wh) for s in samples] == [("b.png", (64, 128))]
    assert "50x50, and its bucket would be smaller than a step of 64" in texts(findings)[0]
    assert "a.png" in texts(findings)[0]


# Metadata


def metadata(
    tmp_path: Path, entries: object, name: str = "meta.json", **rules: object
) -> tuple[list[Sample], Findings]:
    file = tmp_path / name
    lines = (
        "\n".join(json.dumps(e) for e in entries)
        if name.endswith("l") and isinstance(entries, list)
        else json.dumps(entries)
    )
    file.write_text(lines, encoding="utf-8")
    findings = Findings()
    config = subset(tmp_path, metadata_file=file, **rules)
    return scan(DataConfig(datasets=(dataset(config),)), 0, findings), findings


@pytest.mark.parametrize(
    ("fields", "wildcard", "caption"),
    [
        ({"caption": "cap1", "tags": "t1, t2"}, False, "cap1,t1, t2"),
        ({"tags": "x, y"}, False, "x, y"),
        ({"tags": "x, y"}, True, "x, y"),
        ({"caption": "l1\nl2", "tags": "t"}, True, "l1,t\nl2,t"),
        ({"caption": "l1\nl2", "tags": "t"}, False, "l1,t"),
        ({"caption": "\n l1", "tags": ""}, False, "l1"),
        ({"tags": "t1\nt2"}, True, "t1,t2"),
        ({}, False, ""),
    ],
)
def test_metadata_captions(
    tmp_path: Path, fields: dict[str, str], wildcard: bool, caption: str
) -> None:
    picture(tmp_path / "a.png")
    (sample,), findings = metadata(tmp_path, {"a.png": fields}, wildcard=wildcard)
    assert sample.caption == caption
    assert not findings.errors


def test_metadata_names_images_with_or_without_suffix_or_absolutely(tmp_path: Path) -> None:
    for name in ("a.png", "b.webp", "long/c.png"):
        picture(tmp_path / name)
    entries = {
        "a": {"caption": "1"},
        "b.webp": {"caption": "2", "image_size": [1, 1]},
        str(tmp_path / "long" / "c.png"): {"caption": "3"},
    }
    samples, findings = metadata(tmp_path, entries)
    assert not findings.errors
    assert sorted((s.path.name, s.caption, s.image_wh) for s in samples) == [
        ("a.png", "1", (8, 8)),
        ("b.webp", "2", (8, 8)),
        ("c.png", "3", (8, 8)),
    ]
    assert samples[0].path.name == "c.png", "longest first"


def test_metadata_lines(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    samples, _ = metadata(
        tmp_path,
        [{"image_path": "a.png", "caption": "x"}, {"image_path": "a.png", "caption": "y"}],
        "meta.jsonl",
    )
    assert [s.caption for s in samples] == ["x", "y"]


def test_all_that_is_wrong_with_metadata_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    _, findings = metadata(
        tmp_path, {"a.png": {"caption": 3}, "gone.png": {"caption": "x"}, "b": 7}
    )
    for text, part in zip(
        texts(findings),
        ("`caption` must be a string", "image not found", "the entry is not an object"),
        strict=True,
    ):
        assert part in text
    assert "meta.json, entry 2" in texts(findings)[1]
    findings = Findings()
    config = SubsetConfig(image_dir=None, metadata_file=tmp_path / "meta.json")
    scan(DataConfig(datasets=(dataset(config),)), 0, findings)
    assert "is not absolute, and the subset has no image_dir" in texts(findings)[1]


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="zibu\u2028in the\x0brain\r\nsecond")
    assert one(tmp_path).caption == "zibu\u2028in the\x0brain"
    lines = '{"image_path": "a.png", "caption": "x\u2028y"}\n\n{"broken\n'
    lines += '{"image_path": "a.png", "caption": "z"}\n'
    (tmp_path / "meta.jsonl").write_text(lines, encoding="utf-8")
    findings = Findings()
    samples = scan(
        DataConfig(datasets=(dataset(subset(tmp_path, metadata_file=tmp_path / "meta.jsonl")),)),
        0,
        findings,
    )
    assert [s.caption for s in samples] == ["x\u2028y", "z"]
    assert [p.where.rpartition(", ")[2] for p in findings.errors] == ["line 3"]


def test_half_characters_in_metadata_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    _, findings = metadata(tmp_path, {"a.png": {"caption": "\ud83d"}, "\ud83d": {"caption": "x"}})
    assert len(findings.errors) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "must hold an object"),
        (b"{", "cannot read"),
        (b"\xff", "cannot read"),
        (b"[" * 100_000, "cannot read"),
        (None, "not found"),
    ],
)
def test_broken_metadata_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "meta.json").write_bytes(content)
    findings = Findings()
    scan(
        DataConfig(datasets=(dataset(subset(tmp_path, metadata_file=tmp_path / "meta.json")),)),
        0,
        findings,
    )
    assert message in texts(findings)[0]


def test_equal_names_in_two_subsets_stay_two_images(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        picture(tmp_path / folder / "1.png", caption=folder)
        picture(tmp_path / folder / "2.png", caption=folder)
    findings = Findings()
    samples = scan(
        DataConfig(datasets=(dataset(subset(tmp_path / "x"), subset(tmp_path / "y")),)), 0, findings
    )
    assert [s.caption for s in samples] == ["x", "x", "y", "y"]


# Masks


def test_masks_are_matched_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", (8, 6))
    picture(tmp_path / "masks" / "a.jpg", (4, 3), "white")
    picture(tmp_path / "masks" / "spare.png", (4, 3), "white")
    samples, findings = scanned(tmp_path / "images", mask_dir=tmp_path / "masks")
    assert [s.mask and s.mask.name for s in samples] == ["a.jpg"]
    assert "1 mask belongs to no image: spare" in findings.warnings[-1].what


def test_images_of_one_name_share_a_mask_and_subsets_share_a_folder(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/b.png", "reg/r.png"):
        picture(tmp_path / name)
    for name in ("a", "b"):
        picture(tmp_path / "masks" / f"{name}.png", colour="white")
    findings = Findings()
    config = [
        subset(tmp_path / name, mask_dir=tmp_path / "masks", regularisation=name == "reg")
        for name in ("x", "y", "reg")
    ]
    samples = scan(DataConfig(datasets=(dataset(*config),)), 0, findings)
    assert [s.mask and s.mask.name for s in samples] == ["a.png", "a.png", "b.png", None]
    assert not findings.errors
    assert not any("masks" in w.what for w in findings.warnings)


def test_masks_that_are_missing_broken_or_of_another_shape(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png", (8, 6))
    picture(tmp_path / "masks" / "a.png", (6, 8))
    (tmp_path / "masks" / "b.png").write_bytes(b"")
    _, findings = scanned(tmp_path / "images", mask_dir=tmp_path / "masks")
    assert [p.what for p in findings.errors] == [
        "the image has no mask",
        "the mask is 6x8, and its image 8x6",
        "unreadable mask: the file is empty",
    ]


# Held-out and regularisation images


def samples_of(count: int, repeats: int = 1, **rules: object) -> list[Sample]:
    config = subset(Path(), num_repeats=repeats, **rules)
    return [
        Sample(Path(f"{i}.png"), "", config, 0, (8, 8), Fit((8, 8), (8, 8), (0, 0)), repeats)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "share", "train", "held"),
    [
        (10, 0.2, 8, 2),
        (10, 0.25, 8, 2),
        (6, 0.25, 4, 2),
        (7, 0.5, 3, 4),
        (3, 0.1, 3, 0),
        (5, 1, 0, 5),
        (0, 0.5, 0, 0),
    ],
)
def test_held_out_images_are_never_trained_on(
    count: int, share: float, train: int, held: int
) -> None:
    found = hold_out(samples_of(count, repeats=3, validation_split=share), seed=1)
    assert [s.path for s in found] == [s.path for s in samples_of(count)]
    assert (
        sum(s.repeats == 3 for s in found),
        sum(s.held_out and s.repeats == 0 for s in found),
    ) == (train, held)


def test_the_choice_depends_on_the_seed_alone() -> None:
    def chosen(seed: int) -> list[bool]:
        return [s.held_out for s in hold_out(samples_of(20, validation_split=0.5), seed)]

    assert chosen(1) == chosen(1) != chosen(2)


def test_an_image_held_out_in_one_place_trains_in_none(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"{i}.png")
    findings = Findings()
    data = DataConfig(
        datasets=(dataset(subset(tmp_path, validation_split=0.5)), dataset(subset(tmp_path)))
    )
    samples = scan(data, 0, findings)
    held_out = {s.path for s in samples if s.held_out}
    assert len(held_out) == 2
    assert not held_out & {s.path for s in samples if s.repeats}
    assert len(samples) == 6


def test_regularisation_images_are_not_held_out() -> None:
    assert not any(
        s.held_out for s in hold_out(samples_of(4, validation_split=0.5, regularisation=True), 0)
    )


@pytest.mark.parametrize(
    ("wanted", "own", "repeats"),
    [
        (10, [1, 1, 1], [4, 3, 3]),
        (20, [4, 4, 4], [7, 7, 6]),
        (3, [1] * 10, [1] * 3 + [0] * 7),
        (0, [1], [0]),
    ],
)
def test_regularisation_images_are_repeated_to_balance(
    wanted: int, own: list[int], repeats: list[int]
) -> None:
    assert regularisation_repeats(wanted, own) == repeats
    assert sum(regularisation_repeats(10**12, [1, 2])) == 10**12


@given(st.integers(0, 60), st.lists(st.integers(1, 5), max_size=6))
def test_balance_is_reached_and_barely_exceeded(wanted: int, own: list[int]) -> None:
    total = sum(regularisation_repeats(wanted, own))
    assert not own or wanted <= total < wanted + max(own)


def test_unneeded_regularisation_images_are_left_out() -> None:
    findings = Findings()
    found = balance_regularisation([*samples_of(3), *samples_of(10, regularisation=True)], findings)
    assert [s.repeats for s in found] == [1] * 6
    assert "7 of 10 regularisation images, not needed" in findings.warnings[0].what


def test_the_orientation_tag_turns_the_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.new("RGB", (4, 2)).save(tmp_path / name, exif=exif)
    samples, _ = scanned(tmp_path)
    assert [(s.image_wh, s.rotated) for s in samples] == [((2, 4), True)] * 3
    samples, _ = scanned(tmp_path, as_reference=True)
    assert [(s.image_wh, s.rotated) for s in samples] == [((4, 2), False)] * 3
