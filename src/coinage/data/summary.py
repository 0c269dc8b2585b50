"""A dataset in numbers, and its samples as training sees them: plain values, for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from coinage.config import DataConfig, DatasetConfig
from coinage.data.batches import batches_per_epoch
from coinage.data.buckets import Fit, Size, size_condition
from coinage.data.captions import vary
from coinage.data.coverage import Coverage
from coinage.data.examine import DataChecked
from coinage.data.sample import MUCH_ENLARGED, Sample
from coinage.seeding import rng_for
from coinage.text.placeholder import CHUNK, WordEncoder
from coinage.wording import counted

MUCH_CUT = 0.25  # share of the resized image
TINY = 64  # pixels
AFTER_WARM_UP = 2**31  # a step when all tags are used
VARIANTS = 3  # captions shown of an image
LONGEST = 5  # captions named


def summarize(data: DataConfig, checked: DataChecked) -> dict[str, Any]:
    """What a dataset consists of. Sizes are [width, height] in pixels; an image may count in several datasets."""
    samples = checked.samples
    return {
        "images": sum(s.trains for s in samples),
        "held_out": sum(s.held_out for s in samples),
        "regularisation": sum(s.subset.regularisation for s in samples),
        "uses_per_epoch": sum(s.repeats for s in samples),
        "batches_per_epoch": batches_per_epoch(samples, data.batch_sizes),
        "captions": _captions(checked.coverage, samples),
        "word": None
        if checked.word is None or not checked.word.token
        else {"token": checked.word.token, "ids": list(checked.word.ids)},
        "rotated": _paths(s for s in samples if s.rotated),
        "enlarged_over_2x": _paths(s for s in samples if s.enlarged > MUCH_ENLARGED),
        "tiny": _paths(s for s in samples if min(s.image_wh) < TINY),
        "much_cut": _paths(s for s in samples if cut_off(s.fit) > MUCH_CUT),
        "datasets": [
            _dataset(dataset, [s for s in samples if s.dataset == i])
            for i, dataset in enumerate(data.datasets)
        ],
    }


def headlines(data: DataConfig, samples: Sequence[Sample]) -> list[str]:
    """A line for each dataset: what an epoch of it is."""
    lines = []
    for number, config in enumerate(data.datasets, 1):
        found = _dataset(config, [s for s in samples if s.dataset == number - 1])
        uses, batches = (
            sum(bucket[key] for bucket in found["buckets"]) for key in ("uses", "batches")
        )
        width, height = config.resolution_wh
        images = sum(bucket["images"] for bucket in found["buckets"])
        repeated = f" ({uses:,} with repeats)" if uses != images else ""
        name = f"dataset {number}: " if len(data.datasets) > 1 else ""
        line = f"{name}{width}x{height}, {counted(len(found['buckets']), 'bucket')}, {counted(images, 'image')}{repeated}"
        short = f", {found['short_batches']} of them incomplete" if found["short_batches"] else ""
        lines.append(
            f"{line} in {counted(batches, 'batch', 'batches')} of {config.batch_size}{short}"
        )
    return lines


def _paths(samples: Any) -> list[str]:
    return [str(sample.path) for sample in samples]


def cut_off(fit: Fit) -> float:
    """Share of the resized image that is cut off."""
    (width, height), (across, down) = fit.resized_wh, fit.bucket_wh
    return 1 - across * down / (width * height)


def _captions(coverage: Coverage | None, samples: Sequence[Sample]) -> dict[str, Any] | None:
    if coverage is None:
        return None
    found: dict[str, Any] = {
        "always_hold_the_word": len(coverage.always),
        "sometimes": len(coverage.sometimes),
        "cut_off": len(coverage.cut),
        "never": len(coverage.never),
        "total": coverage.total,
    }
    if coverage.tokens:
        longest = sorted(zip(coverage.tokens, samples, strict=True), key=lambda pair: -pair[0])[
            :LONGEST
        ]
        found["tokens"] = {
            "limit": coverage.limit,
            "median": median(coverage.tokens),
            "longer_than_limit": sum(count > coverage.limit for count in coverage.tokens),
            "longest": [{"path": str(sample.path), "tokens": count} for count, sample in longest],
        }
    return found


def _dataset(config: DatasetConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    groups: dict[Size, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.fit.bucket_wh, []).append(sample)
    buckets = [_bucket(size, groups[size], config) for size in sorted(groups)]
    ratios = [
        abs(s.fit.bucket_wh[0] / s.fit.bucket_wh[1] - s.image_wh[0] / s.image_wh[1])
        for s in samples
    ]
    return {
        "where": config.where,
        "resolution": list(config.resolution_wh),
        "batch_size": config.batch_size,
        "mean_aspect_error": round(fmean(ratios), 4) if ratios else 0.0,
        "mean_cropping": round(fmean(cut_off(s.fit) for s in samples), 4) if samples else 0.0,
        "short_batches": sum(bucket["short_batch"] > 0 for bucket in buckets),
        "buckets": buckets,
        "subsets": [_subset(index, config, samples) for index in range(len(config.subsets))],
    }


def _bucket(size: Size, samples: Sequence[Sample], config: DatasetConfig) -> dict[str, Any]:
    uses = sum(s.repeats for s in samples)
    return {
        "size": list(size),
        "images": len(samples),
        "uses": uses,
        "batches": -(-uses // config.batch_size),
        # Images in the last, short batch; 0 if all are full
        "short_batch": uses % config.batch_size,
        "lonely": 0 < uses < config.batch_size,
    }


def _subset(index: int, config: DatasetConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    subset = config.subsets[index]
    return {
        "source": str(subset.metadata_file or subset.image_dir),
        "images": sum(s.subset is subset for s in samples),
        "repeats": subset.num_repeats,
        "regularisation": subset.regularisation,
        "settings": [list(setting) for setting in subset.settings],
    }


def describe_sample(
    index: int, checked: DataChecked, token: str | None, seed: int, chunks: int
) -> dict[str, Any]:
    """One image as training sees it: sizes, cut, and a few of its captions with their token ids."""
    sample = checked.samples[index]
    tokens = (
        checked.coverage.tokens[index] if checked.coverage and checked.coverage.tokens else None
    )
    rules = sample.subset.captions
    drawn = (
        vary(sample.caption, rules, token or "", rng_for(seed, "caption", 0, i), AFTER_WARM_UP, 1)
        for i in range(VARIANTS * 2)
    )
    captions = list(dict.fromkeys(drawn))[:VARIANTS]
    sizes = size_condition(
        sample.image_wh, sample.fit, flipped=False, as_reference=sample.subset.images.as_reference
    )
    return {
        "path": str(sample.path),
        "dataset": sample.dataset + 1,
        "size": list(sample.image_wh),
        "bucket": list(sample.fit.bucket_wh),
        "resized": list(sample.fit.resized_wh),
        "crop": list(sample.fit.crop_xy),
        "enlarged": round(sample.enlarged, 3),
        "repeats": sample.repeats,
        "rotated": sample.rotated,
        "held_out": sample.held_out,
        "regularisation": sample.subset.regularisation,
        "flip": sample.subset.images.flip and not sample.held_out,
        "mask": str(sample.mask) if sample.mask else None,
        "size_conditioning": [*sizes.original_hw, *sizes.crop_top_left, *sizes.target_hw],
        "caption": sample.caption,
        "longest_caption_tokens": tokens,
        "longer_than_limit": tokens is not None and tokens > CHUNK * chunks,
        "captions": [
            {"text": text, "ids": _ids(text, checked.encoder, chunks)} for text in captions
        ],
    }


def _ids(text: str, encoder: WordEncoder | None, chunks: int) -> list[list[int]] | None:
    """The ids of each chunk, with start and end and without padding."""
    if encoder is None:
        return None
    parts = encoder.parts(encoder.ids(text))[:chunks]
    frame = encoder.row_format
    return [[*frame.start, *part, *frame.end] for part in parts]
