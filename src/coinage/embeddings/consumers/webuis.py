"""AUTOMATIC1111's web UI, Forge, and SD.Next: folders of files, each a word named by the file's stem."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from coinage.embeddings.consumers.verdict import (
    CONVERT,
    FAMILY,
    Model,
    Taken,
    check_width,
    content_of,
    first,
    is_pair,
    refuse,
)
from coinage.embeddings.file import PAIR
from coinage.embeddings.raw import Raw
from coinage.text.placeholder import CHUNK

SUFFIXES = (".safetensors", ".pt", ".bin", ".png", ".webp")
# What AUTOMATIC1111 lets a pickle refer to, and the records it lets a torch zip have.
GLOBALS = {
    "collections": {"OrderedDict"},
    "torch._utils": {
        "_rebuild_tensor_v2",
        "_rebuild_parameter",
        "_rebuild_device_tensor_from_numpy",
    },
    "torch": {
        f"{kind}Storage" for kind in ("Float", "Half", "Int", "Long", "Double", "Byte", "BFloat16")
    }
    | {"float32"},
    "torch.nn.modules.container": {"ParameterDict"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy": {"dtype", "ndarray"},
    "_codecs": {"encode"},
    "pytorch_lightning.callbacks": {"model_checkpoint"},
    "pytorch_lightning.callbacks.model_checkpoint": {"ModelCheckpoint"},
    "__builtin__": {"set"},
}
SIGNS = re.compile(r"([()\[\]])")  # weights, unless a backslash stands before them
RECORD = re.compile(r"[^/]+/(version|data\.pkl|data/\d+)")


def automatic1111(raw: Raw, model: Model, _token: str | None) -> Taken:
    """AUTOMATIC1111: the pickle must pass its gate; then as Forge, which grew out of it."""
    if raw.container in ("zip", "pickle") and raw.path.suffix.lower() in SUFFIXES:
        _pass_gate(raw)
    return forge(raw, model, _token)


def _pass_gate(raw: Raw) -> None:
    for record in raw.records:
        if not RECORD.fullmatch(record):
            refuse(f"its pickle check does not know the zip record {record}; {CONVERT}.")
    for name in raw.globals:
        module, _, what = name.partition(" ")
        if what not in GLOBALS.get(module, ()):
            refuse(f"its pickle check refuses {f'{module}.{what}'.strip('.')}; {CONVERT}.")


def forge(raw: Raw, model: Model, _token: str | None) -> Taken:
    """Forge: one tensor, or SDXL's pair; the sum of the widths must be the model's. It unpickles without a gate."""
    content = content_of(raw, SUFFIXES, full=True)
    taken, width = _webui_tensors(content)
    if width != sum(model.widths) or isinstance(taken, dict) != (len(model.widths) > 1):
        refuse(
            f"its vectors have {width} numbers and this model needs {sum(model.widths)}: it is listed as skipped."
        )
    tensors = taken if isinstance(taken, dict) else {model.keys[0]: taken}
    if max(len(tensor) for tensor in tensors.values()) > CHUNK:
        refuse(f"more than {CHUNK} vectors do not fit in a prompt; train the word with fewer.")
    name = str(content.get("name", raw.path.stem)) if raw.container == "image" else raw.path.stem
    return Taken(tensors, SIGNS.sub(r"\\\1", name))


def _webui_tensors(content: Any) -> tuple[Any, int]:
    """A tensor, or SDXL's pair of tensors, and the width that is compared with the model's."""
    if isinstance(content, dict) and "string_to_param" in content:
        return _only(content["string_to_param"]), _only(content["string_to_param"]).shape[-1]
    if type(content) is dict and is_pair(content):
        extra = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
        if extra is not None:
            refuse(f"beside clip_l and clip_g it holds {extra!r}, which is no tensor; {CONVERT}.")
        return {key: content[key] for key in PAIR}, sum(content[key].shape[-1] for key in PAIR)
    # Exactly dict, and exactly Tensor: an OrderedDict or a Parameter is not recognised.
    if type(content) is dict and type(first(content)) is Tensor:
        tensor = _only(content)
        return (tensor[None] if tensor.ndim == 1 else tensor), tensor.shape[-1]
    return refuse(
        f"it recognises neither a webui embedding nor a diffusers concept in it; {CONVERT}."
    )


def _only(content: dict[str, Any]) -> Any:
    if len(content) != 1:
        refuse(f"it must hold one tensor and holds {len(content)}; {CONVERT}.")
    return first(content)


def sdnext(raw: Raw, model: Model, _token: str | None) -> Taken:
    """SD.Next: every tensor of a .safetensors file, or `string_to_param["*"]` of a .pt; matched to the encoders by width."""
    content = content_of(raw, (".safetensors", ".pt"), full=True)
    if raw.container == "safetensors":
        tensors = list(content.values())
    elif isinstance(content, dict) and "*" in content.get("string_to_param", {}):
        tensors = [content["string_to_param"]["*"]]
    else:
        refuse(f"from a .pt it takes only string_to_param['*']; {CONVERT}.")
    widths = [tensor.shape[-1] for tensor in tensors]
    for tensor in tensors:
        if tensor.shape[-1] not in model.widths:
            check_width(tensor, model.widths[0])
    if len(widths) > len(model.widths):
        refuse(
            f"it holds {len(widths)} tensors, more than this model has text encoders; {CONVERT}."
        )
    if len(set(widths)) < len(model.widths):
        refuse(f"it has vectors for one text encoder and this model has two: {FAMILY}.")
    # The first tensor says how many tokens there are; a longer second one is cut.
    found = {
        key: tensors[widths.index(width)][: len(tensors[0])]
        for key, width in zip(model.keys, model.widths, strict=True)
    }
    return Taken(found, SIGNS.sub(r"\\\1", raw.path.stem))
