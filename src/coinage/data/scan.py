"""Find images, captions and masks. Reads image headers only; imports neither torch nor models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coinage.data.buckets import Fit, Size, bucket_sizes, fit
from coinage.data.captioned_images import CaptionedImage, captioned_images
from coinage.data.group_problems import group_problems
from coinage.data.headers import MAX_PIXELS, Header
from coinage.data.masks import MaskFolders, displayed_size, match_masks
from coinage.data.sample import Sample, uses_per_epoch
from coinage.data.stored_sizes import read_headers
from coinage.data_config import DataConfig, DatasetConfig, SubsetConfig
from coinage.errors import Findings, Problem
from coinage.seeding import rng_for
from coinage.wording import counted, few

MOST_USES = 50_000_000  # image uses per epoch


def scan(data: DataConfig, seed: int, findings: Findings) -> list[Sample]:
    """Return the images of all subsets.

    Args:
        data: datasets and their rules.
        seed: chooses the images held out where a dataset has no seed of its own.
        findings: gets an error for each file that cannot be used.

    Returns:
        Training images, regularisation images not balanced yet, and held-out images (without
        repeats).
    """
    samples: list[Sample] = []
    masks = MaskFolders()
    for index, dataset in enumerate(data.datasets):
        for subset in dataset.subsets:
            images = _scan_subset(
                index, dataset, subset, masks, findings, skip=data.skip_bad_images
            )
            samples += hold_out(images, _seed_of(dataset, seed))
    masks.warn_of_unused(samples, findings)
    if uses_per_epoch(samples) > MOST_USES:
        what = f"an epoch would have more than {MOST_USES} images"
        findings.error(what, hint="lower num_repeats")
    return without_leaks(samples)


def _seed_of(dataset: DatasetConfig, seed: int) -> int:
    return seed if dataset.validation_seed is None else dataset.validation_seed


def _scan_subset(
    index: int,
    dataset: DatasetConfig,
    subset: SubsetConfig,
    mask_folders: MaskFolders,
    findings: Findings,
    *,
    skip: bool,
) -> list[Sample]:
    available = mask_folders.masks_for(subset, findings)
    images = captioned_images(subset, findings)
    paths = [image.path for image in images]
    errors = Findings()
    headers = read_headers(paths, subset, errors)
    masks: dict[str, Path] = {}
    if available is not None:
        masks = match_masks(paths, headers, available, subset, findings)
    readable = [image for image in images if image.path in headers]
    samples = _make_samples(readable, headers, masks, dataset, subset, index, errors)
    report_unusable(errors.errors, findings, subset.where, skip=skip)
    return samples


def report_unusable(
    problems: Sequence[Problem], findings: Findings, where: str = "", *, skip: bool
) -> None:
    """Add errors for images that cannot be used; with `skip`, one warning that they are left out."""
    if problems and skip:
        are = "1 image is" if len(problems) == 1 else f"{len(problems)} images are"
        names = few(problem.where for problem in problems)
        findings.warn(f"{are} left out: {names}", where)
    else:
        findings.errors += group_problems(problems, "image")


def _make_samples(
    images: Sequence[CaptionedImage],
    headers: Mapping[str, Header],
    masks: Mapping[str, Path],
    dataset: DatasetConfig,
    subset: SubsetConfig,
    index: int,
    findings: Findings,
) -> list[Sample]:
    """Return a sample for each image that has a bucket; add an error for each other one."""
    buckets = dataset.buckets
    sizes: list[Size] = []
    if buckets.enabled and not buckets.no_upscale:
        sizes = bucket_sizes(dataset.resolution_wh, buckets)
    fits: dict[Size, Fit | None] = {}
    samples = []
    for image in images:
        header = headers[image.path]
        image_wh = displayed_size(header, subset)
        if image_wh not in fits:
            fits[image_wh] = fit(image_wh, dataset.resolution_wh, buckets, sizes)
        fitted = fits[image_wh]
        if fitted is None or not _is_bearable(fitted):
            _report_no_bucket(image.path, image_wh, fitted, buckets.step, findings)
            continue
        sample = Sample(
            path=Path(image.path),
            caption=image.caption,
            subset=subset,
            dataset=index,
            image_wh=image_wh,
            fit=fitted,
            repeats=subset.num_repeats,
            bucketed=buckets.enabled,
            rotated=header.orientation > 1 and not subset.images.as_reference,
            mask=masks.get(image.path),
        )
        samples.append(sample)
    return samples


def _is_bearable(fitted: Fit) -> bool:
    """Return whether memory can hold the resized image."""
    return fitted.resized_wh[0] * fitted.resized_wh[1] <= MAX_PIXELS


def _report_no_bucket(
    path: str, image_wh: Size, fitted: Fit | None, step: int, findings: Findings
) -> None:
    """Add an error for an image that would become too small or too large.

    Args:
        path: of the image.
        image_wh: its size.
        fitted: how it would be resized; None where its bucket would be smaller than a step.
        step: of the buckets, pixels.
        findings: gets the error.
    """
    size = f"the image is {image_wh[0]}x{image_wh[1]}"
    if fitted is None:
        what = f"{size}, and its bucket would be smaller than a step of {step}"
        hint = "enlarge or remove it, raise resolution, or drop bucket_no_upscale"
    else:
        (across, down), (width, height) = fitted.bucket_wh, fitted.resized_wh
        what = f"{size}: to fill {across}x{down} it would grow to {width}x{height}"
        hint = "cut it to a shape nearer to a square, or use enable_bucket"
    findings.error(what, path, hint)


def hold_out(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Hold out a subset's validation images; those beside the word's own all train.

    They are the last round(n * share) of a permutation of n images. It depends on the seed and n
    alone: the same folder at two resolutions holds out the same images.
    """
    if not samples or samples[0].beside:
        return list(samples)
    count = round(len(samples) * samples[0].subset.validation_split)
    order = rng_for(seed, "validation").permutation(len(samples))
    divided = list(samples)
    for place in order[len(samples) - count :].tolist():
        divided[place] = replace(samples[place], repeats=0, held_out=True)
    return divided


