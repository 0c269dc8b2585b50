"""Images of a word: uploads, small pictures, masks. Imports no torch.

An upload is decoded once by a library that knows pictures alone, and kept under a name of the server's. What
its sender called it is text for people. Nothing is ever served but pictures that were decoded here.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.data.buckets import Size
from coinage.data.headers import check_size, orientation_in, read_header
from coinage.data.images import UPRIGHT
from coinage.errors import CoinageError
from coinage.system.files import put_in_place, write_bytes
from coinage.ui.image_list import (
    CAPTION_SUFFIX,
    image_file,
    pictures_of,
    read_list,
    shown_image,
    write_caption,
    write_list,
)
from coinage.ui.site import Site
from coinage.ui.trash import to_trash
from coinage.ui.web import in_thread, read_as
from coinage.ui.workspace import NotFoundError, WordFolder, new_image_id

# Kept as they are, since training reads them, by what the library calls them
KEPT = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}
# Decoded and kept as PNG, by the modules that read them. No other is tried: EPS would start a program.
CONVERTED = {"BMP": "Bmp", "GIF": "Gif", "TIFF": "Tiff", "AVIF": "Avif", "PPM": "Ppm"}
MOST_PIXELS = 100_000_000
MOST_IMAGES = 10_000  # of a word
THUMB = 320  # pixels, the longer side
LONGEST_NAME = 200
AT_ONCE = 1  # images that are decoded at the same time; a large one takes much memory
BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x7f]")
_decoding = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upload that is a picture.

    Attributes:
        suffix: of the file that is kept.
        size_wh: as displayed, pixels.
        png: the file that is kept in place of the upload; None: the upload itself.
        thumb: small picture, WebP.
    """

    suffix: str
    size_wh: Size
    png: bytes | None
    thumb: bytes


def decoded(path: Path) -> Decoded:
    """Decode an upload wholly.

    Raises:
        CoinageError: it is no picture, a damaged one, or of a kind that cannot be used.
    """
    with _decoding, _as_problems(path), Image.open(path, formats=_formats()) as image:
        kind = image.format or ""
        _check(image)
        orientation = read_header(path).orientation if kind in KEPT else _orientation(image)
        width, height = image.size
        # A JPEG is read to its end, and decoded no larger than need be
        image.draft(None, (2 * THUMB, 2 * THUMB))
        image.load()
        png = None if kind in KEPT else _as_png(_upright(image, orientation))
        size_wh = (height, width) if orientation >= 5 else (width, height)
        return Decoded(KEPT.get(kind, ".png"), size_wh, png, _thumb(image, orientation))


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this Pillow can read among those that are tried."""
    for name in (*CONVERTED.values(), "Jpeg", "Mpo", "Png", "WebP"):
        with suppress(ImportError):
            import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in (*KEPT, *CONVERTED) if name in Image.OPEN)


def _check(image: Image.Image) -> None:
    check_size(image.size)
    width, height = image.size
    if width * height > MOST_PIXELS:
        limit = f"{MOST_PIXELS // 10**6} million pixels"
        raise CoinageError(f"the image is too large: {width}x{height} is more than {limit}")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        what = "this is a film or has several pages"
        raise CoinageError(what, hint="save the one picture that is meant as PNG or JPEG")


def _orientation(image: Image.Image) -> int:
    exif = image.info.get("exif", b"")
    return orientation_in({"exif": exif} if exif else {})


@contextmanager
def _as_problems(path: Path) -> Iterator[None]:
    """Turn whatever a library raises about a picture into one sentence."""
    try:
        yield
    except CoinageError:
        raise
    except UnidentifiedImageError:
        raise CoinageError(_no_picture(path), hint="save it as PNG or JPEG") from None
    except MemoryError:
        raise CoinageError("the image needs too much memory", hint="save it smaller") from None
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything on a broken file
        reason = str(error) or type(error).__name__
        what = f"the image is damaged: {reason}"
        raise CoinageError(what, hint="open and save it again, or download it again") from None


def _no_picture(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "the file is empty"
    if b"<svg" in head.lower():
        return "this is a drawing in SVG, which cannot be trained on"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "this is a HEIC photo, which cannot be read here"
    if not BINARY.search(head):
        return "this is text, not an image"
    return "this is not an image, or of an unknown kind"


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    modes = ("1", "L", "LA", "RGB", "RGBA", "I;16")
    if image.mode not in modes:
        transparent = "transparency" in image.info or image.mode in ("PA", "RGBa", "La")
        image = image.convert("RGBA" if transparent else "RGB")
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _thumb(image: Image.Image, orientation: int) -> bytes:
    """Return a small picture, upright, without anything but its pixels; the image itself becomes small."""
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    elif image.mode in ("P", "PA", "La", "RGBa", "1"):
        image = image.convert("RGBA")
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA")
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
    small = _upright(small.convert("RGB"), orientation)
    bare = Image.frombytes("RGB", small.size, small.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, format="WEBP", quality=80)
    return buffer.getvalue()


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey in 8 bits, as training sees it."""
    values = np.asarray(image, dtype=np.float32) / 257
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))


