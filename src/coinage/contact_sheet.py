"""A dataset as one HTML page: every image as cut, with its captions and token ids. No network needed."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coinage.data.examine import DataChecked
from coinage.data.images import load_view
from coinage.data.sample import Sample
from coinage.errors import CoinageError
from coinage.words import marked_parts

THUMBNAIL = 192  # pixels, the longer side
MOST = 400  # images on a page
MASK_COLOR = np.array([255, 0, 80])  # laid over what a mask leaves out


def contact_sheet(summary: dict[str, Any], checked: DataChecked, token: str) -> str:
    """The page. Of more than 400 images, an even selection is shown, and the page says so.

    Args:
        summary: of `summarize`, with `samples` of `describe_sample` in the order of `checked`, errors and warnings.
        checked: the dataset.
        token: the word to mark in captions; "" for none.
    """
    from jinja2 import Environment, PackageLoader

    count = len(checked.samples)
    places = [i * count // MOST for i in range(MOST)] if count > MOST else range(count)
    cards = [_card(checked.samples[i], summary["samples"][i], token, checked) for i in places]
    cards.sort(key=lambda card: (card["dataset"], card["bucket"]))
    page = Environment(loader=PackageLoader("coinage"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.get_template("contact_sheet.html").render(summary=summary, cards=cards, total=count, token=token)


def _card(sample: Sample, described: dict[str, Any], token: str, checked: DataChecked) -> dict[str, Any]:
    word = set(checked.word.ids) if checked.word else set()
    marks = [
        name
        for name, holds in {
            "held out": sample.held_out,
            "regularisation": sample.subset.regularisation,
            "turned upright": sample.rotated,
            f"enlarged {sample.enlarged:.1f}x": sample.enlarged > 1.0,
            "mirrored at random": described["flip"],
            f"{described['longest_caption_tokens']} tokens: cut": described["longer_than_limit"],
        }.items()
        if holds
    ]
    captions: list[dict[str, Any]] = [
        {
            "parts": marked_parts(caption["text"], token),
            "ids": [[(i, i in word) for i in chunk] for chunk in caption["ids"] or []],
        }
        for caption in described["captions"]
    ]
    lacking = bool(token) and not all(any(marked for _, marked in caption["parts"]) for caption in captions)
    name = Path(described["path"]).name
    return described | {"name": name, "thumbnail": _thumbnail(sample), "marks": marks, "captions": captions, "lacking": lacking}


def _thumbnail(sample: Sample) -> str:
    """The image as cut, as a data URL; "" when it cannot be read."""
    try:
        view = load_view(sample)
    except CoinageError:
        return ""
    pixels = (view.pixels.transpose(1, 2, 0) + 1) * 127.5
    if view.mask is not None:
        hidden = (1 - view.mask)[..., None] * 0.6
        pixels = pixels * (1 - hidden) + MASK_COLOR * hidden
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
