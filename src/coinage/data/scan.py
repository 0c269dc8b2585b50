"""Find images, captions and masks. Reads image headers only; imports neither torch nor models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from coinage.config import DataConfig, DatasetConfig, SubsetConfig
from coinage.data.buckets import Fit, Size, bucket_sizes, fit
from coinage.data.folder import list_folder, loose, tell_left_out
from coinage.data.headers import MAX_PIXELS, Header, read_header
from coinage.data.parallel_reads import read_many
from coinage.data.sample import Sample
from coinage.data.sources import Entry, entries_of
from coinage.data.telling import gathered
from coinage.errors import CoinageError, Findings, Problem
from coinage.seeding import rng_for
from coinage.system.files import write_bytes
from coinage.system.text_files import MEGABYTE, read_json
from coinage.wording import counted, few

# Another name for another format: sizes.json knew fewer of the places where an orientation is told.
SIZES_FILE = Path(".coinage") / "sizes-2.json"
MOST_SIZES = 256 * MEGABYTE  # of millions of images
MOST_USES = 50_000_000  # image uses per epoch


def scan(data: DataConfig, seed: int, findings: Findings) -> list[Sample]:
    """Every image of every subset; what is wrong with the others is found.

    Args:
        data: datasets and their rules.
        seed: chooses the images held out where a dataset has no seed of its own.
        findings: gets one error for each bad file.

    Returns:
        Training images, regularisation images not balanced yet, and held-out images (with no repeats).
    """
    samples: list[Sample] = []
    mask_folders: dict[Path, dict[str, str]] = {}
    for index, dataset in enumerate(data.datasets):
        for subset in dataset.subsets:
            if (
                subset.mask_dir
                and not subset.regularisation
                and subset.mask_dir not in mask_folders
            ):
                mask_folders[subset.mask_dir] = _mask_names(subset.mask_dir, subset.where, findings)
            masks = (
                mask_folders.get(subset.mask_dir, {})
                if subset.mask_dir and not subset.regularisation
                else None
            )
            samples += _scan_subset(
                dataset, subset, index, seed, masks, findings, skip=data.skip_bad_images
            )
    used = {(sample.mask.parent, sample.mask.stem) for sample in samples if sample.mask}
    for folder, names in mask_folders.items():
        spare = [stem for stem in names if (folder, stem) not in used]
        if spare and len(spare) < len(names):
            belong = "1 mask belongs" if len(spare) == 1 else f"{len(spare)} masks belong"
            findings.warn(f"{belong} to no image: {few(spare)}", str(folder))
    if sum(sample.repeats for sample in samples) > MOST_USES:
        findings.error(
            f"an epoch would have more than {MOST_USES} images", hint="lower num_repeats"
        )
    return without_leaks(samples)


def _scan_subset(
    dataset: DatasetConfig,
    subset: SubsetConfig,
    index: int,
    seed: int,
    mask_names: dict[str, str] | None,
    findings: Findings,
    *,
    skip: bool,
) -> list[Sample]:
    entries = entries_of(subset, findings)
    bad = Findings()
    headers = _headers([entry.path for entry in entries], subset, bad)
    masks = {} if mask_names is None else _masks(entries, headers, mask_names, subset, findings)
    samples = _fitted(
        [entry for entry in entries if entry.path in headers],
        headers,
        masks,
        dataset,
        subset,
        index,
        bad,
    )
    report_unusable(bad.errors, findings, subset.where, skip=skip)
    return split(samples, seed if dataset.validation_seed is None else dataset.validation_seed)


def report_unusable(
    problems: Sequence[Problem], findings: Findings, where: str = "", *, skip: bool
) -> None:
    """Unusable images are errors, or with `skip` one warning that they are left out."""
    if problems and skip:
        are = "1 image is" if len(problems) == 1 else f"{len(problems)} images are"
        findings.warn(f"{are} left out: {few(p.where for p in problems)}", where)
    else:
        findings.errors += gathered(problems, "image")


def _fitted(
    entries: Sequence[Entry],
    headers: dict[str, Header],
    masks: dict[str, Path],
    dataset: DatasetConfig,
    subset: SubsetConfig,
    index: int,
    findings: Findings,
) -> list[Sample]:
    """A sample for each entry that has a bucket."""
    buckets = dataset.buckets
    sizes = (
        bucket_sizes(dataset.resolution_wh, buckets)
        if buckets.enabled and not buckets.no_upscale
        else []
    )
    fits: dict[Size, Fit | None] = {}
    samples = []
    for entry in entries:
        header = headers[entry.path]
        size = shown_size(header, subset)
        if size not in fits:
            fits[size] = fit(size, dataset.resolution_wh, buckets, sizes)
        fitted = fits[size]
        if fitted is None:
            what = f"the image is {size[0]}x{size[1]}, and its bucket would be smaller than a step of {buckets.step}"
            findings.error(
                what,
                entry.path,
                "enlarge or remove it, raise resolution, or drop bucket_no_upscale",
            )
            continue
        if fitted.resized_wh[0] * fitted.resized_wh[1] > MAX_PIXELS:
            (across, down), (width, height) = fitted.bucket_wh, fitted.resized_wh
            what = f"the image is {size[0]}x{size[1]}: to fill {across}x{down} it would grow to {width}x{height}"
            findings.error(
                what, entry.path, "cut it to a shape nearer to a square, or use enable_bucket"
            )
            continue
        sample = Sample(
            path=Path(entry.path),
            caption=entry.caption,
            subset=subset,
            dataset=index,
            image_wh=size,
            fit=fitted,
            repeats=subset.num_repeats,
            bucketed=buckets.enabled,
            rotated=header.orientation > 1 and not subset.images.as_reference,
            mask=masks.get(entry.path),
        )
        samples.append(sample)
    return samples


def _headers(paths: Sequence[str], subset: SubsetConfig, findings: Findings) -> dict[str, Header]:
    """The header of each readable image. Sizes that are remembered are not read again."""
    known = _remembered(subset)
    stamps = _stamps(paths) if subset.cache_sizes else {}
    found: dict[str, Header] = {}
    for path, stamp in stamps.items():
        line = known.get(_name(path, subset))
        if (
            line
            and (line[0], line[1]) == stamp
            and line[2] * line[3] <= MAX_PIXELS
            and line[4] <= 8
        ):
            found[path] = Header((line[2], line[3]), line[4])
    wanted = [path for path in dict.fromkeys(paths) if path not in found]
    for path, header in zip(wanted, read_many(read_header, wanted), strict=True):
        if isinstance(header, Header):
            found[path] = header
        else:
            reason = str(header).replace(path, "").strip(" '") or type(header).__name__
            findings.error(f"unreadable image: {reason}", path, "replace or remove the file")
    if wanted and stamps:
        lines = {
            _name(p, subset): [*stamps[p], *found[p].stored_wh, found[p].orientation]
            for p in wanted
            if p in found and p in stamps
        }
        _remember(subset, known | lines, findings)
    return found


def _stamps(paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Time of change and size in bytes of each file that is there."""
    stats = zip(paths, read_many(os.stat, paths), strict=True)
    return {
        path: (stat.st_mtime_ns, stat.st_size)
        for path, stat in stats
        if isinstance(stat, os.stat_result)
    }


