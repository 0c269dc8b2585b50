"""What lies in a folder: images, captions and whose they are, what nobody put there, what is left out and told.

Every other module asks here.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from coinage.config import IMAGE_SUFFIXES
from coinage.errors import Findings, Problem
from coinage.wording import counted, few

CAPTION_SUFFIXES = (".caption", ".txt")
# What systems leave in folders unasked; names with a leading dot are left out too, as in sd-scripts.
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})
# Pictures that are told and not read. Pillow would open GIF and TIFF, but sd-scripts does not: a command from
# there would train on more images than it used to. And a GIF is a film, a TIFF may hold many pages.
OTHER_KINDS = frozenset((
    ".gif", ".tif", ".tiff", ".heic", ".heif", ".hif", ".svg", ".psd", ".psb", ".xcf", ".kra", ".clip",
    ".ai", ".eps", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".wdp", ".tga", ".dds", ".exr", ".hdr", ".ico",
    ".icns", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".apng", ".raw", ".cr2", ".cr3", ".nef",
    ".arw", ".dng", ".orf", ".rw2", ".raf",
))  # fmt: skip
# Texts about a folder, in any letter case; they are nobody's caption.
ABOUT = frozenset(
    {"readme", "notes", "note", "license", "licence", "credits", "sources", "todo", "index"}
)
# Of images, as far as they tell
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
LOOKED_INTO = 1000  # files of a subfolder, or files without a suffix, that are looked at


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder holds, hidden names left out; all in plain order of names."""

    paths: dict[str, str] = field(default_factory=dict)  # name to path of every file
    images: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)  # images of other kinds, by suffix
    folders: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Return whether a system or a tool has made a file for itself, as `._1.png`, `__MACOSX` or `Thumbs.db`."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for every file


def is_image(name: str) -> bool:
    """Return whether a file name is an image's, in any letter case."""
    return suffix_of(name) in IMAGE_SUFFIXES and not is_hidden(name)


def list_folder(folder: Path, where: str, what: str, findings: Findings) -> Contents:
    """Return what a folder holds; if it cannot be read, or a link leads nowhere, that is an error."""
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not is_hidden(entry.name)]
    except NotADirectoryError:
        findings.error(f"{what} is a file: {folder}", where, "name the folder")
        return Contents()
    except FileNotFoundError:
        hint = "write the path relative to the folder you start from, or absolute"
        findings.error(f"{what} not found: {folder}", where, hint)
        return Contents()
    except OSError as error:
        findings.error(
            f"cannot read the {what} {folder}: {error.strerror}", where, "check its permissions"
        )
        return Contents()
    contents = Contents()
    for entry in sorted(seen, key=lambda entry: entry.name):
        # Asked by path, a link that runs in a circle is simply no file.
        if os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # noqa: PTH113
            contents.paths[entry.name] = entry.path
        elif os.path.isdir(entry.path):  # noqa: PTH112
            contents.folders.append(entry.name)
        elif entry.is_symlink() and is_image(entry.name):
            findings.error(
                "unreadable image: the link leads nowhere", entry.path, "replace or remove it"
            )
    _sort_images(contents)
    return contents


def _sort_images(contents: Contents) -> None:
    """Find the images among the files, and those of other kinds."""
    unread, unnamed = OTHER_KINDS, 0
    for name in contents.paths:
        suffix = suffix_of(name)
        if suffix in (".avif", ".jxl") and unread is OTHER_KINDS:
            unread = OTHER_KINDS | _without_plugin()
        if not suffix and unnamed < LOOKED_INTO:
            unnamed += 1
            suffix = "without a suffix" if _starts_as_image(contents.paths[name]) else ""
        if suffix in unread or suffix == "without a suffix":
            contents.others.setdefault(suffix, []).append(name)
        elif suffix in IMAGE_SUFFIXES:
            contents.images.append(name)


def _without_plugin() -> frozenset[str]:
    """The suffixes that Pillow reads on other computers, and not here."""
    from PIL import features

    avif = features.check("avif") if "avif" in features.modules else find_spec("pillow_avif")
    plugins = {".avif": avif, ".jxl": find_spec("pillow_jxl")}
    return frozenset(suffix for suffix, plugin in plugins.items() if not plugin)


def _starts_as_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(12)
    except OSError:
        return False
    return (
        start.startswith(STARTS)
        or (start[:4] == b"RIFF" and start[8:] == b"WEBP")
        or start[4:] in BOXES
    )


