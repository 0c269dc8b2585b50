"""Embedding files as the various tools write them, with vectors that are known exactly."""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image, PngImagePlugin

WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}


def vectors(n: int, d: int) -> torch.Tensor:
    """Numbers that fp32, fp16 and bf16 hold exactly."""
    return (torch.arange(n * d).view(n, d) % 251 - 125).float() / 1024


def webui(tensor: torch.Tensor, name: str = "zibu") -> dict[str, Any]:
    """AUTOMATIC1111's dictionary."""
    parts = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensor},
        "name": name,
        "step": 7,
    }
    return parts | {"sd_checkpoint": None, "sd_checkpoint_name": None}


def parameters(tensor: torch.Tensor) -> dict[str, Any]:
    """What the first Textual Inversion code saves."""
    held = torch.nn.ParameterDict({"*": torch.nn.Parameter(tensor)})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": held}


def stock(path: Path, content: Any) -> None:
    """As torch.save writes it today."""
    torch.save(content, path)


def clean(path: Path, content: Any) -> None:
    """Only the records that AUTOMATIC1111's gate allows, as older versions of torch write them."""
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=2)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name.split("/", 1)[1].startswith(("data.pkl", "data/", "version")):
                target.writestr(name, source.read(name))


def legacy(path: Path, content: Any) -> None:
    """Torch's format before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def safe(path: Path, content: Any) -> None:
    """A safetensors file without a header of its own."""
    safetensors.torch.save_file(content, path)


def image(path: Path, content: Any) -> None:
    """A picture with AUTOMATIC1111's text chunk."""
    text = json.dumps(content, default=lambda tensor: {"TORCHTENSOR": tensor.tolist()})
    info = PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(text.encode()).decode())
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


Layout = tuple[str, Callable[[Path, Any], None], Callable[..., Any]]
# Suffix, how it is written, what is in it given one tensor per text encoder; names as in the matrix.
ONE: dict[str, Layout] = {
    "E": (".safetensors", safe, lambda t: {"emb_params": t}),
    "Ept": (".pt", clean, lambda t: {"emb_params": t}),
    "Ept, stock torch": (".pt", stock, lambda t: {"emb_params": t}),
    "Ept, legacy": (".pt", legacy, lambda t: {"emb_params": t}),
    "Ept .bin": (".bin", clean, lambda t: {"emb_params": t}),
    "A": (".pt", clean, webui),
    "A, stock torch": (".pt", stock, webui),
    "A .ckpt": (".ckpt", clean, webui),
    "A .bin": (".bin", clean, webui),
    "A, no string_to_token": (
        ".pt",
        clean,
        lambda t: {k: v for k, v in webui(t).items() if k != "string_to_token"},
    ),
    "O": (".pt", clean, parameters),
    "D": (".safetensors", safe, lambda t: {"<zibu>": t}),
    "D .bin": (".bin", clean, lambda t: {"<zibu>": t}),
    "D, 1-D": (".safetensors", safe, lambda t: {"<zibu>": t[0].clone()}),
    "OT": (".safetensors", safe, lambda t: {"emp_params": t}),
    "E + second": (".safetensors", safe, lambda t: {"emb_params": t, "extra": t + 1}),
    "L": (".pt", clean, lambda t: [{"a": t[:1].clone()}, {"b": t[1:].clone()}]),
    "T": (".pt", clean, lambda t: t),
    "G": (".png", image, webui),
}
PAIR: dict[str, Layout] = {
    "X": (".safetensors", safe, lambda a, b: {"clip_l": a, "clip_g": b}),
    "Xpt": (".pt", clean, lambda a, b: {"clip_l": a, "clip_g": b}),
    "Xpt, stock torch": (".pt", stock, lambda a, b: {"clip_l": a, "clip_g": b}),
    "Xpt .ckpt": (".ckpt", clean, lambda a, b: {"clip_l": a, "clip_g": b}),
    "Xpt .bin": (".bin", clean, lambda a, b: {"clip_l": a, "clip_g": b}),
    "X + *_out": (
        ".safetensors",
        safe,
        lambda a, b: {"clip_l": a, "clip_g": b, "clip_l_out": a + 1, "clip_g_out": b + 1},
    ),
}


def write_layout(folder: Path, layout: str, widths: tuple[int, ...], n: int = 2) -> Path:
    """A file of a layout of `ONE` or `PAIR`, called zibu."""
    suffix, save, content = (ONE | PAIR)[layout]
    path = folder / f"zibu{suffix}"
    save(path, content(*(vectors(n, width) for width in widths)))
    return path
