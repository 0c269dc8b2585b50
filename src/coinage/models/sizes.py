"""Count a model's parameters from the headers of its files. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.detect import (
    FIRST_CONV,
    INPUT_CHANNELS,
    UNET,
    VAE,
    known_name,
    safetensors_shapes,
)
from coinage.models.facts import FACTS, FamilyFacts, ModelSizes, stays_whole
from coinage.models.hub_files import local_path
from coinage.system.text_files import is_file

TEXT = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
# In the names of a text encoder's tables and norms
KEPT = ("embedding", "norm", "ln_", "shared.", "attention_bias")
TABLES = ("token_embedding", "shared.")  # of tokens
NOT_LOADED = ("position_ids", "logit_scale", "encoder.embed_tokens.weight")
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
FIRST, MASKED = (FIRST_CONV, "conv_in.weight"), INPUT_CHANNELS[1:]  # a UNet's, and what it reads
Shapes = Mapping[str, tuple[int, ...]]


def model_sizes(model: ModelConfig) -> ModelSizes:
    """Return the sizes of a model: a safetensors file, a folder, or a hub id in the local cache.

    Parts that cannot be counted (pickles, models that are still to be downloaded) are taken from
    the family's released model.
    """
    path = local_path(model.source)
    facts = FACTS[model.family]
    shapes = _shapes_of_file(path) if is_file(path) else _shapes_of_folder(path, facts)
    if model.vae is not None:
        shapes["vae"] = _shapes_of_vae(Path(model.vae))
    sizes = facts.released
    if shapes["unet"]:
        small = sum(math.prod(shape) for shape in shapes["unet"].values() if stays_whole(shape))
        inpaints = any(shapes["unet"].get(name, ())[1:2] == MASKED for name in FIRST)
        sizes = replace(sizes, unet=_count(shapes["unet"]), unet_small=small, inpaints=inpaints)
    if shapes["text"]:
        text = text_kept = tables = 0
        for name, shape in shapes["text"].items():
            if _is_loaded(name, facts):
                text += math.prod(shape)
                if any(word in name for word in KEPT):
                    text_kept += math.prod(shape)
                if any(word in name for word in TABLES):
                    tables += math.prod(shape)
        sizes = replace(sizes, text=text, text_kept=text_kept, text_tables=tables)
    if shapes["vae"]:
        sizes = replace(sizes, vae=_count(shapes["vae"]))
    return replace(sizes, from_model=all(shapes.values()))


def _count(shapes: Shapes) -> int:
    """Return how many numbers all tensors have together."""
    return sum(math.prod(shape) for shape in shapes.values())


def _is_loaded(name: str, facts: FamilyFacts) -> bool:
    """Return whether a text encoder's tensor is among those that are loaded."""
    if name.endswith(NOT_LOADED):
        return False
    return not any(part in name for part in facts.unused_text_tensors)


def _shapes_of_file(path: Path) -> dict[str, Shapes]:
    """Return the shapes of a single file's tensors, by part."""
    shapes = _header(path)
    return {
        "unet": _under(UNET, shapes),
        "text": _under(TEXT, shapes),
        "vae": _under(VAE, shapes),
    }


def _under(start: str | tuple[str, ...], shapes: Shapes) -> Shapes:
    """Return the shapes of tensors whose names begin so."""
    return {name: shape for name, shape in shapes.items() if name.startswith(start)}


def _shapes_of_folder(folder: Path, facts: FamilyFacts) -> dict[str, Shapes]:
    """Return the shapes of a diffusers folder's tensors, by part; empty without safetensors files."""
    text_folders = [folder / encoder.folder for encoder in facts.text_encoders]
    text: dict[str, tuple[int, ...]] = {}
    text_complete = True
    for path in text_folders:
        if path.is_dir():
            shapes = _shapes_in(path)
            text_complete = text_complete and bool(shapes)
            for name, shape in shapes.items():
                text[f"{path.name}.{name}"] = shape
    return {
        "unet": _shapes_in(folder / facts.denoiser),
        "text": text if text_complete else {},
        "vae": _shapes_in(folder / "vae"),
    }


def _shapes_of_vae(path: Path) -> Shapes:
    """Return the shapes of the VAE's tensors in the file or folder of `--vae`."""
    if not is_file(path):
        return _shapes_in(path) or _shapes_in(path / "vae")
    shapes = _header(path)
    of_vae: dict[str, tuple[int, ...]] = {}
    for name, shape in (_under(VAE, shapes) or shapes).items():
        if name.removeprefix(VAE).startswith(VAE_PARTS):
            of_vae[name] = shape
    return of_vae


def _shapes_in(folder: Path) -> Shapes:
    """Return the shapes of a part's tensors; those of its fp16 variant where that alone is there."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [path for path in files if "." not in path.stem]
    half = [path for path in files if ".fp16" in path.name]
    shapes: dict[str, tuple[int, ...]] = {}
    for path in plain or half:
        shapes |= _header(path)
    return shapes


def _header(path: Path) -> Shapes:
    """Return the shapes of a safetensors file's tensors; {} of any other file."""
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        return {known_name(name): shape for name, shape in safetensors_shapes(path).items()}
    except (CoinageError, OSError):  # what is broken is an error elsewhere
        return {}
