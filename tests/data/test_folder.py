"""Whatever lies in a folder is seen, or told, or meant for nobody."""

import json
import time
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from coinage.data.captioned_images import NO_CAPTIONS, has_captions
from coinage.data.folder import OTHER_KINDS, is_image, match_captions
from coinage.data.metadata import MOST_CAPTION
from coinage.data.sample import Sample
from coinage.data.scan import scan
from coinage.data_config import DataConfig
from coinage.errors import Findings
from tests.data.pictures import dataset, picture, scanned, subset

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))


def everything(findings: Findings) -> list[str]:
    return [*map(str, findings.errors), *map(str, findings.warnings), *findings.notes]


def put(folder: Path, *names: str, text: str = "a photo of zibu") -> None:
    """Images, and texts under all other names."""
    for name in names:
        path, suffix = folder / name, Path(name).suffix.lower()
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_image(name) or suffix in (".gif", ".tiff"):
            with path.open("wb") as file:
                Image.new("RGB", (8, 8), "red").save(
                    file, "JPEG" if suffix.startswith(".j") else "PNG"
                )
        else:
            path.write_text(text, encoding="utf-8")


# Whose caption a text is


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["IMG_0.JPG", "IMG_0.TXT"], {"IMG_0.JPG": "IMG_0.TXT"}),
        (["a.png", "a.Caption", "b.png", "b.tXt"], {"a.png": "a.Caption", "b.png": "b.tXt"}),
        (["IMG_0.JPG", "img_0.txt"], {"IMG_0.JPG": "img_0.txt"}),
        (["A.png", "a.png", "A.txt"], {"A.png": "A.txt"}),
        (["A.png", "a.png", "A.txt", "a.txt"], {"A.png": "A.txt", "a.png": "a.txt"}),
        (["01.png", "01.png.txt"], {"01.png": "01.png.txt"}),
        (["01.PNG", "01.png.TXT"], {"01.PNG": "01.png.TXT"}),
        (
            ["a.png", "a.jpg", "a.png.txt", "a.jpg.txt"],
            {"a.png": "a.png.txt", "a.jpg": "a.jpg.txt"},
        ),
        (["a.png", "a.txt", "a.png.txt"], {"a.png": "a.txt"}),
        (["a.png", "a.caption", "a.txt"], {"a.png": "a.caption"}),
        (["c_1_2_3_4.png", "c.txt"], {"c_1_2_3_4.png": "c.txt"}),
        (["c_1_2_3_4.png", "C.TXT"], {"c_1_2_3_4.png": "C.TXT"}),
        ([f"{DECOMPOSED}.png", f"{COMPOSED}.txt"], {f"{DECOMPOSED}.png": f"{COMPOSED}.txt"}),
        ([f"{COMPOSED}.png", f"{DECOMPOSED}.TXT"], {f"{COMPOSED}.png": f"{DECOMPOSED}.TXT"}),
        (["a.png", "b.txt", "notes.txt"], {}),
    ],
)
def test_each_image_gets_its_caption(names: list[str], expected: dict[str, str]) -> None:
    images = [name for name in names if is_image(name)]
    assert match_captions(images, dict.fromkeys(names), (".caption", ".txt")) == expected


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.png", "a.txt"], ""),
        (["a.png", "a.txt", "b.txt", "c.TXT"], "2 caption files belong to no image: b.txt, c.TXT"),
        (["a.png", "renamed.txt"], "1 caption file belongs to no image: renamed.txt"),
        (["a.png", "a.txt", "notes.txt", "README.TXT", "License.txt"], ""),
        (
            ["a.png", "a.txt", "b.gif", "b.txt"],
            "1 image of another kind is left out: 1 .gif (b.gif)",
        ),
        (
            ["a.png", "a.caption", "a.txt"],
            "not read, since their images have another caption file: a.txt",
        ),
        (["a.png", "a.jpg", "a.txt"], "1 caption belongs to more than one image: a.jpg and a.png"),
        (["a.png", "a.jpg", "a.png.txt", "a.jpg.txt"], ""),
        (["a.png", "a.txt", "a.npz", "a.json"], ""),
    ],
)
def test_captions_that_are_nobodys_are_told(tmp_path: Path, names: list[str], told: str) -> None:
    put(tmp_path, *names)
    found = [text for text in everything(scanned(tmp_path)[1]) if "no caption" not in text]
    assert len(found) == bool(told)
    assert told in "".join(found)


