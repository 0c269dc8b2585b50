"""A labelled grid of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CELL = 144  # pixels: side of a picture as shown
GAP = 10
LABEL = 44  # pixels: height of the caption under a picture
HEAD = 30  # pixels: height of a row's title
INK, QUIET, PAPER = (32, 33, 36), (95, 99, 104), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of pictures with a caption each."""

    title: str
    pictures: Sequence[NDArray[np.uint8]]
    captions: Sequence[str]


def draw_grid(title: str, rows: Sequence[Row]) -> NDArray[np.uint8]:
    """Return all rows under one title: [H, W, 3] uint8."""
    columns = max(len(row.pictures) for row in rows)
    width = GAP + columns * (CELL + GAP)
    height = 2 * HEAD + len(rows) * (HEAD + CELL + LABEL + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, fill=INK, font=ImageFont.load_default(24))
    y = 2 * HEAD - GAP
    for row in rows:
        draw.text((GAP, y), row.title, fill=INK, font=ImageFont.load_default(17))
        for i, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            x = GAP + i * (CELL + GAP)
            cell = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (x, y + HEAD))
            lines = textwrap.wrap(caption, 24)[:3]
            draw.multiline_text(
                (x, y + HEAD + CELL + 3),
                "\n".join(lines),
                fill=QUIET,
                font=ImageFont.load_default(11),
                spacing=1,
            )
        y += HEAD + CELL + LABEL + GAP
    return np.asarray(sheet)
