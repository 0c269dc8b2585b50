"""Read metadata files, sd-scripts' or Hugging Face's: many captions in one JSON or JSONL file."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coinage.data_config import IMAGE_SUFFIXES, CaptionRules
from coinage.errors import CoinageError, Findings
from coinage.system.text_files import MEGABYTE, read_text
from coinage.text.placeholder import encodable

# Beside the images that it describes, as Hugging Face's image folders have it
FOLDER_FILE = "metadata.jsonl"
MOST_METADATA = 512 * MEGABYTE  # a million images with long captions
MOST_CAPTION = 65_536  # bytes; a hundred pages, of which a model reads one line or three
# Keys of the image and of the caption in a line; the second ones are Hugging Face's
NAME_KEYS = ("image_path", "file_name")
CAPTION_KEYS = ("caption", "text")


class MetadataEntry(NamedTuple):
    """One image in a metadata file.

    Attributes:
        name: path of the image, absolute or relative.
        fields: everything in its entry.
        where: place in the file, for messages.
        beside: a relative name counts from the metadata file's own folder where no other is given.
    """

    name: str
    fields: Mapping[str, Any]
    where: str
    beside: bool = False


def read_entries(path: Path, findings: Findings) -> Iterator[MetadataEntry]:
    """Yield the images of a metadata file; add an error for each entry that cannot be used."""
    try:
        text = read_text(path, most=MOST_METADATA)
    except CoinageError as error:
        usual_hint = "check the path; it must be JSON, or JSONL with one object a line"
        for problem in error.problems:
            what = f"cannot read the metadata file: {problem.what}"
            findings.error(what, str(path), problem.hint or usual_hint)
        return
    if path.suffix.lower() == ".jsonl":
        yield from _entries_of_lines(text, path, findings)
    else:
        yield from _entries_of_object(text, path, findings)


def _entries_of_lines(text: str, path: Path, findings: Findings) -> Iterator[MetadataEntry]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            fields = _parsed(line, where, findings)
        except ValueError:
            continue
        if not isinstance(fields, dict):
            fields = {}
        key = next((key for key in NAME_KEYS if key in fields), "")
        name: Any = fields.get(key)
        if _is_name(name):
            yield MetadataEntry(name, fields, where, beside=key == "file_name")
        else:
            _report_no_entry(where, findings)


def _entries_of_object(text: str, path: Path, findings: Findings) -> Iterator[MetadataEntry]:
    try:
        entries = _parsed(text, str(path), findings)
    except ValueError:
        return
    if not isinstance(entries, dict):
        what = "the metadata file must hold an object: image path to fields"
        findings.error(what, str(path), "or name a file with one object a line .jsonl")
        return
    for number, (name, fields) in enumerate(entries.items(), 1):
        where = f"{path}, entry {number}"
        if _is_name(name) and isinstance(fields, dict):
            yield MetadataEntry(name, fields, where)
        else:
            _report_no_entry(where, findings)


def _parsed(text: str, where: str, findings: Findings) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON; `findings` has the error then.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "it must be JSON, or JSONL with one object a line"
        findings.error(f"cannot read the metadata: {error}", where, hint)
        raise ValueError from error


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and encodable(value)


def _report_no_entry(where: str, findings: Findings) -> None:
    lines = 'in a .jsonl file {"file_name": "1.png", "text": "..."}'
    hint = f'write "1.png": {{"caption": "..."}}; {lines}'
    findings.error("the entry is not an object with an image path", where, hint)


def caption_of(entry: MetadataEntry, rules: CaptionRules, findings: Findings) -> tuple[str, bool]:
    """Return caption, separator and tags of an image, and whether lines were left out.

    Tags are put on the first line with text, or with wildcards on each line.
    """
    lines = text_lines(_text(entry, CAPTION_KEYS, findings)) or [""]
    tags = rules.separator.join(text_lines(_text(entry, ("tags",), findings)))
    used = lines if rules.wildcard else lines[:1]
    with_tags = []
    for line in used:
        with_tags.append(rules.separator.join(filter(None, (line, tags))))
    return "\n".join(with_tags), len(used) < len(lines)


def _text(entry: MetadataEntry, names: tuple[str, ...], findings: Findings) -> str:
    """Return the first of some fields that is there; "" where none is, or it cannot be used."""
    for name in names:
        value = entry.fields.get(name)
        if value is not None:
            return _usable_text(name, value, entry.where, findings)
    return ""


def _usable_text(name: str, value: object, where: str, findings: Findings) -> str:
    """Return a field's text; "" with an error where it is not one."""
    if isinstance(value, str) and len(value) > MOST_CAPTION:
        what = f"`{name}` is too long: more than {MOST_CAPTION // 1024} kB"
        findings.error(what, where, "a model reads a line or three")
        return ""
    if isinstance(value, str) and encodable(value):
        return value
    findings.error(f"`{name}` must be a string", where, f'write "{name}": "a photo of ..."')
    return ""


def text_lines(text: str) -> list[str]:
    """Return the lines with text, stripped; only newlines end a line, as in editors."""
    lines = text.replace("\r", "\n").split("\n")
    return list(filter(None, map(str.strip, lines)))


def image_path(
    entry: MetadataEntry, folder: Path | None, metadata_file: Path, findings: Findings
) -> str:
    """Return the image that an entry names; "" with an error where there is none.

    Args:
        entry: its name is absolute or relative, with or without its suffix, with accents composed
            or not.
        folder: of relative names.
        metadata_file: its folder counts for Hugging Face's names where `folder` is None.
        findings: gets the error.
    """
    if folder is None and entry.beside:
        folder = metadata_file.parent
    name = entry.name
    if folder is None and not os.path.isabs(name):  # noqa: PTH117
        what = f"{name!r} is not absolute, and the subset has no image_dir"
        findings.error(what, entry.where, "add image_dir")
        return ""
    path = os.path.join(folder or "", name)  # noqa: PTH118 - called for every image
    if "\0" not in name:
        for candidate in _candidates(path):
            if os.path.isfile(candidate):  # noqa: PTH113
                return candidate
    findings.error(f"image not found: {path}", entry.where, "check the path and image_dir")
    return ""


def _candidates(path: str) -> Iterator[str]:
    """Yield the paths that an image's name may mean, the literal one first."""
    paths = [path]
    if not path.isascii():
        paths += [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
    yield from paths
    for base in paths:
        for suffix in IMAGE_SUFFIXES:
            yield base + suffix
            yield base + suffix.upper()
