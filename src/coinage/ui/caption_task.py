"""Describe images by a model: a task, which keeps its model in memory for the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from coinage.data.images import decode
from coinage.data_config import ImageRules
from coinage.errors import CoinageError, reason_of
from coinage.models.quiet import quiet_libraries

Tell = Callable[[Mapping[str, Any]], None]
MOST_TOKENS = 40  # of a description


def describe(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Describe images, each in one line.

    Args:
        payload: `model` (folder), `images` (id to path).
        tell: gets `done` and `total` images.

    Returns:
        `texts`: id to description.

    Raises:
        CoinageError: the model cannot be used, or an image cannot be read.
    """
    images = payload["images"]
    texts: dict[str, str] = {}
    tell({"done": 0, "total": len(images)})
    try:
        processor, model = _loaded(payload["model"])
        for image, path in images.items():
            rgb, _ = decode(Path(path), ImageRules())
            texts[image] = _described(processor, model, rgb)
            tell({"done": len(texts), "total": len(images)})
    except CoinageError:
        raise
    except Exception as error:  # a model of somebody else's may fail in any way
        what = f"the model cannot describe images: {reason_of(error)}"
        hint = "choose another one; it must be for image captions, with its processor beside it"
        raise CoinageError(what, Path(payload["model"]).name, hint) from error
    return {"texts": texts}


@lru_cache(maxsize=1)
def _loaded(folder: str) -> tuple[Any, Any]:
    """Return a model and what prepares images for it. Code and pickles beside it are not read."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, local_files_only=True, use_safetensors=True
    )
    return processor, model.to(device).eval()


@torch.inference_mode()
def _described(processor: Any, model: Any, rgb: Any) -> str:
    inputs = processor(images=rgb, return_tensors="pt").to(model.device)
    ids = model.generate(pixel_values=inputs["pixel_values"], max_new_tokens=MOST_TOKENS)
    return " ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split())