def test_nobodys_captions_are_told_where_sentences_take_their_place(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png", "beach.txt")
    assert (
        "1 caption file belongs to no image: beach.txt"
        in everything(scanned(tmp_path, template="object")[1])[0]
    )


def test_lines_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for name, text in (("a", "zibu\r\nsolo\r\n"), ("b", "zibu\n\nred\nround"), ("c", "\nzibu\n")):
        picture(tmp_path / f"{name}.png", caption=text)
    samples, findings = scanned(tmp_path)
    assert [sample.caption for sample in samples] == ["zibu"] * 3
    (note,) = findings.notes
    assert "2 captions have more than one line; only the first is read" in note
    assert not scanned(tmp_path, wildcard=True)[1].notes
    assert not scanned(tmp_path, template="style")[1].notes


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("zibu été".encode(), "zibu été"),
        ("zibu été".encode("utf-8-sig"), "zibu été"),
        ("zibu été".encode("utf-16"), "zibu été"),
        (b"\xfe\xff" + "zibu été".encode("utf-16-be"), "zibu été"),
        ("zibu été".encode("cp1252"), "not text in UTF-8: byte 0xe9 at position 5"),
        ("zibu, 青い空".encode("cp932"), "not text in UTF-8: byte"),
        ("zibu été".encode("utf-16-le"), "it looks like UTF-16"),
        (b"\xff\xfez", "not text in UTF-8"),
        (b"x" * (MOST_CAPTION + 1), "the caption is longer than 64 kB"),
        (b"x" * MOST_CAPTION, "x" * MOST_CAPTION),
        (b"", "the caption file is empty"),
    ],
)
def test_how_captions_are_written(tmp_path: Path, data: bytes, expected: str) -> None:
    picture(tmp_path / "1.png").with_suffix(".txt").write_bytes(data)
    samples, findings = scanned(tmp_path)
    if findings.errors:
        assert not findings.warnings, "it is broken, not missing"
        assert expected in findings.errors[0].what
        assert findings.errors[0].where.endswith("1.txt")
        assert findings.errors[0].hint
        assert (
            "UTF-8" not in findings.errors[0].what
            or findings.errors[0].hint == "save it as UTF-8 in your editor"
        )
    else:
        assert samples[0].caption == expected


def test_a_huge_caption_is_told_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    with (tmp_path / "1.txt").open("wb") as file:
        file.truncate(2**33)
    began = time.process_time()
    _, findings = scanned(tmp_path)
    assert "longer than 64 kB" in findings.errors[0].what
    assert time.process_time() - began < 1


def test_many_faults_of_one_kind_are_one_error(tmp_path: Path) -> None:
    for number in range(30):
        picture(tmp_path / f"{number:02}.png").with_suffix(".txt").write_bytes(b"\xe9")
        (tmp_path / f"x{number:02}.png").write_bytes(b"")
    _, findings = scanned(tmp_path)
    captions, images = findings.errors
    assert captions.what.startswith("30 captions cannot be used; the first: unreadable caption")
    assert "00.txt" in captions.where
    assert captions.where.endswith("and 27 more")
    assert images.what == "30 images cannot be used; the first: unreadable image: the file is empty"


# What is left out

HIDDEN = (
    "._1.png",
    ".x.jpg",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX/1.png",
    "@eaDir/1.png",
    ".thumbs/1.png",
)


