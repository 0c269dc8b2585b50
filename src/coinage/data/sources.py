"""Where images and captions come from: a folder with caption files, or a metadata file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coinage.config import SubsetConfig
from coinage.data.folder import (
    CAPTION_SUFFIXES,
    Contents,
    captions_of,
    describe,
    holds_images,
    is_about,
    list_folder,
    loose,
    suffix_of,
    tell_left_out,
    unclaimed,
)
from coinage.data.metadata import (
    FOLDER_FILE,
    MOST_CAPTION,
    composed,
    image_path,
    records,
    text_lines,
)
from coinage.data.parallel_reads import read_many
from coinage.data.telling import gathered
from coinage.errors import Findings, Problem
from coinage.system.text_files import SAVE_AS_UTF8, decoded
from coinage.wording import counted, few

# As caption_extension: there are no caption files. GUIs write the long one for "take the folder's name".
NO_CAPTIONS = frozenset({".", ".none", ".none-use-foldername"})
MORE_LINES = "only the first is read; enable_wildcard takes one of them at random"


@dataclass(frozen=True, slots=True)
class Entry:
    """An image and its caption, not opened yet."""

    path: str
    caption: str
    has_caption: bool = True


def entries_of(subset: SubsetConfig, findings: Findings) -> list[Entry]:
    """Return the images of a subset with their captions, in order; what is wrong is found."""
    found = (
        _from_metadata(subset, findings) if subset.metadata_file else _from_folder(subset, findings)
    )
    missing = sum(not entry.has_caption for entry in found)
    if missing and not subset.captions.template and not subset.regularisation:
        have = "has" if missing == 1 else "have"
        findings.warn(
            f"{missing} of {counted(len(found), 'image')} {have} no caption",
            subset.where,
            _caption_hint(subset),
        )
    return found


def has_captions(folder: Path, suffix: str) -> bool:
    """Return whether images of a folder have captions: in files named like them, or in a `metadata.jsonl`.

    Args:
        folder: of images.
        suffix: what is set as caption_extension; the usual ones count too, unless it means that there are none.
    """
    if dotted(suffix).lower() in NO_CAPTIONS:
        return False
    contents = list_folder(folder, "", "image folder", Findings())
    suffixes = (*CAPTION_SUFFIXES, dotted(suffix))
    return FOLDER_FILE in contents.paths or bool(
        captions_of(contents.images, contents.paths, suffixes)
    )


def dotted(suffix: str) -> str:
    """Return a suffix with its dot in front, which may be left out where one is set."""
    return suffix if suffix.startswith(".") else f".{suffix}"


def _caption_hint(subset: SubsetConfig) -> str:
    if subset.metadata_file:
        return "give each image a caption or tags in the metadata file"
    suffixes = " or ".join(_suffixes(subset) or CAPTION_SUFFIXES)
    return f"write it to a file named like the image, ending in {suffixes}"


def _suffixes(subset: SubsetConfig) -> tuple[str, ...]:
    """Of caption files, the preferred ones first; none where there are to be none."""
    return tuple(
        suffix for suffix in subset.caption_extensions if suffix.lower() not in NO_CAPTIONS
    )


# From a folder


def _from_folder(subset: SubsetConfig, findings: Findings) -> list[Entry]:
    folder = subset.image_dir or Path()
    before = len(findings.errors)
    contents = list_folder(folder, subset.where, "image folder", findings)
    tell_left_out(contents, folder, findings)
    if not contents.images and len(findings.errors) == before:
        holds = f", which holds {inside}" if (inside := describe(contents)) else ""
        findings.warn(f"no images in {folder}{holds}: the subset is left out", subset.where)
    _note_subfolders(contents, subset, findings)
    paired = captions_of(contents.images, contents.paths, _suffixes(subset))
    _tell_of_pairs(contents, paired, subset, findings)
    texts = _texts(contents, paired, subset, findings)
    entries = []
    for name in contents.images:
        text = texts.get(name)
        # A caption that cannot be read is told of; it is not missing too.
        has = bool(text) if text is not None else subset.class_tokens is not None or name in paired
        caption = subset.class_tokens or "" if text is None else text
        entries.append(Entry(contents.paths[name], caption, has))
    return entries


def _note_subfolders(contents: Contents, subset: SubsetConfig, findings: Findings) -> None:
    folder = subset.image_dir or Path()
    masks = os.path.abspath(subset.mask_dir) if subset.mask_dir else ""  # noqa: PTH100
    inner = {name: os.path.abspath(folder / name) for name in contents.folders}  # noqa: PTH100
    spare = [name for name, path in inner.items() if path != masks and holds_images(path)]
    if spare:
        what = "only the images directly in it are taken, not those in its subfolders"
        findings.note(f"{folder}: {what}: {few(spare)}")


def _tell_of_pairs(
    contents: Contents, paired: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> None:
    """Tell of captions that two images share, of those that no image has, and of a suffix that fits none."""
    folder, images = str(subset.image_dir or Path()), contents.images
    of_other_kinds = [name for names in contents.others.values() for name in names]
    _warn_of_twins(paired, subset, findings)
    spare = unclaimed(contents.paths, paired, _suffixes(subset))
    second = _named_like(images, spare)
    others = {*second, *_named_like(of_other_kinds, spare)}
    orphans = [name for name in spare if name not in others and not is_about(name)]
    if second and not subset.captions.template:
        findings.note(
            f"{folder}: not read, since their images have another caption file: {few(second)}"
        )
    if orphans and images:
        belong = (
            "1 caption file belongs"
            if len(orphans) == 1
            else f"{len(orphans):,} caption files belong"
        )
        hint = "name each one like its image, or remove it"
        problem = Problem(f"{belong} to no image: {few(orphans)}", folder, hint)
        findings.warnings += [] if problem in findings.warnings else [problem]
    if images and not paired and not subset.captions.template:
        _tell_of_misfit(captions_of(images, contents.paths, CAPTION_SUFFIXES), subset, findings)


def _named_like(images: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The texts whose names are an image's, with its suffix or without."""
    if not texts:
        return []
    names = {loose(part) for image in images for part in (image, os.path.splitext(image)[0])}  # noqa: PTH122
    return [text for text in texts if loose(os.path.splitext(text)[0]) in names]  # noqa: PTH122


