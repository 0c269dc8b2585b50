"""The images of a word, as its folder has them: order, names, sizes, captions, masks. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coinage.data.buckets import Size
from coinage.data.headers import read_header
from coinage.errors import CoinageError
from coinage.system.files import write_bytes
from coinage.system.text_files import read_text
from coinage.ui.workspace import (
    IMAGE_ID,
    NotFoundError,
    WordFolder,
    read_json_or,
    write_json,
)

SUFFIXES = (".png", ".jpg", ".webp")
CAPTION_SUFFIX = ".txt"
MOST_CAPTION = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class Pictures:
    """The images of a word.

    Attributes:
        ids: in their order.
        files: name of each one's file.
        captions: of those that have one.
        masks: ids of those that have a mask.
        sizes: width and height as displayed, pixels.
        names: that their files had in the browser.
        about: what images.json has of each.
    """

    ids: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    masks: frozenset[str] = frozenset()
    sizes: Mapping[str, Size] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """Return what a browser is told of all images, in their order."""
        return [
            _shown(
                image,
                self.about[image],
                self.captions.get(image, ""),
                mask=image in self.masks,
            )
            for image in self.ids
        ]


def _shown(image: str, about: Mapping[str, Any], caption: str, *, mask: bool) -> dict[str, Any]:
    return {
        "id": image,
        "name": str(about.get("name", "")),
        "width": about["width"],
        "height": about["height"],
        "bytes": about.get("bytes", 0),
        "caption": caption,
        "mask": mask,
    }


def shown_image(folder: WordFolder, image: str) -> dict[str, Any]:
    """Return what a browser is told of one image.

    Raises:
        NotFoundError: there is none.
    """
    about = read_list(folder).get(image)
    if about is None:
        raise NotFoundError("image")
    mask = (folder.masks / f"{image}.png").is_file()
    return _shown(image, about, caption_of(folder, image), mask=mask)


def pictures_of(folder: WordFolder) -> Pictures:
    """Return the images of a word; those whose file has gone are left out."""
    listed = read_list(folder)
    present = _names_in(folder, folder.images)
    files = {}
    for image in listed:
        for suffix in SUFFIXES:
            if image + suffix in present:
                files[image] = image + suffix
    ids = sorted(files, key=lambda image: (listed[image].get("order", 0), image))
    captions = {}
    for image in ids:
        if image + CAPTION_SUFFIX in present:
            text = _caption_in(folder.images / f"{image}{CAPTION_SUFFIX}")
            if text:
                captions[image] = text
    masks = _names_in(folder, folder.masks)
    return Pictures(
        tuple(ids),
        files,
        captions,
        frozenset(image for image in ids if f"{image}.png" in masks),
        {image: (int(listed[image]["width"]), int(listed[image]["height"])) for image in ids},
        {image: str(listed[image].get("name", "")) for image in ids},
        {image: listed[image] for image in ids},
    )


def read_list(folder: WordFolder) -> dict[str, dict[str, Any]]:
    """Return what images.json knows of each image; entries that are none are left out.

    If the list is damaged or gone, the images are found by their files, without their own names.
    """
    try:
        listed = read_json_or(folder.image_list, None)
    except CoinageError:
        listed = None
    if not isinstance(listed, dict):
        return _found(folder)
    return {
        image: about
        for image, about in listed.items()
        if IMAGE_ID.fullmatch(image) and isinstance(about, dict) and _is_size(about)
    }


def _found(folder: WordFolder) -> dict[str, dict[str, Any]]:
    """Return what the files tell of the images of a word."""
    found = {}
    paths = (folder.images / name for name in sorted(_names_in(folder, folder.images)))
    for order, path in enumerate(paths, 1):
        if path.suffix in SUFFIXES and IMAGE_ID.fullmatch(path.stem):
            with suppress(OSError):
                width, height = read_header(path).upright_wh
                about = {"name": path.name, "width": width, "height": height, "order": order}
                found[path.stem] = {**about, "bytes": path.stat().st_size}
    return found


def _is_size(about: Mapping[str, Any]) -> bool:
    return all(isinstance(about.get(side), int) and about[side] > 0 for side in ("width", "height"))


def write_list(folder: WordFolder, listed: Mapping[str, Mapping[str, Any]]) -> None:
    """Write images.json.

    Raises:
        CoinageError: it cannot be written.
    """
    write_json(folder.image_list, listed)


def image_file(folder: WordFolder, image: str) -> Path:
    """Return the file of an image.

    Raises:
        NotFoundError: the id is none, or leads nowhere.
    """
    if IMAGE_ID.fullmatch(image):
        for suffix in SUFFIXES:
            path = folder.images / f"{image}{suffix}"
            if path.is_file() and folder.holds(path):
                return path
    raise NotFoundError("image")


def caption_of(folder: WordFolder, image: str) -> str:
    """Return the caption of an image; "" where it has none, or it cannot be read."""
    path = folder.images / f"{image}{CAPTION_SUFFIX}"
    return _caption_in(path) if folder.holds(path) else ""


def _caption_in(path: Path) -> str:
    try:
        return read_text(path, most=MOST_CAPTION).strip()
    except CoinageError:
        return ""


def write_caption(folder: WordFolder, image: str, text: str) -> None:
    """Write the caption of an image; "" removes it.

    Raises:
        CoinageError: it is too long, no text, or cannot be written.
    """
    path = folder.owned(folder.images) / f"{image}{CAPTION_SUFFIX}"
    text = " ".join(text.replace("\r", "\n").split("\n")).strip()
    if not text:
        path.unlink(missing_ok=True)
        return
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise CoinageError("the caption is not text in UTF-8") from None
    if len(data) > MOST_CAPTION:
        hint = "a model reads 75 tokens of it"
        raise CoinageError("the caption is too long: more than 64 kB", hint=hint)
    write_bytes(path, data + b"\n", sync=False)


def _names_in(folder: WordFolder, place: Path) -> frozenset[str]:
    """Return the names of the files in a folder of a word; what links lead to is none of them."""
    if not folder.holds(place):
        return frozenset()
    try:
        with os.scandir(place) as entries:
            return frozenset(e.name for e in entries if e.is_file(follow_symlinks=False))
    except OSError:
        return frozenset()
