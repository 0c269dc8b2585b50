"""Find images and their captions. Reads image headers only; imports neither torch nor models."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from coinage.config import DataConfig, SubsetConfig
from coinage.data.buckets import Fit, Size, bucket_sizes, fit
from coinage.data.captions import variants
from coinage.errors import Problem
from coinage.words import word_pattern

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a subset, with its caption and how it is fitted to its bucket."""

    path: Path
    caption: str
    subset: SubsetConfig
    dataset: int  # index into the datasets
    fit: Fit


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    caption: str
    size: Size


def image_size(path: Path) -> Size:
    """Width and height as displayed (EXIF orientation applied), from the header.

    Raises:
        OSError: the file is no readable image.
    """
    with Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION, 1) >= 5:
            width, height = height, width
    if width < 1 or height < 1:
        raise OSError("the image has no pixels")
    return width, height


def load_rgb(path: Path) -> Image.Image:
    """The image as displayed, 8-bit RGB; transparency over white, 16 bits scaled."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I"):
            values = np.asarray(upright, dtype=np.float64) / 257  # 65535 becomes 255
            upright = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            ground = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(ground, upright).convert("RGB")
        return upright.convert("RGB")


def _caption_file(path: Path, extensions: Sequence[str]) -> Path | None:
    stems = [path.with_suffix("")]
    parts = str(path).split("_")
    if len(parts) >= 5:  # name_cx_cy_w_h, as face detectors write
        stems.append(Path("_".join(parts[:-4])))
    for extension in extensions:
        for stem in stems:
            candidate = stem.with_name(stem.name + extension)
            if candidate.is_file():
                return candidate
    return None


def _caption(path: Path, subset: SubsetConfig) -> str:
    """The caption of an image: its file's first line with text (all, with wildcards), else the class tokens.

    Raises:
        OSError, UnicodeDecodeError: the caption file cannot be read.
    """
    file = _caption_file(path, subset.caption_extensions)
    if file is None:
        return subset.class_tokens or ""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return "\n".join(lines if subset.captions.wildcard else lines[:1])


def _read(path: Path, subset: SubsetConfig) -> _Found | Problem:
    try:
        size = image_size(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "").strip(" '") or type(error).__name__
        return Problem(f"unreadable image: {reason}", str(path), "replace or remove the file")
    try:
        return _Found(path, _caption(path, subset), size)
    except (OSError, UnicodeDecodeError) as error:
        return Problem(f"unreadable caption: {error}", str(path), "save caption files as UTF-8 text")


def _scan_subset(subset: SubsetConfig, pool: ThreadPoolExecutor) -> tuple[list[_Found], list[Problem]]:
    if not subset.image_dir.is_dir():
        hint = "write the path relative to the folder you start from, or absolute"
        return [], [Problem(f"image folder not found: {subset.image_dir}", subset.where, hint)]
    paths = sorted(p for p in subset.image_dir.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not paths:
        return [], [Problem(f"no images in {subset.image_dir}", subset.where, f"add files ending in {', '.join(IMAGE_SUFFIXES[:5])}")]
    results = list(pool.map(lambda p: _read(p, subset), paths))
    return [r for r in results if isinstance(r, _Found)], [r for r in results if isinstance(r, Problem)]


def scan(data: DataConfig) -> tuple[list[Sample], list[Problem]]:
    """Every image of every subset, and what is wrong with the others."""
    samples, problems = [], []
    with ThreadPoolExecutor(8) as pool:
        for index, dataset in enumerate(data.datasets):
            sizes = bucket_sizes(dataset.resolution_wh, dataset.buckets) if dataset.buckets.enabled else []
            for subset in dataset.subsets:
                found, wrong = _scan_subset(subset, pool)
                problems += wrong
                samples += [
                    Sample(f.path, f.caption, subset, index, fit(f.size, dataset.resolution_wh, dataset.buckets, sizes)) for f in found
                ]
    return samples, problems


def caption_problems(samples: Sequence[Sample], token: str) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings about captions that lack the word, without which nothing is learned.

    Captions are tried as a run would use them: prefix, wildcards, dropped tags and warm-up included.
    """
    pattern = word_pattern([token])
    tried = [(s, variants(s.caption, s.subset.captions, token)) for s in samples]
    lacking = [(s, texts) for s, texts in tried if not all(pattern.search(text) for text in texts)]
    if not lacking:
        return [], []
    shown = "; ".join(f"{s.path.name}: {s.caption!r}" for s, _ in lacking[:3])
    where = f"{lacking[0][0].path.parent} ({shown})"
    hint = f'write {token} into each caption file, such as "a photo of {token}", or use --use_object_template'
    if any(token.lower() in s.caption.lower() for s, _ in lacking):
        hint += "; letter case and word boundaries count"
    if not any(pattern.search(text) for _, texts in tried for text in texts):
        return [Problem(f"no caption contains the word {token}: nothing would be learned", where, hint)], []
    what = f"{len(lacking)} of {len(samples)} captions lack the word {token}: these images teach it nothing"
    return [], [Problem(what, where, hint)]