def _tell_of_misfit(others: Mapping[str, str], subset: SubsetConfig, findings: Findings) -> None:
    """Tell that captions are there, and not with the suffix that is asked for."""
    if not others:
        return
    suffix = suffix_of(next(iter(others.values())))
    asked = " or ".join(ext if ext != "." else "nothing" for ext in subset.caption_extensions)
    what = f"no image has a caption ending in {asked}, but {len(others)} have another"
    if subset.class_tokens is None:
        findings.error(what, subset.where, f"set caption_extension to {suffix}")
    else:
        instead = f"{subset.class_tokens!r} is taken for all; to read them, set caption_extension to {suffix}"
        findings.warn(what, subset.where, instead)


def _warn_of_twins(paired: Mapping[str, str], subset: SubsetConfig, findings: Findings) -> None:
    by_stem: dict[tuple[str, str], list[str]] = {}
    for name, caption in paired.items():
        by_stem.setdefault((os.path.splitext(name)[0], caption), []).append(name)  # noqa: PTH122
    twins = [names for names in by_stem.values() if len(names) > 1]
    if twins and not subset.captions.template:
        shown = "; ".join(" and ".join(names) for names in twins[:3])
        belong = "1 caption belongs" if len(twins) == 1 else f"{len(twins):,} captions belong"
        findings.warn(
            f"{belong} to more than one image: {shown}",
            subset.where,
            "give each image a name of its own",
        )


