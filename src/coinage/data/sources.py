"""Where images and captions come from: a folder with caption files, or a metadata file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinage.config import IMAGE_SUFFIXES, SubsetConfig
from coinage.data.reading import read_bytes, read_many
from coinage.errors import Findings
from coinage.words import encodable

CAPTION_SUFFIXES = (".caption", ".txt")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image and its caption, not opened yet."""

    path: str
    caption: str
    has_caption: bool = True


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's, in any letter case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - called for every file


def list_folder(folder: Path, where: str, what: str, findings: Findings) -> list[os.DirEntry[str]]:
    """The files of a folder in plain order; a link that leads nowhere is an error."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except NotADirectoryError:
        findings.error(f"{what} is a file: {folder}", where, "name the folder")
        return []
    except FileNotFoundError:
        hint = "write the path relative to the folder you start from, or absolute"
        findings.error(f"{what} not found: {folder}", where, hint)
        return []
    except OSError as error:
        findings.error(f"cannot read the {what} {folder}: {error.strerror}", where, "check its permissions")
        return []
    files = []
    for entry in found:
        # Asked by path, a link that runs in a circle is simply no file.
        if os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # noqa: PTH113
            files.append(entry)
        elif entry.is_symlink() and is_image(entry.name) and not os.path.isdir(entry.path):  # noqa: PTH112
            findings.error("unreadable image: the link leads nowhere", entry.path, "replace or remove it")
    return files


def entries_of(subset: SubsetConfig, findings: Findings) -> list[Entry]:
    """The images of a subset with their captions, in order; what is wrong is found."""
    found = _from_metadata(subset, findings) if subset.metadata_file else _from_folder(subset, findings)
    missing = sum(not entry.has_caption for entry in found)
    if missing and not subset.captions.template and not subset.regularisation:
        findings.warn(f"{missing} of {len(found)} images have no caption", subset.where, _caption_hint(subset))
    return found


def _caption_hint(subset: SubsetConfig) -> str:
    if subset.metadata_file:
        return "give each image a caption or tags in the metadata file"
    return f"write it to a file named like the image, ending in {' or '.join(subset.caption_extensions)}"


def _from_folder(subset: SubsetConfig, findings: Findings) -> list[Entry]:
    folder = subset.image_dir or Path()
    names = {entry.name: entry.path for entry in list_folder(folder, subset.where, "image folder", findings)}
    images = [name for name in names if is_image(name)]
    _warn_of_twins(images, subset, findings)
    captions = {name: _caption_name(name, subset.caption_extensions, names) for name in images}
    if images and not any(captions.values()) and not subset.captions.template:
        other = [name for name in images if _caption_name(name, CAPTION_SUFFIXES, names)]
        if other:
            what = f"no image has a caption ending in {' or '.join(subset.caption_extensions)}, but {len(other)} have another"
            findings.error(what, subset.where, f"set caption_extension to {Path(_caption_name(other[0], CAPTION_SUFFIXES, names)).suffix}")
    wanted = [] if subset.captions.template else [names[caption] for caption in captions.values() if caption]
    read = dict(zip(wanted, read_many(read_bytes, wanted), strict=True))
    entries = []
    for name, caption in captions.items():
        path = names.get(caption, "")
        text = _caption(path, read[path], subset, findings) if path in read else None
        entries.append(Entry(names[name], (subset.class_tokens or "") if text is None else text, _has(text, subset)))
    return entries


def _has(text: str | None, subset: SubsetConfig) -> bool:
    return bool(text) or (text is None and subset.class_tokens is not None)


def _warn_of_twins(images: list[str], subset: SubsetConfig, findings: Findings) -> None:
    by_stem: dict[str, list[str]] = {}
    for name in images:
        by_stem.setdefault(os.path.splitext(name)[0], []).append(name)  # noqa: PTH122
    twins = [names for names in by_stem.values() if len(names) > 1]
    if twins:
        shown = "; ".join(" and ".join(names) for names in twins[:3])
        findings.warn(f"{len(twins)} captions belong to more than one image: {shown}", subset.where, "give each image a name of its own")


def _caption_name(name: str, extensions: Iterable[str], names: Mapping[str, str]) -> str:
    """The file that holds an image's caption, or ""."""
    stem = os.path.splitext(name)[0]  # noqa: PTH122
    parts = stem.split("_")
    stems = [stem, "_".join(parts[:-4])] if len(parts) >= 5 else [stem]  # name_cx_cy_w_h, as face detectors write
    return next((found for extension in extensions for s in stems if (found := s + extension) in names), "")