def _name(path: str, subset: SubsetConfig) -> str:
    """How an image is called in the file of sizes: by its path inside the image folder."""
    return os.path.relpath(path, subset.image_dir)


def _remembered(subset: SubsetConfig) -> dict[str, list[int]]:
    """Sizes kept by an earlier run: name to time, bytes, width, height, orientation."""
    if not subset.cache_sizes or subset.image_dir is None:
        return {}
    try:
        data = read_json(subset.image_dir / SIZES_FILE, most=MOST_SIZES)
    except CoinageError:
        return {}
    lines = data.items() if isinstance(data, dict) else ()
    return {
        k: v
        for k, v in lines
        if isinstance(v, list) and len(v) == 5 and all(_is_count(x) for x in v)
    }


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _remember(subset: SubsetConfig, lines: dict[str, list[int]], findings: Findings) -> None:
    if subset.image_dir is None:
        return
    try:
        write_bytes(subset.image_dir / SIZES_FILE, json.dumps(lines).encode())
    except CoinageError as error:
        findings.warn(
            f"image sizes are not remembered: {error.problems[0].what}", error.problems[0].where
        )


def _mask_names(folder: Path, where: str, findings: Findings) -> dict[str, str]:
    """The masks of a folder, by name without suffix."""
    contents = list_folder(folder, where, "mask folder", findings)
    tell_left_out(contents, folder, findings)
    return {Path(name).stem: contents.paths[name] for name in contents.images}


