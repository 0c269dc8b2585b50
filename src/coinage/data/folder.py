"""List a folder: its images, their caption files, images of other kinds, what systems left there."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path

from coinage.data_config import IMAGE_SUFFIXES
from coinage.errors import Findings, Problem
from coinage.wording import counted, few

CAPTION_SUFFIXES = (".caption", ".txt")
# What systems leave in folders unasked; names with a leading dot are left out too, as in sd-scripts.
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})
# Images that are reported and not read. Pillow would open GIF and TIFF, but sd-scripts does not: a
# command from there would train on more images than it used to. And a GIF is a film, a TIFF may
# hold many pages.
OTHER_KINDS = frozenset((
    ".gif", ".tif", ".tiff", ".heic", ".heif", ".hif", ".svg", ".psd", ".psb", ".xcf", ".kra", ".clip",
    ".ai", ".eps", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".wdp", ".tga", ".dds", ".exr", ".hdr", ".ico",
    ".icns", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".apng", ".raw", ".cr2", ".cr3", ".nef",
    ".arw", ".dng", ".orf", ".rw2", ".raf",
))  # fmt: skip
# Names of texts about a folder, in any letter case; they are no image's caption.
ABOUT_FOLDER = frozenset(
    {"readme", "notes", "note", "license", "licence", "credits", "sources", "todo", "index"}
)
# First bytes of images, and bytes 4 to 11 of HEIF and AVIF
IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
IMAGE_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
MOST_EXAMINED = 1000  # files of a subfolder, or files without a suffix, that are looked at
MOST_KINDS = 3  # kinds of files that a description counts one by one
WITHOUT_SUFFIX = "without a suffix"


@dataclass(frozen=True, slots=True)
class FolderContents:
    """What a folder holds, hidden names left out, in plain order of names.

    Attributes:
        paths: name to path of every file.
        images: names of the images that are read.
        other_images: names of images of other kinds, by suffix.
        folders: names of the subfolders.
    """

    paths: dict[str, str] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    other_images: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    @property
    def other_image_names(self) -> list[str]:
        """Names of the images of all other kinds."""
        return list(chain.from_iterable(self.other_images.values()))


def is_hidden(name: str) -> bool:
    """Return whether a system or a tool made the file for itself: `._1.png`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for every file


def stem_of(name: str) -> str:
    """Return a file name without its suffix."""
    return os.path.splitext(name)[0]  # noqa: PTH122 - called for every file


def is_image(name: str) -> bool:
    """Return whether a file name is an image's, in any letter case."""
    return suffix_of(name) in IMAGE_SUFFIXES and not is_hidden(name)


def list_folder(folder: Path, where: str, what: str, findings: Findings) -> FolderContents:
    """Return what a folder holds.

    Args:
        folder: to list.
        where: where it is configured, for messages.
        what: the folder is, for messages, such as `image folder`.
        findings: gets an error where the folder cannot be read, and for links that lead nowhere.
    """
    contents = FolderContents()
    for entry in _folder_entries(folder, where, what, findings):
        is_link = entry.is_symlink()
        # By its path, a link that runs in a circle is simply not a file
        if os.path.isfile(entry.path) if is_link else entry.is_file():  # noqa: PTH113
            contents.paths[entry.name] = entry.path
        elif os.path.isdir(entry.path):  # noqa: PTH112
            contents.folders.append(entry.name)
        elif is_link and is_image(entry.name):
            reason = "unreadable image: the link leads nowhere"
            findings.error(reason, entry.path, "replace or remove it")
    _sort_images(contents)
    return contents


def _folder_entries(
    folder: Path, where: str, what: str, findings: Findings
) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones; [] with an error."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not is_hidden(entry.name)]
    except NotADirectoryError:
        findings.error(f"{what} is a file: {folder}", where, "name the folder")
        return []
    except FileNotFoundError:
        hint = "write the path relative to the folder you start from, or absolute"
        findings.error(f"{what} not found: {folder}", where, hint)
        return []
    except OSError as error:
        reason = f"cannot read the {what} {folder}: {error.strerror}"
        findings.error(reason, where, "check its permissions")
        return []
    return sorted(visible, key=lambda entry: entry.name)


def _sort_images(contents: FolderContents) -> None:
    """Find the images among the files, and those of other kinds."""
    other_kinds = OTHER_KINDS
    examined = 0
    for name, path in contents.paths.items():
        suffix = suffix_of(name)
        if suffix in (".avif", ".jxl") and other_kinds is OTHER_KINDS:
            other_kinds = OTHER_KINDS | _suffixes_without_plugin()
        if not suffix and examined < MOST_EXAMINED:
            examined += 1
            suffix = WITHOUT_SUFFIX if _starts_as_image(path) else ""
        if suffix in other_kinds or suffix == WITHOUT_SUFFIX:
            contents.other_images.setdefault(suffix, []).append(name)
        elif suffix in IMAGE_SUFFIXES:
            contents.images.append(name)


