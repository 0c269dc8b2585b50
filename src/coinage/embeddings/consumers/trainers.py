"""OneTrainer and sd-scripts' gen_img: other trainers, going on from or drawing with a word."""

from __future__ import annotations

from torch import Tensor

from coinage.embeddings.consumers.verdict import (
    CONVERT,
    FAMILY,
    Model,
    Taken,
    check_width,
    content_of,
    first,
    refuse,
)
from coinage.embeddings.raw import Raw

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")


def onetrainer(raw: Raw, model: Model, token: str | None) -> Taken:
    """OneTrainer: its own key `emp_params`, or SDXL's pair; the word is a text that is set there."""
    content = content_of(raw, SUFFIXES)
    found = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        name = "emp_params" if key == "emb_params" else key
        if not isinstance(content, dict) or name not in content:
            refuse(
                f"it looks for a tensor named {name}; {'convert the file for OneTrainer' if name == 'emp_params' else FAMILY}."
            )
        check_width(content[name], width)
        found[key] = content[name]
    outputs = any(f"{name}_out" in content for name in ("emp_params", *model.keys))
    return Taken(
        found,
        token or raw.path.stem,
        "The word is the placeholder text that you set there.",
        reads_more=outputs,
    )


def sd_scripts(raw: Raw, model: Model, _token: str | None) -> Taken:
    """gen_img of sd-scripts: the webui's dictionary or the first tensor; for SDXL `clip_l` and `clip_g`."""
    content = content_of(raw, SUFFIXES)
    if not isinstance(content, dict):
        refuse(f"it expects named tensors; {CONVERT}.")
    found = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        tensor = (
            content.get(key)
            if len(model.keys) > 1
            else first(content.get("string_to_param", content))
        )
        if not isinstance(tensor, Tensor):
            refuse(f"it finds no tensor {key}; {CONVERT}.")
        check_width(tensor, width)
        found[key] = tensor
    luck = len(model.keys) == 1 and "string_to_param" not in content and len(content) > 1
    return Taken(
        found,
        raw.path.stem,
        f"It takes the first of {len(content)} tensors; {CONVERT}." if luck else "",
    )