def store_image(
    folder: WordFolder, upload: Path, name: str, lock: AbstractContextManager[object]
) -> str:
    """Keep an upload as an image of a word; return its id.

    Args:
        folder: of the word.
        upload: the file, which is moved or stays where it is.
        name: that it had in the browser.
        lock: of the list of images.

    Raises:
        CoinageError: it is no picture that can be used, or the disk is full; nothing of it is left.
    """
    picture = decoded(upload)
    image = new_image_id()
    path = folder.owned(folder.images) / f"{image}{picture.suffix}"
    thumb = folder.owned(folder.thumbs) / f"{image}.webp"
    try:
        folder.images.mkdir(exist_ok=True)
        write_bytes(thumb, picture.thumb, sync=False)
        if picture.png is None:
            put_in_place(upload, path)
        else:
            write_bytes(path, picture.png, sync=False)
        width, height = picture.size_wh
        about = {"width": width, "height": height, "bytes": path.stat().st_size}
        with lock:
            _enlist(folder, image, {"name": clean_name(name), **about})
    except (CoinageError, OSError) as error:
        for left in (path, thumb):
            with suppress(OSError):
                left.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CoinageError(f"cannot keep the image: {error.strerror}") from error
        raise
    return image


def _enlist(folder: WordFolder, image: str, about: dict[str, Any]) -> None:
    """Add an image to the end of the list."""
    listed = read_list(folder)
    if len(listed) >= MOST_IMAGES:
        hint = "leave some out; a word learns from ten to a hundred"
        raise CoinageError(f"a word has {MOST_IMAGES:,} images at most", hint=hint)
    order = 1 + max((known.get("order", 0) for known in listed.values()), default=0)
    write_list(folder, {**listed, image: {**about, "order": order}})


def clean_name(name: str) -> str:
    """Return a file's name as people may see it: one line of printable characters."""
    shown = "".join(sign for sign in name if sign.isprintable())
    return shown.encode(errors="ignore").decode()[:LONGEST_NAME]


