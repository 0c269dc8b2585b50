"""Read sizes and orientations of images from their headers, without decoding a pixel."""

from __future__ import annotations

import contextlib
import importlib
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from coinage.data.buckets import Size

ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
MAX_PIXELS = 178_956_970  # half a gigabyte as RGB
HEAD = 4096  # bytes that are read at once
PNG = b"\x89PNG\r\n\x1a\n"
PNG_FIRST = 33  # bytes of a PNG's mark and of its header chunk
MOST_CHUNKS = 20_000  # of a PNG that are walked over; no picture has more
MOST_TEXT = 2**22  # bytes of a PNG's text that are read
SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that hold the size
RAW_PROFILE = "Raw profile type exif"  # ImageMagick's, in hexadecimal
XMP_KEYWORD = "XML:com.adobe.xmp"
KEYWORDS = (RAW_PROFILE.encode() + b"\0", XMP_KEYWORD.encode() + b"\0")
LONGEST_KEYWORD = max(map(len, KEYWORDS))
PILLOW_PLUGINS = {".jxl": "pillow_jxl", ".avif": "pillow_avif"}
XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*(\d)")

# Our own limit is checked on every header, before a pixel is decoded; Pillow's would print a warning.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height as stored, and the orientation, 1 to 8 (1 is upright), from EXIF or XMP."""

    stored_wh: Size
    orientation: int = 1

    @property
    def upright_wh(self) -> Size:
        """Width and height as displayed."""
        width, height = self.stored_wh
        return (height, width) if self.orientation >= 5 else (width, height)


def read_header(path: str | Path) -> Header:
    """Return an image's header.

    PNG and plain JPEG are read here, ten times faster than by Pillow, which reads all others.

    Raises:
        OSError: not an image, no pixels, or too many.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a Path costs as much as the read
        head = file.read(HEAD)
        if not head:
            raise OSError("the file is empty")
        if head.startswith(PNG):
            header = _png(file, head)
        else:
            size = _jpeg_size(head) if head.startswith(b"\xff\xd8") else None
            header = Header(size) if size else None
    header = header or _by_pillow(path)
    check_size(header.stored_wh)
    return header


def check_size(size: Size) -> None:
    """Check that an image has pixels, and not too many.

    Raises:
        OSError: it has none, or too many.
    """
    width, height = size
    if width < 1 or height < 1:
        raise OSError("the image has no pixels")
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS / 1e6:.0f} million pixels"
        raise OSError(f"{width}x{height} is too large: more than {limit}")


# PNG: chunks of length, kind, body, checksum; an orientation may stand before or after the pixels


def _png(file: FileIO, head: bytes) -> Header | None:
    """Return the header of a PNG; None where it does not begin as one."""
    if head[12:16] != b"IHDR" or len(head) < PNG_FIRST:
        return None
    width, height = struct.unpack_from(">II", head, 16)
    end = file.seek(0, 2) if len(head) == HEAD else len(head)
    metadata: dict[str, bytes] = {}
    has_pixels = False
    for at, length, kind in _chunks(file, head, end):
        has_pixels = has_pixels or kind == b"IDAT"
        if kind not in METADATA_CHUNKS:
            continue
        # Of texts the keyword decides: the settings of a drawn picture may be a megabyte.
        start = _bytes_at(file, head, at + 8, LONGEST_KEYWORD)
        if kind == b"eXIf" or start.startswith(KEYWORDS):
            body = _bytes_at(file, head, at + 8, min(length, MOST_TEXT))
            metadata |= METADATA_CHUNKS[kind](body)
    if not has_pixels:
        return None
    return Header((width, height), orientation_in(metadata) if metadata else 1)


def _chunks(file: FileIO, head: bytes, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield place, length and kind of the chunks after the header, without most of the pixels'."""
    at, jumped = PNG_FIRST, False
    for _ in range(MOST_CHUNKS):
        if at + 12 > end:
            return
        length, kind = _chunk(file, head, at)
        yield at, length, kind
        if kind == b"IEND":
            return
        if kind == b"IDAT" and not jumped:
            at, jumped = _last_alike(file, head, at, length, end), True
            length = _chunk(file, head, at)[0]
        at += 12 + length


def _last_alike(file: FileIO, head: bytes, at: int, length: int, end: int) -> int:
    """Return the last place that chunks of pixels, all as long as the first, lead to.

    Encoders write pixels in chunks of one length, hundreds in a photo: two looks replace a walk
    through the file.
    """
    step = 12 + length
    low, high = 0, (end - at) // step
    look = high  # nothing follows the pixels of most files
    while low < high:
        place = at + look * step
        if place + 12 <= end and _chunk(file, head, place)[1] == b"IDAT":
            low = look
        else:
            high = look - 1
        look = (low + high + 1) // 2
    return at + low * step


