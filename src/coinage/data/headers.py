"""Sizes of images from their headers, without decoding a pixel."""

from __future__ import annotations

import contextlib
import importlib
import struct
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from coinage.data.buckets import Size

ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
MAX_PIXELS = 178_956_970  # half a gigabyte as RGB
HEAD = 4096  # bytes that are read at once
PNG = b"\x89PNG\r\n\x1a\n"
SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that hold the size

# Our own limit is checked on every header, before a pixel is decoded; Pillow's would print a warning.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height as stored, and the EXIF orientation (1 to 8; 1 is upright)."""

    stored_wh: Size
    orientation: int = 1

    @property
    def upright_wh(self) -> Size:
        """Width and height as displayed."""
        width, height = self.stored_wh
        return (height, width) if self.orientation >= 5 else (width, height)


def read_header(path: str | Path) -> Header:
    """An image's header. Plain PNG and JPEG are read here, ten times faster; all others by Pillow.

    Raises:
        OSError: no image, no pixels, or too many.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - a Path costs as much as the read
        head = file.read(HEAD)
    if not head:
        raise OSError("the file is empty")
    size = _png_size(head) if head.startswith(PNG) else _jpeg_size(head) if head.startswith(b"\xff\xd8") else None
    header = Header(size) if size else _by_pillow(path)
    check_size(header.stored_wh)
    return header


def check_size(size: Size) -> None:
    """See that an image has pixels, and not too many.

    Raises:
        OSError: it has none, or too many.
    """
    width, height = size
    if width < 1 or height < 1:
        raise OSError("the image has no pixels")
    if width * height > MAX_PIXELS:
        raise OSError(f"{width}x{height} is too large: more than {MAX_PIXELS / 1e6:.0f} million pixels")


def _png_size(head: bytes) -> Size | None:
    """Size of a PNG whose pixels start within `head`, without EXIF data before them."""
    if head[12:16] != b"IHDR":
        return None
    at = 33
    while at + 8 <= len(head):
        length, kind = struct.unpack_from(">I4s", head, at)
        if kind == b"IDAT":
            width, height = struct.unpack_from(">II", head, 16)
            return width, height
        if kind == b"eXIf":
            return None
        at += 12 + length
    return None


def _jpeg_size(head: bytes) -> Size | None:
    """Size of a JPEG whose frame header lies within `head`, without EXIF data before it."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in SOF:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        if marker == 0xE1 or not 0xC0 <= marker <= 0xFE:
            return None
        at += 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


def _by_pillow(path: str | Path) -> Header:
    jxl = str(path).lower().endswith(".jxl")
    if jxl:
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_jxl")  # adds the format to Pillow, where it is installed
    try:
        with Image.open(path) as image:
            return Header(image.size, orientation_of(image))
    except UnidentifiedImageError:
        hint = "; JPEG XL needs the package pillow-jxl-plugin" if jxl else ""
        raise OSError(f"no image, or of an unknown kind{hint}") from None
    except OSError:
        raise
    except Exception as error:  # a plugin may raise anything on a broken file
        raise OSError(str(error) or type(error).__name__) from error


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an image that is opened and not yet decoded; 1 when there is none."""
    block = image.info.get("exif")
    if not block:
        return 1
    exif = Image.Exif()
    try:
        exif.load(block)
        value = int(exif.get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - whatever a broken EXIF block raises, the picture counts
        return 1
    return value if 1 <= value <= 8 else 1