def tell_left_out(contents: Contents, folder: Path, findings: Findings) -> None:
    """Tell of images of other kinds in one line: a warning, or an error where there is nothing else."""
    if not contents.others:
        return
    every = sum(map(len, contents.others.values()))
    by_suffix = sorted(contents.others.items())
    kinds = ", ".join(f"{len(names)} {suffix} ({few(names, 2)})" for suffix, names in by_suffix)
    hints = [
        ("install pillow-jxl-plugin", ".jxl" in contents.others),
        ("install pillow-avif-plugin", ".avif" in contents.others),
        ("add the suffix, such as .png", "without a suffix" in contents.others),
        ("save them as PNG or JPEG", bool(contents.others.keys() & OTHER_KINDS)),
    ]
    hint = "; ".join(text for text, applies in hints if applies)
    if not contents.images:
        findings.error(f"no image that can be read, only {kinds}", str(folder), hint)
        return
    of_other_kinds = "image of another kind is" if every == 1 else "images of other kinds are"
    problem = Problem(f"{every:,} {of_other_kinds} left out: {kinds}", str(folder), hint)
    if problem not in findings.warnings:  # the folder may stand in several datasets
        findings.warnings.append(problem)


def holds_images(folder: str) -> bool:
    """Return whether images lie directly in a folder; False where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return any(is_image(entry.name) for entry in islice(entries, LOOKED_INTO))
    except OSError:
        return False


def describe(contents: Contents) -> str:
    """Return what a folder holds in words, such as "3 .txt files and 2 folders"; "" where it is empty."""
    by_suffix: dict[str, int] = {}
    for name in contents.paths:
        by_suffix[suffix_of(name)] = by_suffix.get(suffix_of(name), 0) + 1
    kinds = sorted(by_suffix.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [
        f"{count} {suffix} file{'s' * (count != 1)}".replace("  ", " ")
        for suffix, count in kinds[:3]
    ]
    if len(kinds) > 3:
        parts.append(counted(sum(count for _, count in kinds[3:]), "other file"))
    if contents.folders:
        parts.append(counted(len(contents.folders), "folder"))
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


# Whose caption a text is


def loose(name: str) -> str:
    """Return a name without what systems change of it: letter case, and how accents are composed."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def captions_of(
    images: Sequence[str], files: Mapping[str, object], suffixes: Sequence[str]
) -> dict[str, str]:
    """Return the caption file of each image that has one.

    Args:
        images: file names.
        files: by name, all of the folder.
        suffixes: of caption files, the preferred ones first.

    Returns:
        Image to caption file: `1.txt`, then `1_cx_cy_w_h.png`'s `1.txt`, then `1.png.txt`. Names count letter by
        letter, as in sd-scripts; what is then nobody's goes to the image whose name differs in letter case or
        accents alone.
    """
    found = {}
    for image in images:
        if exact := next((name for name in _candidates(image, suffixes) if name in files), ""):
            found[image] = exact
    if len(found) == len(images):
        return found
    free = {loose(name): name for name in reversed(unclaimed(files, found, suffixes))}
    for image in images if free else ():
        names = (free.get(loose(name), "") for name in _candidates(image, suffixes))
        if image not in found and (nearest := next(filter(None, names), "")):
            found[image] = nearest
    return found


def _candidates(image: str, suffixes: Iterable[str]) -> Iterator[str]:
    stem = os.path.splitext(image)[0]  # noqa: PTH122
    parts = stem.split("_") if "_" in stem else ()
    for suffix in suffixes:
        yield stem + suffix
        if len(parts) >= 5:  # name_cx_cy_w_h, as face detectors write
            yield "_".join(parts[:-4]) + suffix
    for suffix in suffixes:
        yield image + suffix


def unclaimed(
    files: Iterable[str], claimed: Mapping[str, str], suffixes: Iterable[str]
) -> list[str]:
    """Return the caption files that no image has, in order."""
    taken, ends = set(claimed.values()), tuple(suffix.lower() for suffix in suffixes)
    return [name for name in files if name.lower().endswith(ends) and name not in taken]


def is_about(name: str) -> bool:
    """Return whether a text speaks of the folder, such as `readme.txt`, and is meant for no image."""
    return os.path.splitext(name)[0].lower() in ABOUT  # noqa: PTH122
