"""Examine a whole dataset before a model is loaded: files, pixels, captions, the word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from coinage import wording
from coinage.config import WordConfig
from coinage.data.coverage import Coverage, cover_captions, find_coverage_problems
from coinage.data.images import load_view
from coinage.data.sample import MUCH_ENLARGED, Sample, uses_per_epoch
from coinage.data.sampling import share_samples
from coinage.data.scan import balance_regularisation, report_unusable, scan
from coinage.data_config import LEAST_MASK, DataConfig
from coinage.errors import CoinageError, Findings, Problem
from coinage.terminal.progress import counted
from coinage.text.placeholder import (
    FramingTokenizer,
    Placeholder,
    WordEncoder,
    clip_rows,
    placeholders_for,
)

# Largest difference, on a scale of -1..1, within an image of one colour: more than compression's
FLAT = 4 / 127.5
# Images; more that are to be cached are decoded while they are encoded
MOST_DECODED = 500
MOST_SHOWN = 3  # images that a message names


@dataclass(frozen=True, slots=True)
class ExaminedDataset:
    """A dataset that has been examined.

    Attributes:
        samples: the images that can be used.
        coverage: in which captions the word is; None without a word.
        encoder: turns captions into token ids; None without a tokenizer.
        word: with its ids; None without a tokenizer.
    """

    samples: tuple[Sample, ...]
    coverage: Coverage | None
    encoder: WordEncoder | None
    word: Placeholder | None


def examine(
    data: DataConfig,
    seed: int,
    token: str | None,
    num_vectors: int,
    tokenizer: FramingTokenizer | None,
    chunks: int,
    findings: Findings,
    *,
    decode: bool | None = None,
    beside: Sequence[WordConfig] = (),
    learning: Sequence[str] = (),
) -> ExaminedDataset:
    """Find every image, read every caption, decode every pixel, and look for the word.

    Args:
        data: datasets and their rules.
        seed: of the run.
        token: the word; None: captions need not hold it.
        num_vectors: of the word.
        tokenizer: for token counts; None: words are looked for in the text.
        chunks: rows of 77 ids per caption.
        findings: gets everything that is wrong.
        decode: decode all images; None: unless they are many and will be decoded for caching
            anyway.
        beside: other words that captions may hold.
        learning: those of them that learn from the same captions, of which each needs one of all.
    """
    samples = scan(data, seed, findings)
    if decode is None:
        few_enough = len(samples) <= MOST_DECODED
        decode = few_enough or not data.cache_latents or data.skip_bad_images
    if decode:
        samples = decodable(samples, data.readers, findings, skip=data.skip_bad_images)
    samples = balance_regularisation(share_samples(samples, findings), findings)
    _check_for_masks(data, samples, findings)
    if not uses_per_epoch(samples) and not findings.errors:
        hint = "check the dataset's folders, num_repeats and validation_split"
        findings.error("no images to train on", hint=hint)
    encoder = word = coverage = None
    if tokenizer is not None:
        others = [(other.token, other.num_vectors) for other in beside]
        word, *more = placeholders_for([(token or "", num_vectors), *others], len(tokenizer))
        encoder = WordEncoder(tokenizer, [word, *more] if token else more, clip_rows(tokenizer))
    if token and samples:
        coverage = cover_captions(samples, token, encoder, word, chunks)
        find_coverage_problems(
            coverage, token, findings, required=data.require_word, others=learning
        )
        _warn_of_useless(samples, [token, *learning], findings)
    _note_sides(samples, findings)
    _note_enlarged(samples, findings)
    return ExaminedDataset(tuple(samples), coverage, encoder, word)


def _check_for_masks(data: DataConfig, samples: Sequence[Sample], findings: Findings) -> None:
    """Add an error where masks are wanted and no image has one."""
    if data.masks_wanted and samples and not any(sample.masked for sample in samples):
        hint = "add conditioning_data_dir with mask images, or alpha_mask = true"
        findings.error("--masked_loss: no image has a mask", hint=hint)


@dataclass(frozen=True, slots=True)
class _DecodedImage:
    """What decoding one image has shown.

    Attributes:
        problems: why it, or its mask, cannot be used.
        is_flat: it is of one colour.
        mask_share: mean of its mask, 0..1; 1 without one.
    """

    problems: tuple[Problem, ...] = ()
    is_flat: bool = False
    mask_share: float = 1.0


def _decode(sample: Sample) -> _DecodedImage:
    try:
        view = load_view(sample)
    except CoinageError as error:
        return _DecodedImage(error.problems)
    ranges = np.ptp(view.pixels, axis=(1, 2))
    mask_share = 1.0 if view.mask is None else float(view.mask.mean())
    return _DecodedImage(is_flat=bool(ranges.max() < FLAT), mask_share=mask_share)


def decodable(
    samples: Sequence[Sample], readers: int, findings: Findings, *, skip: bool
) -> list[Sample]:
    """Return the images that can be decoded.

    Args:
        samples: images.
        readers: threads that decode.
        findings: gets what is wrong with the other images and with masks, and warnings about
            images of one colour.
        skip: images that cannot be decoded are left out with a warning; False: they are errors.
    """
    with (
        ThreadPoolExecutor(max(readers, 1)) as pool,
        counted("reading images", len(samples)) as on_image,
    ):
        results = []
        for done, result in enumerate(pool.map(_decode, samples), 1):
            results.append(result)
            on_image(done)
    # An image in two datasets is reported once
    problems: dict[Problem, None] = {}
    usable = []
    for sample, result in zip(samples, results, strict=True):
        problems |= dict.fromkeys(result.problems)
        if not result.problems:
            usable.append((sample, result))
    report_unusable(list(problems), findings, skip=skip)
    _report_masks(usable, findings)
    _warn_of_flat_images(usable, findings)
    return [sample for sample, _ in usable]


def _report_masks(images: Sequence[tuple[Sample, _DecodedImage]], findings: Findings) -> None:
    """Report masks that leave little or nothing of an image."""
    faint = []
    hidden = []
    for sample, result in images:
        if not result.mask_share:
            hidden.append(sample)
        elif result.mask_share < LEAST_MASK:
            faint.append(sample)
    if faint:
        masks = wording.counted(len(faint), "mask")
        left = f"less than {LEAST_MASK:.0%} of the image left"
        what = f"{masks} with {left}, which then teaches next to nothing"
        hint = "white is what counts; --mask_normalize makes up for small masks"
        findings.warn(what, _mask_of(faint[0]), hint)
    if not hidden:
        return
    if len(hidden) == sum(sample.trains for sample, _ in images):
        report = findings.error
        what = "the masks hide all of every image: nothing would be learned"
    else:
        report = findings.warn
        masks = wording.counted(len(hidden), "mask")
        what = f"{masks} with nothing of the image left, which teaches nothing"
    report(what, _mask_of(hidden[0]), "white is what counts")


def _mask_of(sample: Sample) -> str:
    return str(sample.mask or sample.path)


def _warn_of_flat_images(
    images: Sequence[tuple[Sample, _DecodedImage]], findings: Findings
) -> None:
    flat = [sample.path.name for sample, result in images if result.is_flat]
    if flat:
        are = "is" if len(flat) == 1 else "are"
        of_all = f"{len(flat)} of {wording.counted(len(images), 'image')}"
        names = "; ".join(flat[:MOST_SHOWN])
        findings.warn(f"{of_all} {are} a single flat colour", names, "check the export")


def _warn_of_useless(samples: Sequence[Sample], tokens: Sequence[str], findings: Findings) -> None:
    """Warn of images beside the words' own that have no word to teach."""
    useless = [s for s in samples if all(s.beside_without(token) for token in tokens)]
    prior = sum(sample.subset.prior_prediction for sample in useless)
    words = " or ".join(tokens)
    for kind, count, hint in (
        ("regularisation image", len(useless) - prior, "leave them out for Textual Inversion"),
        ("prior-prediction image", prior, f"write {words} where a caption names the thing"),
    ):
        if count:
            what = f"{wording.counted(count, kind)} without the word {words} in the caption"
            why = "only the word trains, so that costs time and teaches nothing"
            findings.warn(f"{what}: {why}", hint=hint)


def _note_enlarged(samples: Sequence[Sample], findings: Findings) -> None:
    large = [sample.path.name for sample in samples if sample.enlarged > MUCH_ENLARGED]
    if large:
        images = wording.counted(len(large), "image")
        names = ", ".join(large[:MOST_SHOWN])
        what = f"{images} smaller than half the training size, blurred when enlarged: {names}"
        findings.note(f"{what}; bucket_no_upscale leaves them small")


def _note_sides(samples: Sequence[Sample], findings: Findings) -> None:
    """Note captions that say left or right, which mirroring swaps in the image alone."""
    for sample in samples:
        if sample.subset.images.flip and re.search(r"\b(left|right)\b", sample.caption):
            what = "flip_aug mirrors images whose captions say left or right"
            findings.note(f"{what}, and leaves the captions as they are")
            return
