"""Orientations: read wherever Pillow and macOS read them, and the same by the header as by the decoder."""

import binascii
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from coinage.data.headers import HEAD, MOST_TEXT, orientation_in, read_header
from coinage.data.images import decode
from coinage.data_config import ImageRules
from tests.data.pictures import picture

SIZE = (24, 16)
PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF>'
    '</x:xmpmeta><?xpacket end="w"?>'
)
ATTRIBUTE = PACKET.format(
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/>'
)
ELEMENT = PACKET.format(
    "<rdf:Description><tiff:Orientation>{}</tiff:Orientation></rdf:Description>"
)


def pixels(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def raw_profile(orientation: int) -> bytes:
    """As ImageMagick writes EXIF data: a name, a length, and hexadecimal digits in lines of 72."""
    digits = binascii.hexlify(exif_of(orientation)).decode()
    body = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\nexif\n{len(digits) // 2:8}\n{body}\n".encode()


def saved(image: Image.Image, kind: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)  # type: ignore[arg-type]
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    before: bytes = b"", after: bytes = b"", pixel_chunk: int = 2**20, size: tuple[int, int] = SIZE
) -> bytes:
    """A PNG whose pixels come in chunks of a length, with other chunks in front of them and behind."""
    data = saved(pixels(size), "PNG", compress_level=0)
    start = data.index(b"IDAT") - 4
    body, at = b"", start
    while data[at + 4 : at + 8] == b"IDAT":
        (length,) = struct.unpack_from(">I", data, at)
        body, at = body + data[at + 8 : at + 8 + length], at + 12 + length
    parts = [chunk(b"IDAT", body[i : i + pixel_chunk]) for i in range(0, len(body), pixel_chunk)]
    return data[:start] + before + b"".join(parts) + after + data[-12:]


def exif_chunk(value: int) -> bytes:
    return chunk(b"eXIf", exif_of(value).removeprefix(b"Exif\0\0"))


def xmp_chunk(value: int, packed: bool = False, packet: str = ATTRIBUTE) -> bytes:
    text = packet.format(value).encode()
    return chunk(
        b"iTXt",
        b"XML:com.adobe.xmp\0"
        + bytes([packed, 0])
        + b"\0\0"
        + (zlib.compress(text) if packed else text),
    )


def raw_chunk(value: int, packed: bool) -> bytes:
    keyword, text = b"Raw profile type exif\0", raw_profile(value)
    return (
        chunk(b"zTXt", keyword + b"\0" + zlib.compress(text))
        if packed
        else chunk(b"tEXt", keyword + text)
    )


# What a program writes that draws pictures
TEXT = chunk(b"tEXt", b"parameters\0a photo" + b"." * 6000)
PLACES: dict[str, Callable[[int], bytes]] = {
    "png, EXIF before": lambda value: png(before=exif_chunk(value)),
    "png, EXIF before, behind a long text": lambda value: png(before=TEXT + exif_chunk(value)),
    "png, EXIF after": lambda value: png(after=exif_chunk(value)),
    "png, EXIF after many chunks of pixels": lambda value: png(
        after=TEXT + exif_chunk(value), pixel_chunk=100, size=(96, 64)
    ),
    "png, XMP before": lambda value: png(before=xmp_chunk(value)),
    "png, XMP after": lambda value: png(after=xmp_chunk(value), pixel_chunk=1000, size=(96, 64)),
    "png, XMP packed": lambda value: png(after=xmp_chunk(value, packed=True)),
    "png, XMP as an element": lambda value: png(before=xmp_chunk(value, packet=ELEMENT)),
    "png, raw profile": lambda value: png(before=raw_chunk(value, packed=False)),
    "png, raw profile packed": lambda value: png(before=raw_chunk(value, packed=True)),
    "png, raw profile after": lambda value: png(after=raw_chunk(value, packed=True)),
    "png, EXIF wins over XMP": lambda value: png(
        before=xmp_chunk(9 - value), after=exif_chunk(value)
    ),
    "jpg, EXIF": lambda value: saved(pixels(), "JPEG", exif=exif_of(value)),
    "jpg, XMP": lambda value: saved(pixels(), "JPEG", xmp=ATTRIBUTE.format(value).encode()),
    "jpg, XMP as an element": lambda value: saved(
        pixels(), "JPEG", xmp=ELEMENT.format(value).encode()
    ),
    "webp, EXIF": lambda value: saved(pixels(), "WEBP", exif=exif_of(value), lossless=True),
    "webp, XMP": lambda value: saved(
        pixels(), "WEBP", xmp=ATTRIBUTE.format(value).encode(), lossless=True
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_orientation_is_read_in_every_place(tmp_path: Path, place: str) -> None:
    """Against Pillow's own turning of the decoded image, for sizes and pixels."""
    for value in range(1, 9):
        path = tmp_path / f"{value}.{place.partition(',')[0]}"
        path.write_bytes(PLACES[place](value))
        with Image.open(path) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        header = read_header(path)
        assert header.orientation == value
        rgb, _ = decode(path, ImageRules())
        assert header.upright_wh == rgb.size == expected.size
        assert np.array_equal(np.asarray(rgb), np.asarray(expected))


@pytest.mark.parametrize("value", [1, 6])
@pytest.mark.parametrize("marker", ["EXIF", "XMP"])
def test_orientation_behind_the_size_of_a_jpeg(tmp_path: Path, value: int, marker: str) -> None:
    """Odd and legal: the marker moves behind the frame header."""
    data = PLACES[f"jpg, {marker}"](value)
    start = data.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    block, rest = data[start:end], data[:start] + data[end:]
    behind = rest.index(b"\xff\xc4")
    (tmp_path / "a.jpg").write_bytes(rest[:behind] + block + rest[behind:])
    assert read_header(tmp_path / "a.jpg").orientation == value


@settings(max_examples=30, deadline=None)
@given(
    st.integers(50, 9000),
    st.sampled_from([(8, 8), (96, 64), (64, 96)]),
    st.integers(0, 9),
    st.lists(
        st.sampled_from([TEXT, chunk(b"tIME", b"\0" * 7), chunk(b"prVt", b"x" * 300)]), max_size=3
    ),
    st.booleans(),
)
def test_header_and_decoder_agree_however_a_png_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    size: tuple[int, int],
    value: int,
    others: list[bytes],
    first: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.png"
    block = exif_chunk(value) if value else b""
    path.write_bytes(
        png(
            after=block + b"".join(others) if first else b"".join(others) + block,
            pixel_chunk=length,
            size=size,
        )
    )
    header = read_header(path)
    assert header.stored_wh == size
    assert header.orientation == (value if 1 <= value <= 8 else 1)
    assert decode(path, ImageRules())[0].size == header.upright_wh


@pytest.mark.parametrize("cut", [100, 8000, 13])
def test_a_png_that_ends_too_soon_has_its_size(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.png").write_bytes(png(pixel_chunk=1000, size=(96, 64))[:-cut])
    assert read_header(tmp_path / "a.png").stored_wh == (96, 64)


@pytest.mark.parametrize(
    "block",
    [
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"eXIf", b""),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not packed"),
        chunk(b"zTXt", b"Raw profile type exif\0\0not packed"),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 3\nxyz"),
        chunk(b"tEXt", b"Raw profile type exif\0"),
        xmp_chunk(0),
        xmp_chunk(9),
        exif_chunk(0),
    ],
)
def test_a_broken_orientation_counts_as_upright(tmp_path: Path, block: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(after=block))
    assert read_header(tmp_path / "a.png").orientation == 1


def test_a_text_that_unpacks_to_gigabytes_is_not(tmp_path: Path) -> None:
    bomb = zlib.compress(b"0" * (4 * MOST_TEXT))
    (tmp_path / "a.png").write_bytes(
        png(before=chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb))
    )
    assert read_header(tmp_path / "a.png").orientation == 1


def test_a_plain_png_is_looked_at_in_a_few_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many chunks its pixels come in: a photo is not read whole for its size."""
    path = tmp_path / "a.png"
    path.write_bytes(png(pixel_chunk=64, size=(256, 256)))
    assert path.read_bytes().count(b"IDAT") > 3000
    read: list[int] = []
    from coinage.data import headers

    plain = headers._bytes_at
    monkeypatch.setattr(headers, "_bytes_at", lambda *args: read.append(args[3]) or plain(*args))
    assert read_header(path).stored_wh == (256, 256)
    assert len(read) < 30
    assert sum(read) < HEAD


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, 1),
        ({"exif": exif_of(6)}, 6),
        ({"exif": exif_of(1), "xmp": ATTRIBUTE.format(6).encode()}, 1),
        ({"exif": b"Exif\0\0", "xmp": ATTRIBUTE.format(6).encode()}, 6),
        ({"xmp": b"<x tiff:Orientation='8'/>"}, 8),
        ({"xmp": b"<x exif:Orientation='8'/>"}, 1),
    ],
)
def test_which_place_counts(told: dict[str, bytes], expected: int) -> None:
    assert orientation_in(told) == expected


def test_the_reference_turns_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(after=exif_chunk(6)))
    assert decode(tmp_path / "a.png", ImageRules(as_reference=True))[0].size == SIZE
    assert picture(tmp_path / "b.png").exists()
