"""Look at a whole dataset before a model is loaded: files, pixels, captions, the word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coinage import wording
from coinage.config import LEAST_MASK, DataConfig
from coinage.data.coverage import Coverage, cover_captions, report_coverage
from coinage.data.images import load_view
from coinage.data.sample import MUCH_ENLARGED, Sample
from coinage.data.scan import balanced, report_unusable, scan
from coinage.errors import CoinageError, Findings, Problem
from coinage.terminal.progress import counted
from coinage.text.placeholder import (
    FramingTokenizer,
    Placeholder,
    WordEncoder,
    clip_rows,
    placeholders_for,
)

FLAT = 4 / 127.5  # of -1..1: less than that is one colour, compression aside
# images; larger sets that are to be cached are decoded while they are encoded
DECODED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class DataChecked:
    """A dataset that has been looked at."""

    samples: tuple[Sample, ...]
    coverage: Coverage | None  # None without a word
    encoder: WordEncoder | None  # None without a tokenizer
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
) -> DataChecked:
    """Find every image, read every caption, decode every pixel, and look for the word.

    Args:
        data: datasets and their rules.
        seed: of the run.
        token: the word; None: captions are not asked for it.
        num_vectors: of the word.
        tokenizer: for token counts; None: words are looked for in the text.
        chunks: rows of 77 ids per caption.
        findings: gets everything that is wrong.
        decode: whether to decode all images; None: unless they are many and will be decoded for caching anyway.
    """
    samples = scan(data, seed, findings)
    if decode is None:
        decode = not data.cache_latents or data.skip_bad_images or len(samples) <= DECODED_AT_ONCE
    if decode:
        samples = decodable(samples, data.readers, findings, skip=data.skip_bad_images)
    samples = balanced(samples, findings)
    if (
        data.masks_wanted
        and samples
        and not any(s.mask or s.subset.images.alpha_mask for s in samples)
    ):
        findings.error(
            "--masked_loss: no image has a mask",
            hint="add conditioning_data_dir with mask images, or alpha_mask = true",
        )
    if not any(sample.repeats for sample in samples) and not findings.errors:
        findings.error(
            "no images to train on",
            hint="check the dataset's folders, num_repeats and validation_split",
        )
    encoder = word = coverage = None
    if tokenizer is not None:
        (word,) = placeholders_for([(token or "", num_vectors)], len(tokenizer))
        encoder = WordEncoder(tokenizer, [word] if token else [], clip_rows(tokenizer))
    if token and samples:
        coverage = cover_captions(samples, token, encoder, word, chunks)
        report_coverage(coverage, token, findings, required=data.require_word)
        _warn_of_regularisation(samples, token, findings)
    _note_sides(samples, findings)
    _note_enlarged(samples, findings)
    return DataChecked(tuple(samples), coverage, encoder, word)


class _Look(NamedTuple):
    """What one image is like: what is wrong with it; else whether it is of one colour, and how much of it its mask leaves."""

    problems: tuple[Problem, ...] = ()
    flat: bool = False
    left: float = 1.0


def _look(sample: Sample) -> _Look:
    try:
        view = load_view(sample)
    except CoinageError as error:
        return _Look(error.problems)
    flat = bool(np.ptp(view.pixels, axis=(1, 2)).max() < FLAT)
    return _Look(flat=flat, left=1.0 if view.mask is None else float(view.mask.mean()))


def decodable(
    samples: Sequence[Sample], readers: int, findings: Findings, *, skip: bool
) -> list[Sample]:
    """The images that can be decoded; what is wrong with the others, and with their masks, is found."""
    kept, bad, faint, hidden, flat = (
        [],
        list[Problem](),
        list[Sample](),
        list[Sample](),
        list[Sample](),
    )
    with (
        ThreadPoolExecutor(max(readers, 1)) as pool,
        counted("reading images", len(samples)) as on_image,
    ):
        for done, (sample, found) in enumerate(
            zip(samples, pool.map(_look, samples), strict=True), 1
        ):
            bad += found.problems
            if not found.problems:
                kept.append(sample)
                flat += [sample] if found.flat else []
                if found.left < LEAST_MASK:
                    (faint if found.left else hidden).append(sample)
            on_image(done)
    # An image in two datasets is told once
    report_unusable(list(dict.fromkeys(bad)), findings, skip=skip)
    _report_masks(kept, faint, hidden, findings)
    if flat:
        are = "is" if len(flat) == 1 else "are"
        what = f"{len(flat)} of {wording.counted(len(kept), 'image')} {are} a single flat colour"
        findings.warn(what, "; ".join(sample.path.name for sample in flat[:3]), "check the export")
    return kept


def _report_masks(
    kept: Sequence[Sample], faint: Sequence[Sample], hidden: Sequence[Sample], findings: Findings
) -> None:
    """Masks that leave little or nothing of an image."""
    if faint:
        left = f"less than {LEAST_MASK:.0%} of the image left"
        what = (
            f"{wording.counted(len(faint), 'mask')} with {left}, which then teaches next to nothing"
        )
        findings.warn(
            what,
            _mask_of(faint[0]),
            "white is what counts; --mask_normalize makes up for small masks",
        )
    if hidden:
        everything = len(hidden) == sum(sample.trains for sample in kept)
        what = f"{wording.counted(len(hidden), 'mask')} with nothing of the image left, which teaches nothing"
        tell = findings.error if everything else findings.warn
        tell(
            "the masks hide all of every image: nothing would be learned" if everything else what,
            _mask_of(hidden[0]),
            "white is what counts",
        )


def _mask_of(sample: Sample) -> str:
    return str(sample.mask or sample.path)


def _warn_of_regularisation(samples: Sequence[Sample], token: str, findings: Findings) -> None:
    idle = sum(sample.regularisation_without(token) for sample in samples)
    if idle:
        images = wording.counted(idle, "regularisation image")
        what = f"{images} without the word {token} in the caption: only the word trains, so that costs time and teaches nothing"
        findings.warn(what, hint="leave them out for Textual Inversion")


def _note_enlarged(samples: Sequence[Sample], findings: Findings) -> None:
    large = [sample.path.name for sample in samples if sample.enlarged > MUCH_ENLARGED]
    if large:
        shown = ", ".join(large[:3])
        findings.note(
            f"{wording.counted(len(large), 'image')} smaller than half the training size, blurred when enlarged: {shown}; "
            "bucket_no_upscale leaves them small"
        )


def _note_sides(samples: Sequence[Sample], findings: Findings) -> None:
    """Mirroring swaps left and right in pictures and not in captions."""
    if any(s.subset.images.flip and re.search(r"\b(left|right)\b", s.caption) for s in samples):
        findings.note(
            "flip_aug mirrors images whose captions say left or right, and leaves the captions as they are"
        )
