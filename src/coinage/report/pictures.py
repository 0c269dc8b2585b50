"""Encode pictures to stand inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def data_url(pixels: NDArray[np.uint8], side: int, quality: int = 85) -> str:
    """Return [H, W, 3] pixels as a data URL of a JPEG with no side longer than `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