def _chunk(file: FileIO, head: bytes, at: int) -> tuple[int, bytes]:
    """Return length and kind of the chunk at a place."""
    length, kind = struct.unpack(">I4s", _bytes_at(file, head, at, 8).ljust(8, b"\0"))
    return length, kind


def _bytes_at(file: FileIO, head: bytes, at: int, count: int) -> bytes:
    if at + count <= len(head):
        return head[at : at + count]
    file.seek(at)
    return file.read(count)


def _exif_chunk(body: bytes) -> dict[str, bytes]:
    return {"exif": body}


def _text_chunk(body: bytes) -> dict[str, bytes]:
    """Return the EXIF data of a `tEXt` chunk: keyword, text."""
    keyword, _, text = body.partition(b"\0")
    return {RAW_PROFILE: text} if keyword == RAW_PROFILE.encode() else {}


def _packed_text_chunk(body: bytes) -> dict[str, bytes]:
    """Return the EXIF data of a `zTXt` chunk: keyword, method, packed text."""
    keyword, _, rest = body.partition(b"\0")
    return {RAW_PROFILE: _unpacked(rest[1:])} if keyword == RAW_PROFILE.encode() else {}


def _long_text_chunk(body: bytes) -> dict[str, bytes]:
    """Return the XMP or EXIF data of an `iTXt` chunk.

    It holds keyword, packed or not, method, language, keyword again, text.
    """
    keyword, _, rest = body.partition(b"\0")
    name = {XMP_KEYWORD.encode(): "xmp", RAW_PROFILE.encode(): RAW_PROFILE}.get(keyword)
    parts = rest[2:].split(b"\0", 2)
    if not name or len(parts) < 3:
        return {}
    return {name: _unpacked(parts[2]) if rest[0] else parts[2]}


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST_TEXT)
    except zlib.error:
        return b""


METADATA_CHUNKS = {
    b"eXIf": _exif_chunk,
    b"tEXt": _text_chunk,
    b"zTXt": _packed_text_chunk,
    b"iTXt": _long_text_chunk,
}


# JPEG and the others


def _jpeg_size(head: bytes) -> Size | None:
    """Return the size of a JPEG whose frame header lies within `head`, without EXIF data or XMP."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in SOF:
            if b"Exif\0" in head or b"ns.adobe.com/xap" in head:  # after the size: odd, and legal
                return None
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        if marker == 0xE1 or not 0xC0 <= marker <= 0xFE:
            return None
        at += 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


def _by_pillow(path: str | Path) -> Header:
    plugin = PILLOW_PLUGINS.get(Path(path).suffix.lower())
    if plugin:
        with contextlib.suppress(ImportError):
            importlib.import_module(plugin)  # adds the format to Pillow, where it is installed
    try:
        with Image.open(path) as image:
            return Header(image.size, orientation_in(_as_bytes(image.info)))
    except UnidentifiedImageError:
        raise OSError("not an image, or of an unknown kind") from None
    except OSError:
        raise
    except Exception as error:  # a plugin may raise anything on a broken file
        raise OSError(str(error) or type(error).__name__) from error


def _as_bytes(info: Mapping[Any, Any]) -> dict[str, bytes]:
    """Return the EXIF data and XMP that Pillow has read."""
    metadata = {}
    for name in ("exif", RAW_PROFILE, "xmp"):
        value = info.get(name) or (info.get(XMP_KEYWORD) if name == "xmp" else None)
        if value and isinstance(value, bytes | str):
            metadata[name] = value if isinstance(value, bytes) else value.encode(errors="replace")
    return metadata


def orientation_in(metadata: Mapping[str, bytes]) -> int:
    """Return the orientation in a file's metadata, 1 to 8; 1 when it holds none.

    Args:
        metadata: "exif" data, ImageMagick's raw profile, "xmp"; they count in this order, as in
            Pillow and macOS.
    """
    block = metadata.get("exif") or _from_hexadecimal(metadata.get(RAW_PROFILE, b""))
    value = _in_exif(block) if block else None
    if value is None:
        match = XMP_ORIENTATION.search(metadata.get("xmp", b""))
        value = int(match[1]) if match else 1
    return value if 1 <= value <= 8 else 1


def _from_hexadecimal(text: bytes) -> bytes:
    """Return a raw profile's bytes; three lines (empty, kind, length) come before the digits."""
    try:
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _in_exif(block: bytes) -> int | None:
    """Return the orientation in a block of EXIF data; None when it holds none."""
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(ORIENTATION)
        return None if value is None else int(value)
    except Exception:  # noqa: BLE001 - whatever a broken EXIF block raises, the picture counts
        return None