def _suffixes_without_plugin() -> frozenset[str]:
    """Return the suffixes of images that Pillow could read with a plugin that is not installed."""
    from PIL import features

    has_avif = bool(find_spec("pillow_avif"))
    if "avif" in features.modules:  # Pillow's own, in later versions
        has_avif = bool(features.check("avif"))
    missing = set()
    if not has_avif:
        missing.add(".avif")
    if not find_spec("pillow_jxl"):
        missing.add(".jxl")
    return frozenset(missing)


def _starts_as_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(12)
    except OSError:
        return False
    is_webp = start[:4] == b"RIFF" and start[8:] == b"WEBP"
    return start.startswith(IMAGE_STARTS) or is_webp or start[4:] in IMAGE_BOXES


def report_other_kinds(contents: FolderContents, folder: Path, findings: Findings) -> None:
    """Add a warning about all images of other kinds; an error where there are no others."""
    kinds = contents.other_images
    if not kinds:
        return
    counts = []
    for suffix, names in sorted(kinds.items()):
        counts.append(f"{len(names)} {suffix} ({few(names, 2)})")
    listed = ", ".join(counts)
    hint = _hint_for_other_kinds(kinds)
    if not contents.images:
        findings.error(f"no image that can be read, only {listed}", str(folder), hint)
        return
    count = len(contents.other_image_names)
    noun = "image of another kind is" if count == 1 else "images of other kinds are"
    problem = Problem(f"{count:,} {noun} left out: {listed}", str(folder), hint)
    if problem not in findings.warnings:  # the folder may stand in several datasets
        findings.warnings.append(problem)


def _hint_for_other_kinds(kinds: Iterable[str]) -> str:
    """Return how to make images of other kinds readable."""
    hints = []
    if ".jxl" in kinds:
        hints.append("install pillow-jxl-plugin")
    if ".avif" in kinds:
        hints.append("install pillow-avif-plugin")
    if WITHOUT_SUFFIX in kinds:
        hints.append("add the suffix, such as .png")
    if OTHER_KINDS.intersection(kinds):
        hints.append("save them as PNG or JPEG")
    return "; ".join(hints)


def holds_images(folder: str) -> bool:
    """Return whether images lie directly in a folder; False where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return any(is_image(entry.name) for entry in islice(entries, MOST_EXAMINED))
    except OSError:
        return False


def describe_contents(contents: FolderContents) -> str:
    """Return what a folder holds: "3 .txt files and 2 folders"; "" where it is empty."""
    by_suffix = Counter(suffix_of(name) for name in contents.paths)
    kinds = sorted(by_suffix.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = []
    for suffix, count in kinds[:MOST_KINDS]:
        parts.append(counted(count, f"{suffix} file" if suffix else "file"))
    rest = sum(count for _, count in kinds[MOST_KINDS:])
    if rest:
        parts.append(counted(rest, "other file"))
    if contents.folders:
        parts.append(counted(len(contents.folders), "folder"))
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


# Which image a caption file belongs to


def normalized(name: str) -> str:
    """Return a name without what systems change: letter case, and how accents are composed."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def match_captions(
    images: Sequence[str], files: Mapping[str, object], suffixes: Sequence[str]
) -> dict[str, str]:
    """Return the caption file of each image that has one.

    A caption file is called `1.txt`, or as face detectors write for `1_cx_cy_w_h.png`, or
    `1.png.txt`, in this order. Names count letter by letter, as in sd-scripts; a file that then
    belongs to no image goes to the one whose name differs in letter case or accents alone.

    Args:
        images: file names.
        files: by name, all of the folder.
        suffixes: of caption files, the preferred ones first.
    """
    matches: dict[str, str] = {}
    for image in images:
        for name in _caption_names(image, suffixes):
            if name in files:
                matches[image] = name
                break
    if len(matches) == len(images):
        return matches
    free = _by_normalized_name(unclaimed(files, matches, suffixes))
    if not free:
        return matches
    for image in images:
        if image in matches:
            continue
        for name in _caption_names(image, suffixes):
            nearest = free.get(normalized(name))
            if nearest:
                matches[image] = nearest
                break
    return matches


def _by_normalized_name(names: Iterable[str]) -> dict[str, str]:
    """Return names by what systems leave of them; of names alike, the first."""
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(normalized(name), name)
    return by_name


def _caption_names(image: str, suffixes: Iterable[str]) -> Iterator[str]:
    """Yield the names that an image's caption file may have, the preferred ones first."""
    stem = stem_of(image)
    parts = stem.split("_") if "_" in stem else ()
    for suffix in suffixes:
        yield stem + suffix
        if len(parts) >= 5:  # name_cx_cy_w_h, as face detectors write
            yield "_".join(parts[:-4]) + suffix
    for suffix in suffixes:
        yield image + suffix


def unclaimed(
    files: Iterable[str], matches: Mapping[str, str], suffixes: Iterable[str]
) -> list[str]:
    """Return the caption files that belong to no image, in order."""
    taken = set(matches.values())
    endings = tuple(suffix.lower() for suffix in suffixes)
    return [name for name in files if name.lower().endswith(endings) and name not in taken]


def is_about_folder(name: str) -> bool:
    """Return whether a text, such as `readme.txt`, is about the folder and not about an image."""
    return stem_of(name).lower() in ABOUT_FOLDER