def test_what_systems_leave_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "i", "1.png", "1.txt")
    put(tmp_path / "m", "1.png")
    for folder in ("i", "m", "r"):
        for name in (*HIDDEN, "._1.txt"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(b"\0\5\x16\7")
    put(tmp_path / "r", "1.png", "1.txt")
    findings = Findings()
    config = [
        subset(tmp_path / "i", mask_dir=tmp_path / "m"),
        subset(tmp_path / "r", regularisation=True),
    ]
    samples = scan(DataConfig(datasets=(dataset(*config),)), 0, findings)
    assert [sample.path.name for sample in samples] == ["1.png", "1.png"]
    assert everything(findings) == []


@pytest.mark.parametrize("suffix", sorted(OTHER_KINDS))
def test_every_other_kind_is_told(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "1.png", caption="zibu")
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}{suffix.upper()}").write_bytes(b"x")
    samples, findings = scanned(tmp_path)
    assert len(samples) == 1
    assert [w.what for w in findings.warnings] == [
        f"3 images of other kinds are left out: 3 {suffix} (a{suffix.upper()}, b{suffix.upper()} and 1 more)"
    ]
    assert findings.warnings[0].hint == "save them as PNG or JPEG"


@pytest.mark.parametrize("name", ["1.jfif", "1.JPE", "1.jif", "1.JPEG", "1.Jpg"])
def test_a_jpeg_by_any_name_is_read(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, "1.txt")
    samples, findings = scanned(tmp_path)
    assert [(sample.path.name, sample.caption) for sample in samples] == [(name, "a photo of zibu")]
    assert everything(findings) == []


def test_a_folder_of_other_kinds_alone_is_an_error_that_names_them(tmp_path: Path) -> None:
    put(tmp_path, "1.gif", "2.GIF", "3.tiff", "1.txt")
    _, findings = scanned(tmp_path)
    assert [p.what for p in findings.errors] == [
        "no image that can be read, only 2 .gif (1.gif, 2.GIF), 1 .tiff (3.tiff)"
    ]


def test_images_without_a_suffix_are_told(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "1.txt", "Makefile")
    for name, kind in (("a", "PNG"), ("b", "JPEG"), ("c", "WEBP"), ("d", "GIF")):
        Image.new("RGB", (8, 8)).save(tmp_path / name, kind)
    (warning,) = scanned(tmp_path)[1].warnings
    assert (
        warning.what == "4 images of other kinds are left out: 4 without a suffix (a, b and 2 more)"
    )
    assert warning.hint == "add the suffix, such as .png"


def test_kinds_whose_plugin_is_missing_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.data.folder.find_spec", lambda _: None)
    monkeypatch.setattr("PIL.features.check", lambda _: False)
    put(tmp_path, "1.png", "1.txt")
    for name in ("2.avif", "3.jxl"):
        (tmp_path / name).write_bytes(b"x")
    samples, findings = scanned(tmp_path)
    assert len(samples) == 1
    assert findings.warnings[0].what.endswith("left out: 1 .avif (2.avif), 1 .jxl (3.jxl)")
    assert findings.warnings[0].hint == "install pillow-jxl-plugin; install pillow-avif-plugin"


def test_other_kinds_among_masks_are_told(tmp_path: Path) -> None:
    put(tmp_path / "i", "1.png", "1.txt")
    put(tmp_path / "m", "1.png", "2.gif")
    _, findings = scanned(tmp_path / "i", mask_dir=tmp_path / "m")
    assert "1 image of another kind is left out: 1 .gif (2.gif)" in everything(findings)[0]


def test_a_folder_in_two_datasets_is_told_of_once(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "1.txt", "2.gif", "gone.txt")
    findings = Findings()
    scan(DataConfig(datasets=(dataset(subset(tmp_path)), dataset(subset(tmp_path)))), 0, findings)
    assert len(everything(findings)) == 2


