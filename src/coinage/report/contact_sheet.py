"""Render a dataset as one HTML page: every image, the cropped part pale, captions, token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coinage.data.examine import ExaminedDataset
from coinage.data.images import load_view
from coinage.data.sample import Sample
from coinage.data.summary import CaptionVariant, DatasetSummary, SampleSummary
from coinage.errors import CoinageError, Findings
from coinage.report.environment import environment
from coinage.report.pictures import data_url
from coinage.text.placeholder import marked_parts
from coinage.wording import counted

THUMBNAIL = 192  # pixels, the longer side
MOST_IMAGES = 400  # on a page
PALE = 0.75  # share of white in what is cut off
MASKED = 0.6  # share of the colour laid over what a mask leaves out
MASK_COLOR = np.array([255, 0, 80])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caption:
    """A caption with the word marked in its text and in its ids."""

    parts: list[tuple[str, bool]]
    ids: list[list[tuple[int, bool]]]

    @property
    def holds_word(self) -> bool:
        return any(is_word for _, is_word in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """An image on the page."""

    sample: SampleSummary
    name: str
    thumbnail: str  # data URL
    marks: list[str]
    captions: list[_Caption]
    lacking: bool  # a caption lacks the word


def contact_sheet(
    summary: DatasetSummary,
    samples: Sequence[SampleSummary],
    findings: Findings,
    examined: ExaminedDataset,
    token: str,
) -> str:
    """Return the page. Of more than 400 images, it shows an even selection, and says so.

    Args:
        summary: of the dataset.
        samples: of its images, in the order of `examined`.
        findings: errors, warnings and notes to show.
        examined: the dataset.
        token: the word to mark in captions; "" for none.
    """
    count = len(samples)
    shown = min(count, MOST_IMAGES)
    cards = []
    for number in range(shown):
        place = number * count // shown
        cards.append(_card(examined.samples[place], samples[place], token, examined))
    cards.sort(key=lambda card: (card.sample.dataset, card.sample.bucket))
    template = environment().get_template("contact_sheet.html")
    return template.render(
        summary=summary, findings=findings, cards=cards, total=count, token=token
    )


def _card(sample: Sample, summary: SampleSummary, token: str, examined: ExaminedDataset) -> _Card:
    marks = marks_of(sample)
    if summary.longer_than_limit and summary.longest_caption_tokens is not None:
        marks.append(f"{counted(summary.longest_caption_tokens, 'token')}: cut")
    word_ids = set(examined.word.ids) if examined.word else set()
    captions = [_caption(variant, token, word_ids) for variant in summary.captions]
    return _Card(
        sample=summary,
        name=Path(summary.path).name,
        thumbnail=thumbnail(sample, THUMBNAIL, whole=True),
        marks=marks,
        captions=captions,
        lacking=bool(token) and not all(caption.holds_word for caption in captions),
    )


def _caption(variant: CaptionVariant, token: str, word_ids: set[int]) -> _Caption:
    ids = []
    for chunk in variant.ids or []:
        ids.append([(number, number in word_ids) for number in chunk])
    return _Caption(parts=marked_parts(variant.text, token), ids=ids)


def marks_of(sample: Sample) -> list[str]:
    """Return what is special about an image, in few words each."""
    marks = []
    if sample.held_out:
        marks.append("held out")
    if sample.subset.regularisation:
        marks.append("regularisation")
    if sample.subset.prior_prediction:
        marks.append("prior prediction")
    if sample.draw:
        marks.append("in turns with others")
    if sample.rotated:
        marks.append("turned upright")
    if sample.enlarged > 1.0:
        marks.append(f"enlarged {sample.enlarged:.1f}x")
    if sample.subset.images.flip and not sample.held_out:
        marks.append("mirrored at random")
    return marks


def thumbnail(sample: Sample, side: int, *, whole: bool = False) -> str:
    """Return the image as a data URL; "" when it cannot be read.

    Args:
        sample: the image.
        side: longer side of the thumbnail, pixels.
        whole: show what is cut off too, in pale; False: the image as cut.
    """
    uncut = replace(sample.fit, crop_xy=(0, 0), bucket_wh=sample.fit.resized_wh)
    try:
        view = load_view(replace(sample, fit=uncut) if whole else sample)
    except CoinageError:
        return ""
    pixels = (view.pixels.transpose(1, 2, 0) + 1) * 127.5
    if view.mask is not None:
        hidden = (1 - view.mask)[..., None] * MASKED
        pixels = pixels * (1 - hidden) + MASK_COLOR * hidden
    if whole:
        (x, y), (width, height) = sample.fit.crop_xy, sample.fit.bucket_wh
        paleness = np.full((*pixels.shape[:2], 1), PALE)
        paleness[y : y + height, x : x + width] = 0
        pixels = pixels * (1 - paleness) + 255 * paleness
    return data_url(pixels.round().clip(0, 255).astype(np.uint8), side)