def _caption(path: str, data: bytes | OSError, subset: SubsetConfig, findings: Findings) -> str | None:
    """The first line with text, or all of them with wildcards; None when there is none to be had."""
    try:
        if isinstance(data, OSError):
            raise data
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        findings.error(f"unreadable caption: {error}", path, "save caption files as UTF-8 text")
        return None
    if not data:
        findings.error("the caption file is empty", path, "write what the image shows, with the word; or remove the file")
        return None
    lines = _lines(text)
    return "\n".join(lines if subset.captions.wildcard else lines[:1])


def _lines(text: str) -> list[str]:
    """The lines with text, stripped. Other than splitlines, only newlines end a line, as editors show them."""
    return [stripped for line in text.replace("\r", "\n").split("\n") if (stripped := line.strip())]


def _from_metadata(subset: SubsetConfig, findings: Findings) -> list[Entry]:
    path = subset.metadata_file or Path()
    entries: list[Entry] = []
    for key, fields, where in _records(path, findings):
        text = _composed(fields, subset, where, findings)
        image = _image_path(key, subset.image_dir, where, findings)
        if image:
            entries.append(Entry(image, text or subset.class_tokens or "", bool(text) or subset.class_tokens is not None))
    entries.sort(key=lambda entry: -len(entry.path))  # the reference's order: longest first
    return entries


def _records(path: Path, findings: Findings) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Image path, fields and place of every record of a metadata file."""
    lines = path.suffix.lower() == ".jsonl"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        findings.error("metadata file not found", str(path), "check the path")
        return
    except (OSError, UnicodeDecodeError) as error:
        findings.error(f"cannot read the metadata file: {error}", str(path), "it must be text in UTF-8")
        return
    for number, part in enumerate(text.split("\n") if lines else [text], 1):
        where = f"{path}, line {number}" if lines else str(path)
        if lines and not part.strip():
            continue
        try:
            record = json.loads(part)
        except (ValueError, RecursionError) as error:
            findings.error(f"cannot read the metadata: {error}", where, "it must be JSON, or JSONL with one object a line")
            continue
        if not lines and not isinstance(record, dict):
            findings.error("the metadata file must hold an object: image path to fields", where)
            return
        entries = [(record.get("image_path") if isinstance(record, dict) else None, record)] if lines else record.items()
        for at, (name, fields) in enumerate(entries, 1):
            place = where if lines else f"{path}, entry {at}"
            if isinstance(name, str) and isinstance(fields, dict) and encodable(name):
                yield name, fields, place
            else:
                findings.error("the entry is no object with an image path", place)


def _composed(fields: Mapping[str, Any], subset: SubsetConfig, where: str, findings: Findings) -> str:
    """Caption, separator, tags: on the first line with text, or on each one with wildcards."""
    texts = []
    for name in ("caption", "tags"):
        value = fields.get(name)
        if value is not None and not (isinstance(value, str) and encodable(value)):
            findings.error(f"`{name}` must be a string", where)
            value = ""
        texts.append(value or "")
    separator = subset.captions.separator
    tags = separator.join(_lines(texts[1]))
    lines = _lines(texts[0]) or [""]
    if not subset.captions.wildcard:
        lines = lines[:1]
    return "\n".join(line + separator + tags if line and tags else line or tags for line in lines)


def _image_path(key: str, folder: Path | None, where: str, findings: Findings) -> str:
    """The image that a metadata key names: absolute, or in the image folder, with or without its suffix."""
    if folder is None and not os.path.isabs(key):  # noqa: PTH117
        findings.error(f"{key!r} is not absolute, and the subset has no image_dir", where, "add image_dir")
        return ""
    base = os.path.join(folder or "", key)  # noqa: PTH118 - called for every image
    if "\0" not in key:
        for candidate in (base, *(base + suffix for suffix in IMAGE_SUFFIXES)):
            if os.path.isfile(candidate):  # noqa: PTH113
                return candidate
    findings.error(f"image not found: {base}", where, "check the path and image_dir")
    return ""
