"""The files of CLIP and DINO: what they are, and how pictures are prepared. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.errors import CoinageError, Problem
from coinage.models.hub_files import HUB_ID
from coinage.system.text_files import is_folder, is_there, read_json

Kind = Literal["clip", "dino"]
# The `model_type` of settings that each kind takes, and what its measure is called
TYPES: Mapping[Kind, Mapping[str, str]] = {
    "clip": {"clip": "CLIP"},
    "dino": {
        "dinov2": "DINOv2",
        "dinov2_with_registers": "DINOv2",
        "dinov3_vit": "DINOv3",
        "vit": "DINO",
    },
}
EXAMPLES = {"clip": "openai/clip-vit-base-patch32", "dino": "facebook/dinov2-base"}
SETTINGS = "config.json"
# transformers writes the one or the other
PREPARATION = ("preprocessor_config.json", "processor_config.json")
WEIGHTS = ("*.safetensors", "*.bin")
MOST_PIXELS = 4096  # along a side, of what an encoder takes


def encoder_problems(kind: Kind, source: str, flag: str) -> list[Problem]:
    """Find out from names and settings whether a source holds an encoder of a kind.

    A hub id is looked up when the encoder is loaded.

    Args:
        kind: of the encoder.
        source: a folder or a hub id.
        flag: that names it.
    """
    folder = Path(source)
    if not is_folder(folder):
        if HUB_ID.fullmatch(source) and not is_there(folder):
            return []
        found = [Problem("no such folder, and not a hub id", source)]
    else:
        found = _folder_problems(kind, folder)
    hint = f"give a folder or hub id such as {EXAMPLES[kind]}"
    return [Problem(f"{flag}: {p.what}", p.where, p.hint or hint) for p in found]


def _folder_problems(kind: Kind, folder: Path) -> list[Problem]:
    try:
        settings = read_json(folder / SETTINGS)
        found = settings.get("model_type") if isinstance(settings, dict) else None
        if found not in TYPES[kind]:
            what = f"the model is {found!r}, not {' or '.join(TYPES[kind])}"
            return [Problem(what, str(folder))]
        preparation_in(folder)
    except CoinageError as error:
        return list(error.problems)
    if any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        return []
    return [Problem("the folder has settings but no weights", str(folder), "download it again")]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a picture becomes what an encoder takes.

    Attributes:
        size_wh: that it is resized to; None for a side: the shorter one gets the other's length,
            and the ratio stays.
        crop_wh: of the middle that is cut out; None: all of it.
        resample: of Pillow.
        mean, std: of the red, green and blue of pixels in 0..1.
    """

    size_wh: tuple[int, int | None]
    crop_wh: tuple[int, int] | None
    resample: Image.Resampling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return [3, h, w] float32 of [H, W, 3] uint8 RGB pixels."""
        image = Image.fromarray(pixels)
        image = image.resize(self._target(image.size), self.resample)
        if self.crop_wh:
            (width, height), (w, h) = image.size, self.crop_wh
            # What is smaller than the cut gets a black border
            left, top = (width - w) // 2, (height - h) // 2
            image = image.crop((left, top, left + w, top + h))
        scaled = np.asarray(image, dtype=np.float32) / 255
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def _target(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        side, other = self.size_wh
        if other is not None:
            return side, other
        width, height = size_wh
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side


def preparation_in(folder: Path) -> Preparation:
    """Return how an encoder's folder says that pictures are prepared.

    Raises:
        CoinageError: it does not say so, or in numbers that make no sense.
    """
    for name in PREPARATION:
        path = folder / name
        if path.is_file():
            settings = read_json(path)
            if isinstance(settings, dict):
                return _preparation(settings.get("image_processor", settings), path)
            raise CoinageError("it holds no settings of pictures", str(path))
    raise CoinageError(f"the folder has no {PREPARATION[0]}", str(folder), "download it again")


def _preparation(settings: Any, path: Path) -> Preparation:
    try:
        cuts = settings.get("do_center_crop", "crop_size" in settings)
        return Preparation(
            size_wh=_size(settings["size"], cuts=cuts),
            crop_wh=_rectangle(settings["crop_size"]) if cuts else None,
            resample=Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC)),
            mean=_colour(settings["image_mean"]),
            std=_colour(settings["image_std"], above=0),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"the settings of pictures cannot be used: {type(error).__name__}: {error}"
        raise CoinageError(what, str(path), "download the file again") from None


def _size(size: Any, *, cuts: bool) -> tuple[int, int | None]:
    """Return what a picture is resized to; one number is the shorter side, if the rest is cut off."""
    if isinstance(size, dict) and "shortest_edge" in size:
        return _side(size["shortest_edge"]), None
    if isinstance(size, int) and cuts:
        return _side(size), None
    return _rectangle(size)


def _rectangle(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return _side(size["width"]), _side(size["height"])
    return _side(size), _side(size)


def _side(value: Any) -> int:
    side = int(value)
    if not 0 < side <= MOST_PIXELS:
        raise ValueError(f"a side of {side} pixels")
    return side


def _colour(values: Any, above: float = -np.inf) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    if not all(np.isfinite(v) and v > above for v in (red, green, blue)):
        raise ValueError(f"colours {values}")
    return red, green, blue
