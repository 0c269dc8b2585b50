"""Find images, captions and masks. Reads image headers only; imports neither torch nor models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from coinage.config import DataConfig, DatasetConfig, SubsetConfig
from coinage.data.buckets import Fit, Size, bucket_sizes, fit
from coinage.data.headers import Header, read_header
from coinage.data.reading import read_many
from coinage.data.sample import Sample
from coinage.data.sources import Entry, entries_of, is_image, list_folder
from coinage.errors import CoinageError, Findings
from coinage.files import write_bytes
from coinage.seeding import rng_for

SIZES_FILE = Path(".coinage") / "sizes.json"
MOST_USES = 50_000_000  # image uses per epoch


def scan(data: DataConfig, seed: int, findings: Findings) -> list[Sample]:
    """Every image of every subset; what is wrong with the others is found.

    Args:
        data: datasets and their rules.
        seed: chooses the images held out where a dataset has no seed of its own.
        findings: gets one error for each bad file.

    Returns:
        Training images, regularisation images among them, and held-out images (with no repeats).
    """
    samples: list[Sample] = []
    for index, dataset in enumerate(data.datasets):
        found: list[Sample] = []
        for subset in dataset.subsets:
            found += _scan_subset(dataset, subset, index, seed, findings, skip=data.skip_bad_images)
        samples += balanced(found, findings)
    if sum(sample.repeats for sample in samples) > MOST_USES:
        findings.error(f"an epoch would have more than {MOST_USES} images", hint="lower num_repeats")
    return samples


def _scan_subset(dataset: DatasetConfig, subset: SubsetConfig, index: int, seed: int, findings: Findings, *, skip: bool) -> list[Sample]:
    before = len(findings.errors)
    entries = entries_of(subset, findings)
    if not entries and len(findings.errors) == before:
        findings.warn(f"no images in {subset.metadata_file or subset.image_dir}: the subset is left out", subset.where)
    bad = Findings()
    headers = _headers([entry.path for entry in entries], subset, bad)
    masks = _masks(entries, headers, subset, findings)
    sizes = bucket_sizes(dataset.resolution_wh, dataset.buckets) if dataset.buckets.enabled else []
    fits: dict[Size, Fit | None] = {}
    samples = []
    for entry in entries:
        header = headers.get(entry.path)
        if header is None:
            continue
        size = header.stored_wh if subset.images.as_reference else header.upright_wh
        if size not in fits:
            fits[size] = fit(size, dataset.resolution_wh, dataset.buckets, sizes)
        fitted = fits[size]
        if fitted is None:
            what = f"the image is {size[0]}x{size[1]}, smaller than a bucket step of {dataset.buckets.step}"
            bad.error(what, entry.path, "enlarge or remove it, or drop bucket_no_upscale")
            continue
        sample = Sample(
            path=Path(entry.path),
            caption=entry.caption,
            subset=subset,
            dataset=index,
            image_wh=size,
            fit=fitted,
            repeats=subset.num_repeats,
            bucketed=dataset.buckets.enabled,
            rotated=header.orientation > 1,
            mask=masks.get(entry.path),
        )
        samples.append(sample)
    if skip and bad.errors:
        findings.warn(f"{len(bad.errors)} images are left out: {'; '.join(p.where for p in bad.errors[:3])}", subset.where)
    else:
        findings.errors += bad.errors
    return split(samples, seed if dataset.validation_seed is None else dataset.validation_seed)


def _headers(paths: Sequence[str], subset: SubsetConfig, findings: Findings) -> dict[str, Header]:
    """The header of each readable image. Sizes that are remembered are not read again."""
    known = _remembered(subset)
    found: dict[str, Header] = {}
    stamps: dict[str, tuple[int, int]] = {}
    wanted = []
    for path in paths:
        if subset.cache_sizes:
            stat = os.stat(path)  # noqa: PTH116 - called for every image
            stamps[path] = (stat.st_mtime_ns, stat.st_size)
        if path in stamps and (line := known.get(os.path.basename(path))) and tuple(line[:2]) == stamps[path]:  # noqa: PTH119
            found[path] = Header((line[2], line[3]), line[4])
        else:
            wanted.append(path)
    for path, header in zip(wanted, read_many(read_header, wanted), strict=True):
        if isinstance(header, Header):
            found[path] = header
        else:
            reason = str(header).replace(path, "").strip(" '") or type(header).__name__
            findings.error(f"unreadable image: {reason}", path, "replace or remove the file")
    if subset.cache_sizes and wanted:
        lines = {os.path.basename(p): [*stamps[p], *h.stored_wh, h.orientation] for p, h in found.items()}  # noqa: PTH119
        _remember(subset, lines, findings)
    return found


def _remembered(subset: SubsetConfig) -> dict[str, list[int]]:
    """Sizes kept by an earlier run: name to time, bytes, width, height, orientation."""
    if not subset.cache_sizes or subset.image_dir is None:
        return {}
    try:
        data = json.loads((subset.image_dir / SIZES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    lines = data.items() if isinstance(data, dict) else ()
    return {k: v for k, v in lines if isinstance(v, list) and len(v) == 5 and all(isinstance(x, int) and x > 0 for x in v)}


def _remember(subset: SubsetConfig, lines: dict[str, list[int]], findings: Findings) -> None:
    if subset.image_dir is None:
        return
    try:
        write_bytes(subset.image_dir / SIZES_FILE, json.dumps(lines).encode())
    except CoinageError as error:
        findings.warn(f"image sizes are not remembered: {error.problems[0].what}", error.problems[0].where)


def _masks(entries: Sequence[Entry], headers: dict[str, Header], subset: SubsetConfig, findings: Findings) -> dict[str, Path]:
    """The mask of each image: same name, any image suffix, same aspect ratio."""
    if subset.mask_dir is None:
        return {}
    names = [e for e in list_folder(subset.mask_dir, subset.where, "mask folder", findings) if is_image(e.name)]
    by_stem = {Path(entry.name).stem: entry.path for entry in names}
    found: dict[str, Path] = {}
    for entry in entries:
        mask = by_stem.pop(Path(entry.path).stem, None)
        if mask is None:
            findings.error("the image has no mask", entry.path, f"put an image of the same name into {subset.mask_dir}")
            continue
        found[entry.path] = Path(mask)
        try:
            size = read_header(mask).upright_wh
        except OSError as error:
            findings.error(f"unreadable mask: {error}", mask, "replace the file")
            continue
        if entry.path in headers and not _same_shape(size, headers[entry.path].upright_wh):
            width, height = headers[entry.path].upright_wh
            what = f"the mask is {size[0]}x{size[1]}, and its image {width}x{height}"
            findings.error(what, mask, "give both the same size, or at least the same aspect ratio")
    if by_stem and entries:
        findings.warn(f"{len(by_stem)} masks belong to no image: {', '.join(list(by_stem)[:3])}", str(subset.mask_dir))
    return found


def _same_shape(mask: Size, image: Size) -> bool:
    """Whether a mask can be rescaled to its image: the same aspect ratio, within a pixel of the mask."""
    return abs(mask[0] * image[1] - mask[1] * image[0]) <= max(image)


def split(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Hold out the last round(n * share) of a permutation of n images; regularisation images all train.

    The permutation depends on the seed and n alone: the same folder at two resolutions holds out the same images.
    """
    if not samples or samples[0].subset.regularisation:
        return list(samples)
    count = round(len(samples) * samples[0].subset.validation_split)
    order = rng_for(seed, "validation").permutation(len(samples))
    chosen = set(order[len(samples) - count :].tolist())
    return [replace(s, repeats=0, held_out=True) if i in chosen else s for i, s in enumerate(samples)]


def balanced(samples: Sequence[Sample], findings: Findings) -> list[Sample]:
    """Regularisation images repeated until they are as many as the others; those not needed are left out.

    The rule is the reference's: in order, first with their own repeats, then once more in each round.
    """
    wanted = sum(s.repeats for s in samples if not s.subset.regularisation)
    reg = [i for i, s in enumerate(samples) if s.subset.regularisation]
    repeats = reg_repeats(wanted, [samples[i].repeats for i in reg])
    if reg and 0 in repeats:
        findings.warn(f"{repeats.count(0)} of {len(reg)} regularisation images are not needed and are left out")
    chosen = dict(zip(reg, repeats, strict=True))
    return [replace(s, repeats=chosen[i]) if i in chosen else s for i, s in enumerate(samples) if chosen.get(i, 1)]


def reg_repeats(wanted: int, repeats: Iterable[int]) -> list[int]:
    """Repeats of each regularisation image, so that together they reach `wanted` uses."""
    own = list(repeats)
    found = [0] * len(own)
    total = 0
    while own and total < wanted:
        for i, count in enumerate(own):
            if total >= wanted:
                break
            found[i] += 1 if found[i] else count
            total += 1 if found[i] > count else count
    return found
