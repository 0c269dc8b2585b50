"""SwarmUI, which draws with ComfyUI."""

from __future__ import annotations

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.comfyui import SUFFIXES, comfyui
from coinage.embeddings.tools.rules import CONVERT, TargetModel, ToolReading, is_pair, refuse


def swarmui(file: RawFile, model: TargetModel, _token: str | None) -> ToolReading:
    """Apply SwarmUI's rule: as ComfyUI, with a family that it knows from header, names or widths."""
    reading = comfyui(file, model, _token)
    if file.path.suffix.lower() not in SUFFIXES:
        refuse(f"it does not list {file.path.suffix} files; {CONVERT}.")
    why = reading.why
    if not why and not _has_known_family(file):
        why = f"It is listed without a family; {CONVERT}."
    return ToolReading(reading.tensors, f"<embed:{file.path.stem}>", why)


def _has_known_family(file: RawFile) -> bool:
    if file.container != "safetensors":
        return False
    if file.metadata.get("modelspec.architecture", "").endswith("/textual-inversion"):
        return True
    bracketed = [key for key in file.content if key.startswith("<") and key.endswith(">")]
    return "emb_params" in file.content or is_pair(file.content) or len(bracketed) == 1
