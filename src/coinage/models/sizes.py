"""How many parameters a model has, from the headers of its files. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.detect import HUB_ID, UNET, VAE, hub_folder, safetensors_shapes
from coinage.system.text_files import is_file, is_there

TEXT = ("cond_stage_model.", "conditioner.embedders.")
KEPT = ("embedding", "norm", "ln_")  # in the names of a text encoder's tables and norms
NOT_LOADED = ("position_ids", "logit_scale")
# What Stable Diffusion 2.x leaves out of its text encoder
OPEN_CLIP_H = ("text_projection", "resblocks.23.")
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
REDUCTION = 8  # pixels a side to one of the latents, in the released models
# Of a vector, over all text encoders of the released models
WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 768 + 1280}
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Parameters of a model's parts.

    Attributes:
        unet: of the UNet.
        unet_small: biases and norms among them, which --fp8_base leaves as they are.
        text: of all text encoders.
        text_kept: tables and norms among them, which stay in float32.
        vae: of the VAE.
        told: read from the model; otherwise those of the family's released model, at least in part.
    """

    unet: int
    unet_small: int
    text: int
    text_kept: int
    vae: int
    told: bool = True


RELEASED = {
    "sd1": ModelSizes(859_520_964, 443_844, 123_060_480, 38_042_880, 83_653_863, told=False),
    "sd2": ModelSizes(865_910_724, 443_844, 340_387_840, 50_768_896, 83_653_863, told=False),
    "sdxl": ModelSizes(2_567_463_684, 1_583_364, 817_720_320, 101_550_080, 83_653_863, told=False),
}


def model_sizes(model: ModelConfig) -> ModelSizes:
    """The sizes of a model: a safetensors file, a folder, or a hub id in the local cache.

    What cannot be told (pickles, models that are still to be downloaded) is taken from the family's released model.
    """
    path = Path(model.source)
    if not is_there(path) and HUB_ID.fullmatch(model.source):
        path = hub_folder(model.source) or path
    shapes = _shapes_of_file(path) if is_file(path) else _shapes_of_folder(path)
    if model.vae is not None:
        shapes["vae"] = _shapes_of_vae(Path(model.vae))
    found = RELEASED[model.family]
    if shapes["unet"]:
        found = replace(
            found,
            unet=_count(shapes["unet"]),
            unet_small=sum(math.prod(s) for s in shapes["unet"].values() if len(s) == 1),
        )
    if shapes["text"]:
        text = {name: s for name, s in shapes["text"].items() if _is_loaded(name, model.family)}
        kept = {name: s for name, s in text.items() if any(word in name for word in KEPT)}
        found = replace(found, text=_count(text), text_kept=_count(kept))
    if shapes["vae"]:
        found = replace(found, vae=_count(shapes["vae"]))
    return replace(found, told=all(shapes.values()))


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _is_loaded(name: str, family: str) -> bool:
    return not name.endswith(NOT_LOADED) and not (
        family == "sd2" and any(part in name for part in OPEN_CLIP_H)
    )


def _shapes_of_file(path: Path) -> dict[str, Shapes]:
    """A single file's tensors, by part."""
    shapes = _header(path)
    starts = {"unet": (UNET,), "text": TEXT, "vae": (VAE,)}
    return {
        part: {name: shape for name, shape in shapes.items() if name.startswith(start)}
        for part, start in starts.items()
    }


def _shapes_of_folder(folder: Path) -> dict[str, Shapes]:
    """A diffusers folder's tensors, by part; a part without safetensors files is empty."""
    text = [part for name in ("text_encoder", "text_encoder_2") if (part := folder / name).is_dir()]
    found = {path.name: _shapes_in(path) for path in (*text, folder / "unet", folder / "vae")}
    joined = {
        f"{path.name}.{name}": shape for path in text for name, shape in found[path.name].items()
    }
    return {
        "unet": found["unet"],
        "text": joined if all(found[path.name] for path in text) else {},
        "vae": found["vae"],
    }


def _shapes_of_vae(path: Path) -> Shapes:
    """The tensors of what `--vae` names."""
    if not is_file(path):
        return _shapes_in(path) or _shapes_in(path / "vae")
    shapes = _header(path)
    names = {name: name.removeprefix(VAE) for name in shapes if name.startswith(VAE)} or {
        name: name for name in shapes
    }
    return {name: shapes[name] for name, inner in names.items() if inner.startswith(VAE_PARTS)}


def _shapes_in(folder: Path) -> Shapes:
    """All tensors of a part's folder; of its variants, such as fp16, only where that alone is there."""
    files = sorted(folder.glob("*.safetensors"))
    chosen = [path for path in files if "." not in path.stem] or [
        path for path in files if ".fp16" in path.name
    ]
    return {name: shape for path in chosen for name, shape in _header(path).items()}


def _header(path: Path) -> Shapes:
    try:
        return safetensors_shapes(path) if path.suffix.lower() == ".safetensors" else {}
    except (CoinageError, OSError):  # what is broken is an error elsewhere
        return {}
