"""A dataset as one HTML page: every image, what is cut off it made pale, with its captions and token ids. No network needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coinage.data.examine import ExaminedDataset
from coinage.data.images import load_view
from coinage.data.sample import Sample
from coinage.errors import CoinageError
from coinage.report.page import environment
from coinage.report.pictures import data_url
from coinage.text.placeholder import marked_parts
from coinage.wording import counted

THUMBNAIL = 192  # pixels, the longer side
MOST = 400  # images on a page
PALE = 0.75  # share of white in what is cut off
MASK_COLOR = np.array([255, 0, 80])  # laid over what a mask leaves out


def contact_sheet(summary: dict[str, Any], checked: ExaminedDataset, token: str) -> str:
    """The page. Of more than 400 images, an even selection is shown, and the page says so.

    Args:
        summary: of `summarize`, with `samples` of `describe_sample` in the order of `checked`, errors and warnings.
        checked: the dataset.
        token: the word to mark in captions; "" for none.
    """
    count = len(checked.samples)
    places = [i * count // MOST for i in range(MOST)] if count > MOST else range(count)
    cards = [_card(checked.samples[i], summary["samples"][i], token, checked) for i in places]
    cards.sort(key=lambda card: (card["dataset"], card["bucket"]))
    return (
        environment()
        .get_template("contact_sheet.html")
        .render(summary=summary, cards=cards, total=count, token=token)
    )


def _card(
    sample: Sample, described: dict[str, Any], token: str, checked: ExaminedDataset
) -> dict[str, Any]:
    word = set(checked.word.ids) if checked.word else set()
    marks = marks_of(sample)
    if described["longer_than_limit"]:
        marks.append(f"{counted(described['longest_caption_tokens'], 'token')}: cut")
    captions: list[dict[str, Any]] = [
        {
            "parts": marked_parts(caption["text"], token),
            "ids": [[(i, i in word) for i in chunk] for chunk in caption["ids"] or []],
        }
        for caption in described["captions"]
    ]
    lacking = bool(token) and not all(
        any(marked for _, marked in caption["parts"]) for caption in captions
    )
    name = Path(described["path"]).name
    return described | {
        "name": name,
        "thumbnail": thumbnail(sample, THUMBNAIL, whole=True),
        "marks": marks,
        "captions": captions,
        "lacking": lacking,
    }


def marks_of(sample: Sample) -> list[str]:
    """What is special about an image, in few words."""
    told = {
        "held out": sample.held_out,
        "regularisation": sample.subset.regularisation,
        "turned upright": sample.rotated,
        f"enlarged {sample.enlarged:.1f}x": sample.enlarged > 1.0,
        "mirrored at random": sample.subset.images.flip and not sample.held_out,
    }
    return [mark for mark, holds in told.items() if holds]


def thumbnail(sample: Sample, side: int, *, whole: bool = False) -> str:
    """Return the image as a data URL; "" when it cannot be read.

    Args:
        sample: the image.
        side: of the picture, its longer one, pixels.
        whole: show also what is cut off, in pale; otherwise the image as cut.
    """
    uncut = replace(sample.fit, crop_xy=(0, 0), bucket_wh=sample.fit.resized_wh)
    try:
        view = load_view(replace(sample, fit=uncut) if whole else sample)
    except CoinageError:
        return ""
    pixels = (view.pixels.transpose(1, 2, 0) + 1) * 127.5
    if view.mask is not None:
        hidden = (1 - view.mask)[..., None] * 0.6
        pixels = pixels * (1 - hidden) + MASK_COLOR * hidden
    if whole:
        (x, y), (width, height) = sample.fit.crop_xy, sample.fit.bucket_wh
        gone = np.full((*pixels.shape[:2], 1), PALE)
        gone[y : y + height, x : x + width] = 0
        pixels = pixels * (1 - gone) + 255 * gone
    return data_url(pixels.round().clip(0, 255).astype(np.uint8), side)
