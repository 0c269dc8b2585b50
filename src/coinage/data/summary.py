"""Summarise a dataset: counts, buckets, captions, and each image as training sees it.

Everything is plain values, so `dataclasses.asdict` gives what `coinage dataset --json` prints.
Sizes are (width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from coinage.data.batches import batches_per_epoch
from coinage.data.buckets import Fit, Size, size_condition
from coinage.data.captions import vary
from coinage.data.coverage import Coverage
from coinage.data.examine import ExaminedDataset
from coinage.data.sample import MUCH_ENLARGED, Sample, uses_per_epoch
from coinage.data_config import DataConfig, DatasetConfig
from coinage.seeding import rng_for
from coinage.text.placeholder import CHUNK, WordEncoder
from coinage.wording import counted

MUCH_CROPPED = 0.25  # share of the resized image
TINY = 64  # pixels
AFTER_WARM_UP = 2**31  # a step when all tags are used
SHOWN_VARIANTS = 3  # captions of an image
DRAWN_VARIANTS = 2 * SHOWN_VARIANTS  # since some may be the same
SHOWN_LONGEST = 5  # captions


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSummary:
    """The images of one size.

    Attributes:
        size: of the bucket.
        images: number of images.
        uses: of images in an epoch.
        batches: in an epoch.
        short_batch: images in the last batch where it is incomplete; 0 where all are full.
        lonely: the images fill no batch.
    """

    size: Size
    images: int
    uses: int
    batches: int
    short_batch: int
    lonely: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetSummary:
    """A folder or metadata file: its images, and the settings that are not defaults."""

    source: str
    images: int
    repeats: int
    samples_per_epoch: int | None  # in place of repeats
    regularisation: bool
    settings: tuple[tuple[str, str], ...]  # (key = value, where it was set)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPartSummary:
    """One dataset of the configuration.

    Attributes:
        where: it is configured.
        resolution: width and height.
        batch_size: images per batch.
        mean_aspect_error: mean difference of an image's aspect ratio from its bucket's.
        mean_cropping: mean share of the resized image that is cut off.
        short_batches: incomplete batches in an epoch.
        buckets: by size.
        subsets: in their order.
    """

    where: str
    resolution: Size
    batch_size: int
    mean_aspect_error: float
    mean_cropping: float
    short_batches: int
    buckets: tuple[BucketSummary, ...]
    subsets: tuple[SubsetSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LongCaption:
    """The length of one image's longest caption."""

    path: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSummary:
    """Lengths of the captions in tokens; `limit` tokens are read."""

    limit: int
    median: float
    longer_than_limit: int
    longest: tuple[LongCaption, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionSummary:
    """In how many images' captions the word is; see `Coverage`."""

    always_hold_the_word: int
    sometimes: int
    cut_off: int
    never: int
    total: int
    tokens: TokenSummary | None  # None without a tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSummary:
    """The word and its token ids, one per vector."""

    token: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """All datasets together; an image may count in several.

    Attributes:
        images: that train the word.
        held_out: for validation.
        regularisation: images.
        uses_per_epoch: of images.
        batches_per_epoch: of all datasets.
        captions: None without a word.
        word: None without a word or a tokenizer.
        rotated: paths of images that are turned upright.
        enlarged_over_2x: paths of images smaller than half the training size.
        tiny: paths of images with a side below 64 pixels.
        much_cut: paths of images of which more than a quarter is cropped.
        datasets: each of them.
    """

    images: int
    held_out: int
    regularisation: int
    uses_per_epoch: int
    batches_per_epoch: int
    captions: CaptionSummary | None
    word: WordSummary | None
    rotated: tuple[str, ...]
    enlarged_over_2x: tuple[str, ...]
    tiny: tuple[str, ...]
    much_cut: tuple[str, ...]
    datasets: tuple[DatasetPartSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionVariant:
    """A caption as one use has it, and its token ids by chunk; None without a tokenizer."""

    text: str
    ids: list[list[int]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary:
    """One image as training sees it.

    Attributes:
        path: of the image.
        dataset: its number, from 1.
        size: as displayed.
        bucket, resized: sizes on the way to the model.
        crop: left and top of the cut, in resized pixels.
        enlarged: factor; below 1 the image shrinks.
        repeats: uses per epoch.
        rotated: an orientation turns it.
        held_out: for validation.
        regularisation: shows the class.
        flip: mirrored at random.
        mask: path; None without a mask file.
        size_conditioning: six numbers for SDXL.
        caption: as written.
        longest_caption_tokens: None without a tokenizer.
        longer_than_limit: and so cut.
        captions: a few variants.
    """

    path: str
    dataset: int
    size: Size
    bucket: Size
    resized: Size
    crop: tuple[int, int]
    enlarged: float
    repeats: int
    rotated: bool
    held_out: bool
    regularisation: bool
    flip: bool
    mask: str | None
    size_conditioning: tuple[int, ...]
    caption: str
    longest_caption_tokens: int | None
    longer_than_limit: bool
    captions: tuple[CaptionVariant, ...]


def summarize(data: DataConfig, examined: ExaminedDataset) -> DatasetSummary:
    """Return the summary of a dataset."""
    samples = examined.samples
    parts = []
    for index, dataset in enumerate(data.datasets):
        parts.append(_part(dataset, _of_dataset(index, samples)))
    word = examined.word
    return DatasetSummary(
        images=sum(sample.trains for sample in samples),
        held_out=sum(sample.held_out for sample in samples),
        regularisation=sum(sample.subset.regularisation for sample in samples),
        uses_per_epoch=uses_per_epoch(samples),
        batches_per_epoch=batches_per_epoch(samples, data.batch_sizes),
        captions=_captions(examined.coverage, samples),
        word=WordSummary(token=word.token, ids=tuple(word.ids)) if word and word.token else None,
        rotated=_paths_of(samples, lambda sample: sample.rotated),
        enlarged_over_2x=_paths_of(samples, lambda sample: sample.enlarged > MUCH_ENLARGED),
        tiny=_paths_of(samples, lambda sample: min(sample.image_wh) < TINY),
        much_cut=_paths_of(samples, lambda sample: cropped_share(sample.fit) > MUCH_CROPPED),
        datasets=tuple(parts),
    )


def headlines(data: DataConfig, samples: Sequence[Sample]) -> list[str]:
    """Return a line for each dataset that says what an epoch of it is."""
    lines = []
    for number, config in enumerate(data.datasets, 1):
        part = _part(config, _of_dataset(number - 1, samples))
        images = uses = batch_count = 0
        for bucket in part.buckets:
            images += bucket.images
            uses += bucket.uses
            batch_count += bucket.batches
        batches = counted(batch_count, "batch", "batches")
        width, height = config.resolution_wh
        size = f"{width}x{height}, {counted(len(part.buckets), 'bucket')}"
        line = f"dataset {number}: {size}" if len(data.datasets) > 1 else size
        line += f", {counted(images, 'image')}"
        if uses != images:
            line += f" ({uses:,} with repeats)"
        line += f" in {batches} of {config.batch_size}"
        if part.short_batches:
            line += f", {part.short_batches} of them incomplete"
        lines.append(line)
    return lines


def _of_dataset(index: int, samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.dataset == index]


def _paths_of(samples: Sequence[Sample], applies: Callable[[Sample], bool]) -> tuple[str, ...]:
    """Return the paths of the images to which something applies."""
    return tuple(str(sample.path) for sample in samples if applies(sample))


def cropped_share(fit: Fit) -> float:
    """Return the share of the resized image that is cut off, 0..1."""
    (width, height), (across, down) = fit.resized_wh, fit.bucket_wh
    return 1 - across * down / (width * height)


def _captions(coverage: Coverage | None, samples: Sequence[Sample]) -> CaptionSummary | None:
    if coverage is None:
        return None
    return CaptionSummary(
        always_hold_the_word=len(coverage.always),
        sometimes=len(coverage.sometimes),
        cut_off=len(coverage.cut),
        never=len(coverage.never),
        total=coverage.total,
        tokens=_tokens(coverage, samples) if coverage.tokens else None,
    )


def _tokens(coverage: Coverage, samples: Sequence[Sample]) -> TokenSummary:
    lengths = sorted(zip(coverage.tokens, samples, strict=True), key=lambda pair: -pair[0])
    longest = []
    for count, sample in lengths[:SHOWN_LONGEST]:
        longest.append(LongCaption(path=str(sample.path), tokens=count))
    return TokenSummary(
        limit=coverage.limit,
        median=median(coverage.tokens),
        longer_than_limit=sum(count > coverage.limit for count in coverage.tokens),
        longest=tuple(longest),
    )


def _part(config: DatasetConfig, samples: Sequence[Sample]) -> DatasetPartSummary:
    by_size: dict[Size, list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.fit.bucket_wh, []).append(sample)
    buckets = tuple(_bucket(size, by_size[size], config) for size in sorted(by_size))
    subsets = tuple(_subset(index, config, samples) for index in range(len(config.subsets)))
    return DatasetPartSummary(
        where=config.where,
        resolution=config.resolution_wh,
        batch_size=config.batch_size,
        mean_aspect_error=_mean(_aspect_error(sample) for sample in samples),
        mean_cropping=_mean(cropped_share(sample.fit) for sample in samples),
        short_batches=sum(bucket.short_batch > 0 for bucket in buckets),
        buckets=buckets,
        subsets=subsets,
    )


def _mean(values: Iterable[float]) -> float:
    """Return the mean to four decimals; 0 of nothing."""
    numbers = list(values)
    return round(fmean(numbers), 4) if numbers else 0.0


def _aspect_error(sample: Sample) -> float:
    bucket, image = sample.fit.bucket_wh, sample.image_wh
    return abs(bucket[0] / bucket[1] - image[0] / image[1])


def _bucket(size: Size, samples: Sequence[Sample], config: DatasetConfig) -> BucketSummary:
    uses = uses_per_epoch(samples)
    return BucketSummary(
        size=size,
        images=len(samples),
        uses=uses,
        batches=-(-uses // config.batch_size),
        short_batch=uses % config.batch_size,
        lonely=0 < uses < config.batch_size,
    )


def _subset(index: int, config: DatasetConfig, samples: Sequence[Sample]) -> SubsetSummary:
    subset = config.subsets[index]
    return SubsetSummary(
        source=str(subset.metadata_file or subset.image_dir),
        images=sum(sample.subset is subset for sample in samples),
        repeats=subset.num_repeats,
        samples_per_epoch=subset.samples_per_epoch,
        regularisation=subset.regularisation,
        settings=subset.settings,
    )


def summarize_sample(
    index: int, examined: ExaminedDataset, token: str, seed: int, chunks: int
) -> SampleSummary:
    """Return one image as training sees it.

    Args:
        index: of the sample.
        examined: the dataset.
        token: the word; "" for none.
        seed: of the run, which draws the captions.
        chunks: of 75 tokens that are read of a caption.
    """
    sample = examined.samples[index]
    coverage = examined.coverage
    tokens = coverage.tokens[index] if coverage and coverage.tokens else None
    sizes = size_condition(
        sample.image_wh, sample.fit, flipped=False, as_reference=sample.subset.images.as_reference
    )
    return SampleSummary(
        path=str(sample.path),
        dataset=sample.dataset + 1,
        size=sample.image_wh,
        bucket=sample.fit.bucket_wh,
        resized=sample.fit.resized_wh,
        crop=sample.fit.crop_xy,
        enlarged=round(sample.enlarged, 3),
        repeats=sample.repeats,
        rotated=sample.rotated,
        held_out=sample.held_out,
        regularisation=sample.subset.regularisation,
        flip=sample.subset.images.flip and not sample.held_out,
        mask=str(sample.mask) if sample.mask else None,
        size_conditioning=(*sizes.original_hw, *sizes.crop_top_left, *sizes.target_hw),
        caption=sample.caption,
        longest_caption_tokens=tokens,
        longer_than_limit=tokens is not None and tokens > CHUNK * chunks,
        captions=_variants(sample, examined.encoder, token, seed, chunks),
    )


def _variants(
    sample: Sample, encoder: WordEncoder | None, token: str, seed: int, chunks: int
) -> tuple[CaptionVariant, ...]:
    """Return a few different captions as the rules draw them."""
    texts: dict[str, None] = {}
    for number in range(DRAWN_VARIANTS):
        rng = rng_for(seed, "caption", 0, number)
        text = vary(sample.caption, sample.subset.captions, token, rng, AFTER_WARM_UP, 1)
        texts[text] = None
    shown = list(texts)[:SHOWN_VARIANTS]
    return tuple(CaptionVariant(text=text, ids=_ids(text, encoder, chunks)) for text in shown)


def _ids(text: str, encoder: WordEncoder | None, chunks: int) -> list[list[int]] | None:
    """Return the ids of each chunk, with start and end and without padding."""
    if encoder is None:
        return None
    frame = encoder.row_format
    parts = encoder.parts(encoder.ids(text))[:chunks]
    return [[*frame.start, *part, *frame.end] for part in parts]