def without_leaks(samples: Sequence[Sample]) -> list[Sample]:
    """Leave out training images that are held out elsewhere."""
    held_out = {os.path.realpath(sample.path) for sample in samples if sample.held_out}
    if not held_out:
        return list(samples)
    remaining = []
    for sample in samples:
        if not sample.trains or os.path.realpath(sample.path) not in held_out:
            remaining.append(sample)
    return remaining


def balance_regularisation(samples: Sequence[Sample], findings: Findings) -> list[Sample]:
    """Repeat regularisation images until they are as many as the others of their dataset.

    The rule is sd-scripts': in order, first with their own repeats, then once more in each round.
    Those that are not needed are left out. Subsets with a number of samples per epoch keep it.
    """
    repeats: dict[int, int] = {}  # place of each regularisation image
    for dataset in {sample.dataset for sample in samples if _is_balanced(sample)}:
        places = []
        own_repeats = []
        others = []
        for place, sample in enumerate(samples):
            if sample.dataset != dataset:
                continue
            if _is_balanced(sample):
                places.append(place)
                own_repeats.append(sample.repeats)
            elif not sample.subset.regularisation:
                others.append(sample)
        balanced = regularisation_repeats(uses_per_epoch(others), own_repeats)
        repeats |= dict(zip(places, balanced, strict=True))
    unneeded = list(repeats.values()).count(0)
    if unneeded:
        of_all = f"{unneeded} of {counted(len(repeats), 'regularisation image')}"
        findings.warn(f"left out: {of_all}, not needed beside the training images")
    balanced_samples = []
    for place, sample in enumerate(samples):
        count = repeats.get(place, sample.repeats)
        if count or place not in repeats:
            balanced_samples.append(replace(sample, repeats=count))
    return balanced_samples


def _is_balanced(sample: Sample) -> bool:
    return sample.subset.regularisation and sample.subset.samples_per_epoch is None


def regularisation_repeats(wanted: int, repeats: Iterable[int]) -> list[int]:
    """Return the repeats of each regularisation image, so that together they reach `wanted` uses."""
    balanced: list[int] = []
    missing = wanted
    for count in repeats:
        balanced.append(count if missing > 0 else 0)
        missing -= balanced[-1]
    if not balanced or missing <= 0:
        return balanced
    rounds, extra = divmod(missing, len(balanced))
    return [count + rounds + (place < extra) for place, count in enumerate(balanced)]