def _masks(
    entries: Sequence[Entry],
    headers: dict[str, Header],
    names: dict[str, str],
    subset: SubsetConfig,
    findings: Findings,
) -> dict[str, Path]:
    """The mask of each image: same name but for case and accents, any image suffix, same aspect ratio."""
    alike = {loose(stem): path for stem, path in reversed(names.items())}
    stems = [(entry.path, Path(entry.path).stem) for entry in entries]
    pairs = [(image, names.get(stem) or alike.get(loose(stem))) for image, stem in stems]
    found = {image: mask for image, mask in pairs if mask}
    bad = Findings()
    for image, mask in pairs:
        if mask is None:
            bad.error(
                "the image has no mask",
                image,
                f"put an image of the same name into {subset.mask_dir}",
            )
    wanted = list(dict.fromkeys(found.values()))
    sizes = dict(zip(wanted, read_many(read_header, wanted), strict=True))
    for image, mask in found.items():
        header = sizes[mask]
        if isinstance(header, OSError):
            bad.error(f"unreadable mask: {header}", mask, "replace the file")
        elif image in headers and not _same_shape(
            shown_size(header, subset), shown_size(headers[image], subset)
        ):
            (width, height), size = shown_size(headers[image], subset), shown_size(header, subset)
            what = f"the mask is {size[0]}x{size[1]}, and its image {width}x{height}"
            bad.error(what, mask, "give both the same size, or at least the same aspect ratio")
    findings.errors += gathered(bad.errors, "mask")
    return {image: Path(mask) for image, mask in found.items() if isinstance(sizes[mask], Header)}


def shown_size(header: Header, subset: SubsetConfig) -> Size:
    """An image's size as training sees it: upright, unless sd-scripts is followed."""
    return header.stored_wh if subset.images.as_reference else header.upright_wh


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
    return [
        replace(s, repeats=0, held_out=True) if i in chosen else s for i, s in enumerate(samples)
    ]


def without_leaks(samples: Sequence[Sample]) -> list[Sample]:
    """An image that is held out in one place trains in none: there it is left out."""
    held_out = {os.path.realpath(sample.path) for sample in samples if sample.held_out}
    if not held_out:
        return list(samples)
    return [
        s
        for s in samples
        if s.held_out or s.subset.regularisation or os.path.realpath(s.path) not in held_out
    ]


def balanced(samples: Sequence[Sample], findings: Findings) -> list[Sample]:
    """Regularisation images repeated until they are as many as the others of their dataset; the rest is left out.

    The rule is sd-scripts': in order, first with their own repeats, then once more in each round.
    """
    chosen: dict[int, int] = {}
    for dataset in {sample.dataset for sample in samples if sample.subset.regularisation}:
        members = [(i, s) for i, s in enumerate(samples) if s.dataset == dataset]
        reg = [(i, s.repeats) for i, s in members if s.subset.regularisation]
        wanted = sum(s.repeats for _, s in members if not s.subset.regularisation)
        chosen |= dict(
            zip((i for i, _ in reg), reg_repeats(wanted, [own for _, own in reg]), strict=True)
        )
    spare = list(chosen.values()).count(0)
    if spare:
        findings.warn(
            f"left out: {spare} of {counted(len(chosen), 'regularisation image')}, not needed beside the training images"
        )
    return [
        replace(s, repeats=chosen.get(i, s.repeats))
        for i, s in enumerate(samples)
        if chosen.get(i, 1)
    ]


def reg_repeats(wanted: int, repeats: Iterable[int]) -> list[int]:
    """Repeats of each regularisation image, so that together they reach `wanted` uses."""
    found, missing = [], wanted
    for count in repeats:
        found.append(count if missing > 0 else 0)
        missing -= found[-1]
    if not found or missing <= 0:
        return found
    rounds, extra = divmod(missing, len(found))
    return [count + rounds + (i < extra) for i, count in enumerate(found)]
