"""List the images of a subset with their captions, from caption files or from a metadata file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coinage.data.folder import (
    CAPTION_SUFFIXES,
    FolderContents,
    describe_contents,
    holds_images,
    is_about_folder,
    list_folder,
    match_captions,
    normalized,
    report_other_kinds,
    stem_of,
    suffix_of,
    unclaimed,
)
from coinage.data.group_problems import group_problems
from coinage.data.metadata import (
    FOLDER_FILE,
    MOST_CAPTION,
    caption_of,
    image_path,
    read_entries,
    text_lines,
)
from coinage.data.parallel_reads import read_many
from coinage.data_config import SubsetConfig
from coinage.errors import Findings, Problem
from coinage.system.text_files import SAVE_AS_UTF8, decoded
from coinage.wording import counted, few

# As caption_extension: there are no caption files. GUIs write the long one for "use the folder's name".
NO_CAPTIONS = frozenset({".", ".none", ".none-use-foldername"})
MORE_LINES = "only the first is read; enable_wildcard takes one of them at random"
MOST_SHOWN = 3  # pairs of images with the same caption file that a warning names


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image that has not been opened yet, and its caption."""

    path: str
    caption: str
    has_caption: bool = True


def captioned_images(subset: SubsetConfig, findings: Findings) -> list[CaptionedImage]:
    """Return the images of a subset with their captions, in order.

    Args:
        subset: names the folder or the metadata file.
        findings: gets an error for each file that cannot be read, and a warning for each that is
            probably a mistake.
    """
    if subset.metadata_file:
        images = _from_metadata(subset.metadata_file, subset, findings)
    else:
        images = _from_folder(subset.image_dir or Path(), subset, findings)
    missing = sum(not image.has_caption for image in images)
    if missing and subset.captions.use_captions and not subset.regularisation:
        have = "has" if missing == 1 else "have"
        what = f"{missing} of {counted(len(images), 'image')} {have} no caption"
        findings.warn(what, subset.where, _hint_for_captions(subset))
    return images


def has_captions(folder: Path, suffix: str) -> bool:
    """Return whether images of a folder have captions: caption files, or a `metadata.jsonl`.

    Args:
        folder: of images.
        suffix: set as caption_extension; the usual ones count too, unless it means that there are
            no caption files.
    """
    if dotted(suffix).lower() in NO_CAPTIONS:
        return False
    contents = list_folder(folder, "", "image folder", Findings())
    if FOLDER_FILE in contents.paths:
        return True
    suffixes = (*CAPTION_SUFFIXES, dotted(suffix))
    return bool(match_captions(contents.images, contents.paths, suffixes))


def dotted(suffix: str) -> str:
    """Return a suffix with its dot in front, which may be left out where it is configured."""
    return suffix if suffix.startswith(".") else f".{suffix}"


def _hint_for_captions(subset: SubsetConfig) -> str:
    if subset.metadata_file:
        return "give each image a caption or tags in the metadata file"
    suffixes = " or ".join(_caption_suffixes(subset) or CAPTION_SUFFIXES)
    return f"write it to a file named like the image, ending in {suffixes}"


def _caption_suffixes(subset: SubsetConfig) -> tuple[str, ...]:
    """Return the suffixes of caption files, the preferred ones first; () where none are read."""
    suffixes = subset.caption_extensions
    return tuple(suffix for suffix in suffixes if suffix.lower() not in NO_CAPTIONS)


# From a folder


def _from_folder(folder: Path, subset: SubsetConfig, findings: Findings) -> list[CaptionedImage]:
    errors_before = len(findings.errors)
    contents = list_folder(folder, subset.where, "image folder", findings)
    report_other_kinds(contents, folder, findings)
    if not contents.images and len(findings.errors) == errors_before:
        inside = describe_contents(contents)
        holds = f", which holds {inside}" if inside else ""
        findings.warn(f"no images in {folder}{holds}: the subset is left out", subset.where)
    _note_subfolders(contents, folder, subset, findings)
    matches = match_captions(contents.images, contents.paths, _caption_suffixes(subset))
    _report_odd_captions(contents, matches, subset, findings)
    texts = _caption_texts(contents, matches, subset, findings)
    images = []
    for name in contents.images:
        text = texts.get(name)
        if text is None:
            # A caption file that cannot be read is an error of its own; it is not missing too.
            has_caption = subset.class_tokens is not None or name in matches
            text = subset.class_tokens or ""
        else:
            has_caption = bool(text)
        images.append(CaptionedImage(contents.paths[name], text, has_caption))
    return images


