"""AUTOMATIC1111's web UI and Forge: folders of files; the stem of each file's name is its word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.rules import (
    CONVERT,
    PROMPT_TOKENS,
    TargetModel,
    ToolReading,
    content_of,
    first_value,
    is_pair,
    refuse,
)
from coinage.embeddings.word import PAIR

SUFFIXES = (".safetensors", ".pt", ".bin", ".png", ".webp")
# What AUTOMATIC1111 lets a pickle refer to, and the records it lets a torch zip have.
STORAGES = ("Float", "Half", "Int", "Long", "Double", "Byte", "BFloat16")
ALLOWED_GLOBALS = {
    "collections": {"OrderedDict"},
    "torch._utils": {
        "_rebuild_tensor_v2",
        "_rebuild_parameter",
        "_rebuild_device_tensor_from_numpy",
    },
    "torch": {"float32", *(f"{kind}Storage" for kind in STORAGES)},
    "torch.nn.modules.container": {"ParameterDict"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy": {"dtype", "ndarray"},
    "_codecs": {"encode"},
    "pytorch_lightning.callbacks": {"model_checkpoint"},
    "pytorch_lightning.callbacks.model_checkpoint": {"ModelCheckpoint"},
    "__builtin__": {"set"},
}
ALLOWED_RECORD = re.compile(r"[^/]+/(version|data\.pkl|data/\d+)")
WEIGHT_SIGNS = re.compile(r"([()\[\]])")


def automatic1111(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply AUTOMATIC1111's rule: a pickle must pass its gate; then as Forge, which grew out of it."""
    if file.container in ("zip", "pickle") and file.path.suffix.lower() in SUFFIXES:
        _pass_gate(file)
    return forge(file, model, _token)


def forge(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply Forge's rule: one tensor, or SDXL's pair, whose widths must add up to the model's.

    It unpickles without a gate.
    """
    content = content_of(file, SUFFIXES, unlimited_pickle=True)
    tensors, width = _webui_tensors(content)
    needed = sum(model.widths)
    if width != needed or isinstance(tensors, dict) != (len(model.widths) > 1):
        refuse(
            f"its vectors have {width} numbers and this model needs {needed}: it is listed as skipped."
        )
    by_key = tensors if isinstance(tensors, dict) else {model.keys[0]: tensors}
    if max(len(tensor) for tensor in by_key.values()) > PROMPT_TOKENS:
        refuse(
            f"more than {PROMPT_TOKENS} vectors do not fit in a prompt; train the word with fewer."
        )
    name = file.path.stem
    if file.container == "image":
        name = str(content.get("name", name))
    return ToolReading(by_key, escaped(name))


def escaped(name: str) -> str:
    """Return a name as prompts take it: brackets are weights unless a backslash precedes them."""
    return WEIGHT_SIGNS.sub(r"\\\1", name)


def _pass_gate(file: RawFile) -> None:
    """Refuse a pickle with a record or a reference that AUTOMATIC1111 does not allow."""
    for record in file.records:
        if not ALLOWED_RECORD.fullmatch(record):
            refuse(f"its pickle check does not know the zip record {record}; {CONVERT}.")
    for reference in file.globals:
        module, _, name = reference.partition(" ")
        if name not in ALLOWED_GLOBALS.get(module, ()):
            full_name = f"{module}.{name}".strip(".")
            refuse(f"its pickle check refuses {full_name}; {CONVERT}.")


def _webui_tensors(content: Any) -> tuple[Any, int]:
    """Return a tensor, or SDXL's pair of tensors, and the width to compare with the model's."""
    if isinstance(content, dict) and "string_to_param" in content:
        tensor = _only_tensor(content["string_to_param"])
        return tensor, tensor.shape[-1]
    if type(content) is dict and is_pair(content):
        for key, value in content.items():
            if not isinstance(value, Tensor):
                refuse(
                    f"beside clip_l and clip_g it holds {key!r}, which is not a tensor; {CONVERT}."
                )
        return {key: content[key] for key in PAIR}, sum(content[key].shape[-1] for key in PAIR)
    # Exactly dict, and exactly Tensor: an OrderedDict or a Parameter is not recognised.
    if type(content) is dict and type(first_value(content)) is Tensor:
        tensor = _only_tensor(content)
        return (tensor[None] if tensor.ndim == 1 else tensor), tensor.shape[-1]
    return refuse(
        f"it recognises neither a webui embedding nor a diffusers concept in it; {CONVERT}."
    )


def _only_tensor(content: Mapping[str, Any]) -> Any:
    if len(content) != 1:
        refuse(f"it must hold one tensor and holds {len(content)}; {CONVERT}.")
    return first_value(content)
