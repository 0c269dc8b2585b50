"""SD.Next: a folder of files; the stem of each file's name is its word."""

from __future__ import annotations

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.automatic1111 import escaped
from coinage.embeddings.tools.rules import (
    CONVERT,
    OTHER_FAMILY,
    TargetModel,
    ToolReading,
    check_width,
    content_of,
    refuse,
)

SUFFIXES = (".safetensors", ".pt")


def sdnext(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply SD.Next's rule: every tensor of a .safetensors file, or `string_to_param["*"]` of a .pt.

    It matches tensors to text encoders by width.
    """
    content = content_of(file, SUFFIXES, unlimited_pickle=True)
    if file.container == "safetensors":
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
    if len(set(widths)) < min(2, len(model.widths)):
        refuse(f"it has vectors for one text encoder and this model has two: {OTHER_FAMILY}.")
    # The first tensor says how many tokens there are; a longer second one is cut.
    count = len(tensors[0])
    by_key = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        if width in widths:
            by_key[key] = tensors[widths.index(width)][:count]
    return ToolReading(by_key, escaped(file.path.stem))
