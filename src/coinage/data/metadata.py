"""Metadata files, sd-scripts' and Hugging Face's: captions of many images in one JSON or JSONL file."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coinage.config import IMAGE_SUFFIXES, CaptionRules
from coinage.errors import CoinageError, Findings, Problem
from coinage.system.text_files import MEGABYTE, read_text
from coinage.text.placeholder import encodable

# Beside the images that it describes, as Hugging Face's image folders have it
FOLDER_FILE = "metadata.jsonl"
MOST_METADATA = 512 * MEGABYTE  # a million images with long captions
MOST_CAPTION = 65_536  # bytes; a hundred pages, of which a model reads one line or three
NAMES = ("image_path", "file_name")  # of the image in a line; the second is Hugging Face's
TEXTS = ("caption", "text")  # of the caption, likewise


class Record(NamedTuple):
    """What a metadata file says of one image.

    Attributes:
        name: path of the image, absolute or relative.
        fields: all that is said of it.
        where: place in the file, for messages.
        beside: the name counts from the metadata file's own folder where nothing else is said.
    """

    name: str
    fields: Mapping[str, Any]
    where: str
    beside: bool = False


def records(path: Path, findings: Findings) -> Iterator[Record]:
    """Yield what a metadata file says of each image; what is wrong with it is found."""
    lines = path.suffix.lower() == ".jsonl"
    try:
        text = read_text(path, most=MOST_METADATA)
    except CoinageError as error:
        for problem in error.problems:
            hint = (
                problem.hint or "check the path; it must be JSON, or JSONL with one object a line"
            )
            findings.errors.append(
                Problem(f"cannot read the metadata file: {problem.what}", str(path), hint)
            )
        return
    yield from _of_lines(text, path, findings) if lines else _of_object(text, path, findings)


def _of_lines(text: str, path: Path, findings: Findings) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _parsed(line, where, findings)
        if record is None:
            continue
        fields = record[0] if isinstance(record[0], dict) else {}
        key = next((key for key in NAMES if key in fields), "")
        if _is_name(fields.get(key)):
            yield Record(fields[key], fields, where, beside=key == "file_name")
        else:
            _not_a_record(where, findings)


def _of_object(text: str, path: Path, findings: Findings) -> Iterator[Record]:
    found = _parsed(text, str(path), findings)
    if found is None:
        return
    if not isinstance(found[0], dict):
        hint = "or name a file with one object a line .jsonl"
        findings.error(
            "the metadata file must hold an object: image path to fields", str(path), hint
        )
        return
    for number, (name, fields) in enumerate(found[0].items(), 1):
        where = f"{path}, entry {number}"
        if _is_name(name) and isinstance(fields, dict):
            yield Record(name, fields, where)
        else:
            _not_a_record(where, findings)


def _parsed(text: str, where: str, findings: Findings) -> tuple[Any] | None:
    """The value of a JSON text, in a tuple since it may be None itself; None where it is broken."""
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError) as error:
        hint = "it must be JSON, or JSONL with one object a line"
        findings.error(f"cannot read the metadata: {error}", where, hint)
        return None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and encodable(value)


def _not_a_record(where: str, findings: Findings) -> None:
    hint = (
        'write "1.png": {"caption": "..."}; in a .jsonl file {"file_name": "1.png", "text": "..."}'
    )
    findings.error("the entry is not an object with an image path", where, hint)


def composed(record: Record, rules: CaptionRules, findings: Findings) -> tuple[str, bool]:
    """Return caption, separator, tags, and whether lines were left out.

    Tags are put on the first line with text, or with wildcards on each. Hugging Face calls the caption `text`.
    """
    caption, tags = (_text(record, names, findings) for names in (TEXTS, ("tags",)))
    joined = rules.separator.join(text_lines(tags))
    lines = text_lines(caption) or [""]
    kept = lines if rules.wildcard else lines[:1]
    whole = "\n".join(
        line + rules.separator + joined if line and joined else line or joined for line in kept
    )
    return whole, len(kept) < len(lines)


def _text(record: Record, names: tuple[str, ...], findings: Findings) -> str:
    """The first of some fields that is there; "" where none is, or it cannot be used."""
    name, value = next(((n, v) for n in names if (v := record.fields.get(n)) is not None), ("", ""))
    if isinstance(value, str) and len(value) > MOST_CAPTION:
        what = f"`{name}` is too long: more than {MOST_CAPTION // 1024} kB"
        findings.error(what, record.where, "a model reads a line or three")
    elif not (isinstance(value, str) and encodable(value)):
        findings.error(
            f"`{name}` must be a string", record.where, f'write "{name}": "a photo of ..."'
        )
    else:
        return value
    return ""


def text_lines(text: str) -> list[str]:
    """Return the lines with text, stripped. Only newlines end a line, as in editors and not as in splitlines."""
    return [stripped for line in text.replace("\r", "\n").split("\n") if (stripped := line.strip())]


def image_path(record: Record, folder: Path | None, file: Path, findings: Findings) -> str:
    """Return the image that a record names; "" with an error where there is none.

    Args:
        record: its name is absolute or relative, with or without its suffix, with accents composed or not.
        folder: of relative names.
        file: the metadata file, whose own folder counts for names of Hugging Face's where `folder` is None.
        findings: gets the error.
    """
    folder = file.parent if folder is None and record.beside else folder
    name = record.name
    if folder is None and not os.path.isabs(name):  # noqa: PTH117
        what = f"{name!r} is not absolute, and the subset has no image_dir"
        findings.error(what, record.where, "add image_dir")
        return ""
    base = os.path.join(folder or "", name)  # noqa: PTH118 - called for every image
    if "\0" not in name:
        for candidate in _candidates(base):
            if os.path.isfile(candidate):  # noqa: PTH113
                return candidate
    findings.error(f"image not found: {base}", record.where, "check the path and image_dir")
    return ""


def _candidates(base: str) -> Iterator[str]:
    bases = [base]
    if not base.isascii():
        bases += [unicodedata.normalize(form, base) for form in ("NFC", "NFD")]
    yield from bases
    for name in bases:
        for suffix in IMAGE_SUFFIXES:
            yield name + suffix
            yield name + suffix.upper()