def store_mask(folder: WordFolder, image: str, upload: Path) -> None:
    """Keep an upload as the mask of an image: white is what counts.

    Raises:
        CoinageError: it is no picture, or of another shape; or the disk is full.
        NotFoundError: there is no such image.
    """
    image_file(folder, image)
    size_wh = pictures_of(folder).sizes.get(image)
    if size_wh is None:
        raise NotFoundError("image")
    with _decoding, _as_problems(upload), Image.open(upload, formats=_formats()) as mask:
        _check(mask)
        (width, height), (mask_width, mask_height) = size_wh, mask.size
        if abs(width * mask_height - height * mask_width) > max(width, height, *mask.size):
            what = f"the mask is {mask_width}x{mask_height}, and its image {width}x{height}"
            raise CoinageError(what, hint="give both the same shape")
        grey = _grey(mask).resize(size_wh, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG")
    write_bytes(folder.owned(folder.masks) / f"{image}.png", buffer.getvalue(), sync=False)


def _grey(mask: Image.Image) -> Image.Image:
    """Return a mask in 8 bits of grey; what is transparent does not count."""
    mask.load()
    if mask.mode.startswith("I"):
        return _in_8_bits(mask)
    if mask.mode not in ("LA", "PA", "RGBA") and "transparency" not in mask.info:
        return mask.convert("L")
    black = Image.new("RGBA", mask.size, "black")
    return Image.alpha_composite(black, mask.convert("RGBA")).convert("L")


def delete_image(site: Site, folder: WordFolder, image: str) -> None:
    """Move an image to the trash, with its caption, mask and small picture.

    Raises:
        NotFoundError: there is none.
        CoinageError: it cannot be moved.
    """
    path = image_file(folder, image)
    caption = path.with_suffix(CAPTION_SUFFIX)
    with site.lock:
        listed = read_list(folder)
        listed.pop(image, None)
        write_list(folder, listed)
        to_trash(site.workspace, [path, caption, folder.masks / f"{image}.png"])
    with suppress(OSError):
        (folder.thumbs / f"{image}.webp").unlink(missing_ok=True)


async def received(request: Request, folder: Path) -> Path:
    """Return a request's body as a file in a folder; nothing is left of one that breaks off.

    Raises:
        CoinageError: the disk is full, or the body is larger than it may be.
    """
    path = folder / f".{new_image_id()}.upload"
    try:
        with await in_thread(path.open, "wb") as file:
            async for chunk in request.stream():
                await in_thread(file.write, chunk)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            hint = "free some space, then send it again"
            raise CoinageError(f"cannot keep the file: {error.strerror}", hint=hint) from error
        if isinstance(error, ClientDisconnect):
            raise CoinageError("the upload broke off", hint="send it again") from None
        raise
    return path


@dataclass(frozen=True, slots=True)
class Caption:
    """What the page sends about one image."""

    caption: str


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of images."""

    def folder_of(request: Request) -> WordFolder:
        return site.workspace.word(request.path_params["id"])

    async def uploaded(request: Request) -> Response:
        folder = folder_of(request)
        name = request.query_params.get("name", "")
        upload = await received(request, folder.path)
        try:
            image = await in_thread(store_image, folder, upload, name, site.lock)
        finally:
            upload.unlink(missing_ok=True)
        return JSONResponse({"image": await in_thread(shown_image, folder, image)}, 201)

    async def changed(request: Request) -> Response:
        folder, image = folder_of(request), request.path_params["image"]
        image_file(folder, image)
        given = await read_as(request, Caption)
        await in_thread(write_caption, folder, image, given.caption)
        return JSONResponse({"image": await in_thread(shown_image, folder, image)})

    def deleted(request: Request) -> Response:
        delete_image(site, folder_of(request), request.path_params["image"])
        return JSONResponse({})

    async def masked(request: Request) -> Response:
        folder, image = folder_of(request), request.path_params["image"]
        image_file(folder, image)
        upload = await received(request, folder.path)
        try:
            await in_thread(store_mask, folder, image, upload)
        finally:
            upload.unlink(missing_ok=True)
        return JSONResponse({"image": await in_thread(shown_image, folder, image)}, 201)

    def unmasked(request: Request) -> Response:
        folder, image = folder_of(request), request.path_params["image"]
        image_file(folder, image)
        mask = folder.masks / f"{image}.png"
        if mask.is_file():
            to_trash(site.workspace, [mask])
        return JSONResponse({"image": shown_image(folder, image)})

    def picture(request: Request) -> Response:
        return _picture(
            folder_of(request), request.path_params["image"], request.path_params["what"]
        )

    here = "/api/words/{id}/images"
    return [
        Route(here, uploaded, methods=["PUT"]),
        Route(here + "/{image}", changed, methods=["PATCH"]),
        Route(here + "/{image}", deleted, methods=["DELETE"]),
        Route(here + "/{image}/mask", masked, methods=["PUT"]),
        Route(here + "/{image}/mask", unmasked, methods=["DELETE"]),
        Route(here + "/{image}/{what}", picture, methods=["GET"]),
    ]


def _picture(folder: WordFolder, image: str, what: str) -> Response:
    """Return an image, its mask or its small picture.

    Raises:
        NotFoundError: there is none.
    """
    path = image_file(folder, image)
    kind = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}[path.suffix]
    if what == "mask":
        path, kind = folder.masks / f"{image}.png", "image/png"
    elif what == "thumb":
        path, kind = _thumb_file(folder, image, path), "image/webp"
    elif what != "full":
        raise NotFoundError("picture")
    if not path.is_file() or not folder.holds(path):
        raise NotFoundError("picture")
    # An image never changes; a mask may
    kept = "no-store" if what == "mask" else "private, max-age=86400, immutable"
    return FileResponse(path, media_type=kind, headers={"cache-control": kept})


def _thumb_file(folder: WordFolder, image: str, path: Path) -> Path:
    """Return the small picture of an image, made anew where it is missing."""
    thumb = folder.owned(folder.thumbs) / f"{image}.webp"
    if not thumb.is_file():
        write_bytes(thumb, decoded(path).thumb, sync=False)
    return thumb