def _note_subfolders(
    contents: FolderContents, folder: Path, subset: SubsetConfig, findings: Findings
) -> None:
    """Note the subfolders whose images are not used; the folder of masks is not one of them."""
    masks = os.path.abspath(subset.mask_dir) if subset.mask_dir else ""  # noqa: PTH100
    unused = []
    for name in contents.folders:
        path = os.path.abspath(folder / name)  # noqa: PTH100
        if path != masks and holds_images(path):
            unused.append(name)
    if unused:
        what = "only the images directly in it are taken, not those in its subfolders"
        findings.note(f"{folder}: {what}: {few(unused)}")


def _report_odd_captions(
    contents: FolderContents, matches: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> None:
    """Report caption files of two images and of none, and a suffix that fits no caption file."""
    folder, images = str(subset.image_dir or Path()), contents.images
    uses_captions = subset.captions.use_captions
    if uses_captions:
        _warn_of_shared_captions(matches, subset, findings)
    unused = unclaimed(contents.paths, matches, _caption_suffixes(subset))
    second = _named_like(images, unused)
    if second and uses_captions:
        what = "not read, since their images have another caption file"
        findings.note(f"{folder}: {what}: {few(second)}")
    of_images = {*second, *_named_like(contents.other_image_names, unused)}
    orphans = []
    for name in unused:
        if name not in of_images and not is_about_folder(name):
            orphans.append(name)
    if orphans and images:
        _warn_of_orphans(orphans, folder, findings)
    if images and not matches and uses_captions:
        others = match_captions(images, contents.paths, CAPTION_SUFFIXES)
        if others:
            _report_wrong_suffix(others, subset, findings)


def _warn_of_orphans(orphans: Sequence[str], folder: str, findings: Findings) -> None:
    belong = "1 caption file belongs"
    if len(orphans) > 1:
        belong = f"{len(orphans):,} caption files belong"
    hint = "name each one like its image, or remove it"
    problem = Problem(f"{belong} to no image: {few(orphans)}", folder, hint)
    if problem not in findings.warnings:
        findings.warnings.append(problem)


def _named_like(images: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the texts that are named like an image, with its suffix or without."""
    if not texts:
        return []
    names: set[str] = set()
    for image in images:
        names |= {normalized(image), normalized(stem_of(image))}
    return [text for text in texts if normalized(stem_of(text)) in names]


def _report_wrong_suffix(
    others: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> None:
    """Report that there are captions, and none with the suffix that is configured."""
    suffix = suffix_of(next(iter(others.values())))
    names = ["nothing" if suffix == "." else suffix for suffix in subset.caption_extensions]
    what = f"no image has a caption ending in {' or '.join(names)}, but {len(others)} have another"
    if subset.class_tokens is None:
        findings.error(what, subset.where, f"set caption_extension to {suffix}")
    else:
        now = f"{subset.class_tokens!r} is taken for all"
        findings.warn(what, subset.where, f"{now}; to read them, set caption_extension to {suffix}")


def _warn_of_shared_captions(
    matches: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> None:
    by_stem: dict[tuple[str, str], list[str]] = {}
    for name, caption in matches.items():
        by_stem.setdefault((stem_of(name), caption), []).append(name)
    shared = [names for names in by_stem.values() if len(names) > 1]
    if not shared:
        return
    belong = "1 caption belongs" if len(shared) == 1 else f"{len(shared):,} captions belong"
    examples = "; ".join(" and ".join(names) for names in shared[:MOST_SHOWN])
    what = f"{belong} to more than one image: {examples}"
    findings.warn(what, subset.where, "give each image a name of its own")


def _caption_texts(
    contents: FolderContents, matches: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> dict[str, str]:
    """Return the caption of each image that has one: its own file's, else the metadata file's."""
    if not subset.captions.use_captions:
        return {}
    paths = [contents.paths[caption] for caption in matches.values()]
    by_path = _read_captions(list(dict.fromkeys(paths)), subset, findings)
    texts = {}
    for image, path in zip(matches, paths, strict=True):
        if path in by_path:
            texts[image] = by_path[path]
    file = contents.paths.get(FOLDER_FILE)
    if file and _caption_suffixes(subset) and len(matches) < len(contents.images):
        listed = _from_folder_file(Path(file), contents, subset, findings)
        for image, text in listed.items():
            if image not in matches:
                texts[image] = text
    return texts


def _read_captions(
    paths: Sequence[str], subset: SubsetConfig, findings: Findings
) -> dict[str, str]:
    """Return the text of each caption file: its first line, or all of them with wildcards."""
    texts: dict[str, str] = {}
    errors = Findings()
    with_more_lines = 0
    for path, data in zip(paths, read_many(_read_caption, paths), strict=True):
        text = _decoded(path, data, errors)
        if text is None:
            continue
        lines = text_lines(text)
        if len(lines) > 1 and not subset.captions.wildcard:
            with_more_lines += 1
            lines = lines[:1]
        texts[path] = "\n".join(lines)
    findings.errors += group_problems(errors.errors, "caption")
    _note_more_lines(with_more_lines, str(subset.image_dir), findings)
    return texts


def _note_more_lines(count: int, where: str, findings: Findings) -> None:
    if count:
        have = "1 caption has" if count == 1 else f"{count:,} captions have"
        findings.note(f"{where}: {have} more than one line; {MORE_LINES}")


def _read_caption(path: str) -> bytes:
    """Return a caption file's bytes, at most one more than is allowed; faster than pathlib."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read(MOST_CAPTION + 1)


def _decoded(path: str, data: bytes | OSError, findings: Findings) -> str | None:
    """Return the text of a caption file; None with an error when it cannot be used."""
    if isinstance(data, OSError):
        findings.error(f"unreadable caption: {data.strerror}", path, "check its permissions")
    elif not data:
        hint = "write what the image shows, with the word; or remove the file"
        findings.error("the caption file is empty", path, hint)
    elif len(data) > MOST_CAPTION:
        hint = "a model reads a line or three; check that this is a caption"
        findings.error(f"the caption is longer than {MOST_CAPTION // 1024} kB", path, hint)
    else:
        try:
            return decoded(data)
        except UnicodeError as error:
            findings.error(f"unreadable caption: {error}", path, SAVE_AS_UTF8)
    return None


# From a metadata file


def _from_folder_file(
    path: Path, contents: FolderContents, subset: SubsetConfig, findings: Findings
) -> dict[str, str]:
    """Return the captions in a folder's own `metadata.jsonl`, by image.

    What is wrong in it becomes a warning, since nobody configured the file.
    """
    texts: dict[str, str] = {}
    problems = Findings()
    with_more_lines = unknown = 0
    by_name = {normalized(image): image for image in contents.images}
    for entry in read_entries(path, problems):
        image = by_name.get(normalized(entry.name.removeprefix("./")))
        text, has_more_lines = caption_of(entry, subset.captions, problems)
        if image is None:
            unknown += 1
        elif text:
            texts[image] = text
            with_more_lines += has_more_lines
    for problem in group_problems(problems.errors, "line"):
        if problem not in findings.warnings:
            findings.warnings.append(problem)
    if texts:
        findings.note(f"{path}: {counted(len(texts), 'image')} have their captions from it")
    if unknown:
        findings.note(f"{path}: {counted(unknown, 'line')} of it name no image of the folder")
    _note_more_lines(with_more_lines, str(path), findings)
    return texts


def _from_metadata(path: Path, subset: SubsetConfig, findings: Findings) -> list[CaptionedImage]:
    images: list[CaptionedImage] = []
    errors = Findings()
    with_more_lines = 0
    for entry in read_entries(path, errors):
        text, has_more_lines = caption_of(entry, subset.captions, errors)
        image = image_path(entry, subset.image_dir, path, errors)
        if image:
            with_more_lines += has_more_lines
            has_caption = bool(text) or subset.class_tokens is not None
            caption = text or subset.class_tokens or ""
            images.append(CaptionedImage(image, caption, has_caption))
    findings.errors += group_problems(errors.errors, "entry", "entries")
    _note_more_lines(with_more_lines, str(path), findings)
    if not images and not errors.errors:
        findings.warn(f"no images in {path}: the subset is left out", subset.where)
    images.sort(key=lambda image: -len(image.path))  # sd-scripts' order: longest first
    return images