def test_images_in_subfolders_are_told(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "1.txt", "deep/2.png", "masks/1.png", "empty/x.txt")
    _, findings = scanned(tmp_path, mask_dir=tmp_path / "masks")
    assert everything(findings) == [
        f"{tmp_path}: only the images directly in it are taken, not those in its subfolders: deep"
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "no images in {}: the subset is left out"),
        (
            ["a.txt", "b.txt", "c.json"],
            "no images in {}, which holds 2 .txt files and 1 .json file: the subset is left out",
        ),
        (["deep/a.txt"], "no images in {}, which holds 1 folder: the subset is left out"),
    ],
)
def test_a_folder_without_images_is_described(tmp_path: Path, names: list[str], told: str) -> None:
    put(tmp_path, *names)
    (warning,) = scanned(tmp_path)[1].warnings
    assert warning.what == told.format(tmp_path)


def test_masks_are_found_whatever_the_case_and_the_accents(tmp_path: Path) -> None:
    put(tmp_path / "i", "IMG_1.JPG", f"{COMPOSED}.png")
    put(tmp_path / "m", "img_1.png", f"{DECOMPOSED}.PNG")
    samples, findings = scanned(tmp_path / "i", template="object", mask_dir=tmp_path / "m")
    assert [sample.mask is not None for sample in samples] == [True, True]
    assert everything(findings) == []


# A suffix that is meant to fit nothing


@pytest.mark.parametrize("suffix", [*sorted(NO_CAPTIONS), ".None", ".cap"])
@pytest.mark.parametrize("class_tokens", ["zibu toy", None])
def test_where_captions_are_not_wanted_the_class_is_the_caption(
    tmp_path: Path, suffix: str, class_tokens: str | None
) -> None:
    picture(tmp_path / "1.png", caption="a photo of zibu")
    samples, findings = scanned(tmp_path, caption_extensions=(suffix,), class_tokens=class_tokens)
    if class_tokens:
        assert [sample.caption for sample in samples] == [class_tokens]
        assert not findings.errors
        assert "1 have another" in findings.warnings[0].what
        assert "'zibu toy' is taken for all" in findings.warnings[0].hint
    else:
        assert "set caption_extension to .txt" in findings.errors[0].hint


# Hugging Face's image folders


def lines(folder: Path, *records: object) -> None:
    text = "\n".join(
        record if isinstance(record, str) else json.dumps(record) for record in records
    )
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def captions(samples: list[Sample]) -> dict[str, str]:
    return {sample.path.name: sample.caption for sample in samples}