def _texts(
    contents: Contents, paired: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> dict[str, str]:
    """The caption of each image that has one: its own file's, else the folder's; none where sentences are taken."""
    if subset.captions.template:
        return {}
    paths = {image: contents.paths[caption] for image, caption in paired.items()}
    read = _read(list(dict.fromkeys(paths.values())), subset, findings)
    texts = {image: read[path] for image, path in paths.items() if path in read}
    if _suffixes(subset) and FOLDER_FILE in contents.paths and len(paired) < len(contents.images):
        told = _from_folder_file(Path(contents.paths[FOLDER_FILE]), contents, subset, findings)
        texts |= {image: text for image, text in told.items() if image not in paired}
    return texts


def _read(paths: Sequence[str], subset: SubsetConfig, findings: Findings) -> dict[str, str]:
    """The text of each caption file: its first line with text, or all of them with wildcards."""
    found, bad, more = dict[str, str](), Findings(), 0
    for path, data in zip(paths, read_many(_read_caption, paths), strict=True):
        text = _decoded(path, data, bad)
        if text is not None:
            lines = text_lines(text)
            kept = lines if subset.captions.wildcard else lines[:1]
            found[path], more = "\n".join(kept), more + (len(kept) < len(lines))
    findings.errors += gathered(bad.errors, "caption")
    _note_lines(more, str(subset.image_dir), findings)
    return found


def _note_lines(count: int, where: str, findings: Findings) -> None:
    if count:
        have = "1 caption has" if count == 1 else f"{count:,} captions have"
        findings.note(f"{where}: {have} more than one line; {MORE_LINES}")


def _read_caption(path: str) -> bytes:
    """A caption file's bytes, or what shows that they are too many; faster than pathlib."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read(MOST_CAPTION + 1)


def _decoded(path: str, data: bytes | OSError, findings: Findings) -> str | None:
    """The text of a caption file; None with an error when there is none to be had."""
    if isinstance(data, OSError):
        findings.error(f"unreadable caption: {data.strerror}", path, "check its permissions")
    elif not data:
        hint = "write what the image shows, with the word; or remove the file"
        findings.error("the caption file is empty", path, hint)
    elif len(data) > MOST_CAPTION:
        hint = "a model reads a line or three; see whether this is a caption"
        findings.error(f"the caption is longer than {MOST_CAPTION // 1024} kB", path, hint)
    else:
        try:
            return decoded(data)
        except UnicodeError as error:
            findings.error(f"unreadable caption: {error}", path, SAVE_AS_UTF8)
    return None


# From a metadata file


def _from_folder_file(
    path: Path, contents: Contents, subset: SubsetConfig, findings: Findings
) -> dict[str, str]:
    """Captions of a folder's own `metadata.jsonl`, by image; its faults are warnings, since nobody named it."""
    bad, found, more, astray = Findings(), dict[str, str](), 0, 0
    by_name = {loose(image): image for image in contents.images}
    for record in records(path, bad):
        image = by_name.get(loose(record.name.removeprefix("./")))
        text, longer = composed(record, subset.captions, bad)
        astray += image is None
        if image and text:
            found[image], more = text, more + longer
    findings.warnings += [p for p in gathered(bad.errors, "line") if p not in findings.warnings]
    if found:
        findings.note(f"{path}: {counted(len(found), 'image')} have their captions from it")
    if astray:
        findings.note(f"{path}: {counted(astray, 'line')} of it name no image of the folder")
    _note_lines(more, str(path), findings)
    return found


def _from_metadata(subset: SubsetConfig, findings: Findings) -> list[Entry]:
    path = subset.metadata_file or Path()
    entries, bad, more = list[Entry](), Findings(), 0
    for record in records(path, bad):
        text, longer = composed(record, subset.captions, bad)
        image = image_path(record, subset.image_dir, path, bad)
        if image:
            more += longer
            entries.append(
                Entry(
                    image,
                    text or subset.class_tokens or "",
                    bool(text) or subset.class_tokens is not None,
                )
            )
    findings.errors += gathered(bad.errors, "entry", "entries")
    _note_lines(more, str(path), findings)
    if not entries and not bad.errors:
        findings.warn(f"no images in {path}: the subset is left out", subset.where)
    entries.sort(key=lambda entry: -len(entry.path))  # sd-scripts' order: longest first
    return entries
