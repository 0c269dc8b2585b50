"""What becomes of files that are sent as images and masks."""

import io
import os
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image, features
from starlette.testclient import TestClient

from coinage.data.images import decode
from coinage.data_config import ImageRules
from coinage.ui import images
from coinage.ui.image_list import pictures_of
from coinage.ui.site import Site
from tests.ui.sites import client_of, picture, upload

SVG = (
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
)
TURNED = Image.Exif()
TURNED[0x0112] = 6
TURNED[0x010E] = "taken at home"


def animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def huge_png() -> bytes:
    """A small file that says that it has 60,000 x 60,000 pixels."""
    data = bytearray(picture())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


NO_IMAGES = {
    "text named .png": (b"hello, this is a text", "this is text, not an image"),
    "a page": (b"<!doctype html><script>alert(1)</script>", "this is text, not an image"),
    "svg": (SVG, "a drawing in SVG"),
    "empty": (b"", "the file is empty"),
    "noise": (bytes(range(256)) * 4, "this is not an image"),
    "truncated png": (picture(size=(400, 400))[:-200], "the image is damaged"),
    "truncated jpeg": (picture("JPEG", (400, 400))[:1500], "the image is damaged"),
    "bomb": (huge_png(), "too large"),
    "gif film": (animation("GIF"), "a film or has several pages"),
    "webp film": (animation("WEBP"), "a film or has several pages"),
    "png film": (animation("PNG"), "a film or has several pages"),
    "tiff of pages": (animation("TIFF"), "a film or has several pages"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "this is text, not an image"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image(name: str, client: TestClient, word: str, site: Site) -> None:
    data, reason = NO_IMAGES[name]
    answer = client.put(f"/api/words/{word}/images?name=a.png", content=data)
    assert answer.status_code == 400
    (problem,) = answer.json()["problems"]
    assert reason in problem["what"]
    assert "\n" not in problem["what"]
    folder = site.workspace.word(word)
    assert [path.name for path in folder.path.iterdir()] == ["word.json"]
    assert pictures_of(folder).ids == ()


def kept(site: Site, word: str) -> list[Path]:
    return sorted(site.workspace.word(word).images.iterdir())


KEPT = {
    "png": (picture(), ".png"),
    "jpeg": (picture("JPEG"), ".jpg"),
    "webp": (picture("WEBP"), ".webp"),
    "cmyk": (picture("JPEG", mode="CMYK"), ".jpg"),
    "transparent": (picture(mode="LA"), ".png"),
    "palette": (picture(mode="P"), ".png"),
    "16 bit": (picture(mode="I;16"), ".png"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_training_reads_is_kept_as_it_is(
    name: str, client: TestClient, word: str, site: Site
) -> None:
    data, suffix = KEPT[name]
    image = upload(client, word, data, "named.bmp")
    assert (image["width"], image["height"], image["bytes"]) == (48, 32, len(data))
    (path,) = kept(site, word)
    assert path.name == f"{image['id']}{suffix}"
    assert path.read_bytes() == data
    assert decode(path, ImageRules())[0].size == (48, 32)
    thumb = client.get(f"/api/words/{word}/images/{image['id']}/thumb")
    assert thumb.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(thumb.content)) as small:
        assert small.size == (48, 32)
        assert spread(small) > 100  # the gradient is in it, 16 bits not cut off
    full = client.get(f"/api/words/{word}/images/{image['id']}/full")
    assert full.content == data


def spread(image: Image.Image) -> int:
    low, high = image.convert("L").getextrema()
    assert isinstance(low, int)
    assert isinstance(high, int)
    return high - low


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_other_formats_become_png(kind: str, client: TestClient, word: str, site: Site) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    upload(client, word, picture(kind))
    (path,) = kept(site, word)
    with Image.open(path) as image:
        assert (path.suffix, image.format, image.size) == (".png", "PNG", (48, 32))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_turned_photos_stand_upright(kind: str, client: TestClient, word: str, site: Site) -> None:
    image = upload(client, word, picture(kind, exif=TURNED.tobytes()))
    assert (image["width"], image["height"]) == (32, 48)
    assert decode(kept(site, word)[0], ImageRules())[0].size == (32, 48)
    data = client.get(f"/api/words/{word}/images/{image['id']}/thumb").content
    assert b"at home" not in data
    with Image.open(io.BytesIO(data)) as thumb:
        assert thumb.size == (32, 48)
        assert not thumb.getexif()


def test_a_large_image_has_a_small_picture(client: TestClient, word: str) -> None:
    image = upload(client, word, picture("JPEG", (1600, 400)))
    data = client.get(f"/api/words/{word}/images/{image['id']}/thumb").content
    with Image.open(io.BytesIO(data)) as thumb:
        assert thumb.size == (320, 80)


def test_names_are_text(client: TestClient, word: str, site: Site) -> None:
    names = {
        "../../x.png": "../../x.png",
        "C:\\Windows\\x.png": "C:\\Windows\\x.png",
        '<img src=x onerror="alert(1)">.png': '<img src=x onerror="alert(1)">.png',
        "a\x00b\x1b[2J\n.png": "ab[2J.png",
        "ok" * 200: "ok" * 100,
    }
    for name, shown in names.items():
        assert upload(client, word, picture(), name)["name"] == shown
    assert len(kept(site, word)) == len(names)
    assert {path.parent for path in site.workspace.root.rglob("*.png")} == {
        site.workspace.word(word).images
    }


@pytest.mark.parametrize("place", ["upload", "thumb", "list"])
def test_a_full_disk_leaves_nothing(
    place: str, client: TestClient, word: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing ends at /dev/full, as on a disk without room."""
    folder = site.workspace.word(word)
    upload(client, word, picture())
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    monkeypatch.setattr(images, "new_image_id", lambda: "0123456789ab")
    part = {
        "upload": folder.path / ".0123456789ab.upload",
        "thumb": folder.thumbs / f".0123456789ab.webp.{os.getpid()}.tmp",
        "list": folder.path / f".images.json.{os.getpid()}.tmp",
    }[place]
    part.symlink_to("/dev/full")
    answer = client.put(f"/api/words/{word}/images", content=picture("PNG", (300, 300)))
    assert answer.status_code == 507
    assert "No space left" in answer.json()["problems"][0]["what"]
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_two_browsers_send_at_once(site: Site) -> None:
    with client_of(site) as browser:
        word = str(browser.post("/api/words", json={"token": "zibu"}).json()["id"])
        data = picture()
        start = threading.Barrier(8)

        def send(number: int) -> str:
            start.wait()
            return str(upload(browser, word, data, f"{number}.png")["id"])

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(send, range(8)))
        listed = browser.get(f"/api/words/{word}").json()["images"]
    assert {image["id"] for image in listed} == set(ids)
    assert {image["name"] for image in listed} == {f"{number}.png" for number in range(8)}


def test_too_many_images(client: TestClient, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_IMAGES", 2)
    upload(client, word, picture())
    upload(client, word, picture())
    answer = client.put(f"/api/words/{word}/images", content=picture())
    assert answer.status_code == 400
    assert "2 images at most" in answer.json()["problems"][0]["what"]


def test_a_deleted_image_is_in_the_trash(client: TestClient, word: str, site: Site) -> None:
    image = upload(client, word, picture())["id"]
    client.patch(f"/api/words/{word}/images/{image}", json={"caption": "a zibu"})
    assert client.delete(f"/api/words/{word}/images/{image}").status_code == 200
    assert client.get(f"/api/words/{word}").json()["images"] == []
    left = {path.name: path for path in site.workspace.trash.rglob("*") if path.is_file()}
    assert set(left) == {f"{image}.png", f"{image}.txt"}
    assert left[f"{image}.txt"].read_text() == "a zibu\n"
    assert client.delete(f"/api/words/{word}/images/{image}").status_code == 404


@pytest.mark.parametrize("what", ["thumb", "full", "mask", "other", "word.json"])
@pytest.mark.parametrize("image", ["0123456789ab", "..", "word", "0123456789AB"])
def test_pictures_that_are_none(what: str, image: str, client: TestClient, word: str) -> None:
    assert client.get(f"/api/words/{word}/images/{image}/{what}").status_code == 404


def test_a_link_is_no_image(client: TestClient, word: str, site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    folder = site.workspace.word(word).images
    folder.mkdir()
    (folder / "0123456789ab.png").symlink_to(secret)
    assert client.get(f"/api/words/{word}/images/0123456789ab/full").status_code == 404


# Masks


def test_a_mask(client: TestClient, word: str, site: Site) -> None:
    image = upload(client, word, picture())["id"]
    address = f"/api/words/{word}/images/{image}/mask"
    assert client.get(address).status_code == 404
    answer = client.put(address, content=picture(size=(96, 64), mode="RGB"))
    assert answer.json()["image"]["mask"] is True
    with Image.open(io.BytesIO(client.get(address).content)) as mask:
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (48, 32))
        assert spread(mask) > 200
    assert client.delete(address).json()["image"]["mask"] is False
    assert client.get(address).status_code == 404
    assert [path.name for path in site.workspace.trash.rglob("*.png")] == [f"{image}.png"]


def test_what_is_transparent_in_a_mask_does_not_count(client: TestClient, word: str) -> None:
    image = upload(client, word, picture())["id"]
    buffer = io.BytesIO()
    Image.new("RGBA", (48, 32), (255, 255, 255, 0)).save(buffer, "PNG")
    client.put(f"/api/words/{word}/images/{image}/mask", content=buffer.getvalue())
    data = client.get(f"/api/words/{word}/images/{image}/mask").content
    with Image.open(io.BytesIO(data)) as mask:
        assert mask.getextrema() == (0, 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (picture(size=(32, 48)), "the mask is 32x48, and its image 48x32"),
        (b"text", "this is text, not an image"),
        (huge_png(), "too large"),
    ],
)
def test_masks_that_are_none(data: bytes, reason: str, client: TestClient, word: str) -> None:
    image = upload(client, word, picture())["id"]
    answer = client.put(f"/api/words/{word}/images/{image}/mask", content=data)
    assert answer.status_code == 400
    assert reason in answer.json()["problems"][0]["what"]
    missing = client.put(f"/api/words/{word}/images/0123456789ab/mask", content=data)
    assert missing.status_code == 404