def test_captions_of_an_image_folder(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.PNG", "3.png", f"{COMPOSED}.png")
    put(tmp_path, "3.txt", text="its own file")
    records = [
        ("1.png", "one"),
        ("./2.png", "two\nmore"),
        ("3.png", "never"),
        (f"{DECOMPOSED}.png", "four"),
        ("gone.png", "x"),
    ]
    lines(tmp_path, *({"file_name": name, "text": text} for name, text in records))
    samples, findings = scanned(tmp_path, class_tokens="zibu")
    assert captions(samples) == {
        "1.png": "one",
        "2.PNG": "two",
        "3.png": "its own file",
        f"{COMPOSED}.png": "four",
    }
    assert not findings.errors
    assert [note.split(": ", 1)[1] for note in findings.notes] == [
        "4 images have their captions from it",
        "1 line of it name no image of the folder",
        (
            "1 caption has more than one line; only the first is read; "
            "enable_wildcard takes one of them at random"
        ),
    ]


def test_a_folders_own_file_is_not_read_where_captions_are_not_wanted(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    lines(tmp_path, {"file_name": "1.png", "text": "one"})
    assert captions(scanned(tmp_path, caption_extensions=(".none",), class_tokens="zibu")[0]) == {
        "1.png": "zibu"
    }
    assert captions(scanned(tmp_path, template="object")[0]) == {"1.png": ""}


def test_a_folders_own_file_that_is_broken_stops_nothing(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    lines(
        tmp_path,
        {"file_name": "1.png", "text": "one"},
        "{",
        {"text": "x"},
        {"file_name": "2.png", "text": 3},
    )
    samples, findings = scanned(tmp_path)
    assert captions(samples) == {"1.png": "one", "2.png": ""}
    assert not findings.errors
    assert len(findings.warnings) == 4  # the last: 1 of 2 images have no caption


@pytest.mark.parametrize("key", ["image_path", "file_name"])
@pytest.mark.parametrize("text", ["caption", "text"])
@pytest.mark.parametrize("with_folder", [True, False])
def test_metadata_of_both_kinds(tmp_path: Path, key: str, text: str, with_folder: bool) -> None:
    put(tmp_path, "1.png", "IMG_2.JPG", f"{DECOMPOSED}.png")
    names = ("1.png", "IMG_2", f"{COMPOSED}.png")
    if key == "image_path" and not with_folder:
        names = tuple(str(tmp_path / name) for name in names)
    lines(tmp_path, *({key: name, text: "zibu", "other": 1} for name in names))
    findings = Findings()
    config = subset(tmp_path if with_folder else None, metadata_file=tmp_path / "metadata.jsonl")
    samples = scan(DataConfig(datasets=(dataset(config),)), 0, findings)
    assert sorted(captions(samples).values()) == ["zibu"] * 3
    assert everything(findings) == []


def test_ten_thousand_broken_entries_are_a_few_errors(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    entries = (
        {f"{i}.jpg": {"caption": "x"} for i in range(5000)}
        | {f"x{i}": 7 for i in range(5000)}
        | {"1.png": {"caption": "zibu"}}
    )
    (tmp_path / "meta.json").write_text(json.dumps(entries))
    samples, findings = scanned(tmp_path, metadata_file=tmp_path / "meta.json")
    assert captions(samples) == {"1.png": "zibu"}
    found, broken = findings.errors
    assert found.what.startswith("5,000 entries cannot be used; the first: image not found")
    assert "meta.json, entry 1; " in found.where
    assert (
        broken.what
        == "5,000 entries cannot be used; the first: the entry is not an object with an image path"
    )
    assert len("".join(everything(findings))) < 1500


def test_a_caption_in_metadata_is_bounded(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "meta.json").write_text(
        json.dumps({"1.png": {"caption": "x" * (MOST_CAPTION + 1)}})
    )
    assert (
        "`caption` is too long"
        in scanned(tmp_path, metadata_file=tmp_path / "meta.json")[1].errors[0].what
    )


# Whether a folder has captions at all, which decides what `coinage train` takes in their place


@pytest.mark.parametrize(
    ("names", "suffix", "expected"),
    [
        (["1.png"], ".caption", False),
        (["1.png", "1.txt"], ".caption", True),
        (["1.png", "1.TXT"], ".caption", True),
        (["1.png", "1.png.caption"], ".txt", True),
        (["1.png", "1.tags"], "tags", True),
        (["1.png", "notes.txt"], ".caption", False),
        (["1.png", "readme.txt", "._1.txt"], ".caption", False),
        (["1.png", "metadata.jsonl"], ".caption", True),
        (["1.png", "1.txt"], "", False),
        (["1.png", "1.txt"], "None", False),
    ],
)
def test_whether_a_folder_has_captions(
    tmp_path: Path, names: list[str], suffix: str, expected: bool
) -> None:
    put(tmp_path, *names)
    assert has_captions(tmp_path, suffix) is expected


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device of POSIX")
def test_links_to_devices_are_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", caption="zibu")
    (tmp_path / ".coinage").mkdir()
    for name in ("1.caption", "metadata.jsonl", "notes", ".coinage/sizes-2.json"):
        (tmp_path / name).symlink_to("/dev/zero")
    samples, findings = scanned(tmp_path, cache_sizes=True)
    assert captions(samples) == {"1.png": "zibu"}
    assert not findings.errors
    assert (
        "not a regular file"
        in scanned(tmp_path, metadata_file=tmp_path / "metadata.jsonl")[1].errors[0].what
    )
