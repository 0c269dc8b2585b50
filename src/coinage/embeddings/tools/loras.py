"""LoRAs with words in them: which tools find the words, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coinage.embeddings.layouts import BUNDLE_KEY, quoted
from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.automatic1111 import escaped
from coinage.embeddings.tools.comfyui import comfyui
from coinage.embeddings.tools.rules import Rule, TargetModel, ToolReading, is_pair, refuse

START = "bundle_emb."
TAKE_OUT = "take the words out with coinage convert --unbundle"


def has_words(file: RawFile) -> bool:
    """Return whether a file is a LoRA with words in it."""
    return file.container == "safetensors" and any(map(BUNDLE_KEY.fullmatch, file.content))


def rule_for_loras(tool: str) -> Rule:
    """Return the rule by which a tool reads the words of a LoRA."""
    return WORDS_IN_LORAS.get(tool, _no_words)


def _automatic1111(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
    """Apply AUTOMATIC1111's rule: while the LoRA is in the prompt, its words are there as well.

    A name ends at its first dot. There must be one tensor, or SDXL's pair.
    """
    tensors = _tensors_of(file, token)
    width = sum(tensor.shape[-1] for tensor in tensors.values())
    if len(tensors) > 1 and not is_pair(tensors):
        refuse(f"beside the word's vectors it finds others, and loads nothing; {TAKE_OUT}.")
    if width != sum(model.widths) or is_pair(tensors) != (len(model.widths) > 1):
        needed = sum(model.widths)
        refuse(f"the word's vectors have {width} numbers and this model needs {needed}.")
    return _reading(file, tensors, model, token)


def _sdnext(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
    """Apply SD.Next's rule: as AUTOMATIC1111, but it matches tensors to text encoders by width."""
    tensors = _tensors_of(file, token)
    widths = tuple(sorted(tensor.shape[-1] for tensor in tensors.values()))
    if widths != tuple(sorted(model.widths)):
        shown = ", ".join(map(str, widths))
        refuse(f"the word's vectors have {shown} numbers, which this model does not need.")
    return _reading(file, tensors, model, token)


def _comfyui(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
    """Apply ComfyUI's rule: the LoRA's loader leaves words out; the one of embeddings takes all."""
    names = {match["word"] for match in map(BUNDLE_KEY.fullmatch, file.content) if match}
    if len(names) > 1:
        refuse(f"it takes all {len(names)} words of the file for one; {TAKE_OUT}.")
    reading = comfyui(file, model, token)
    why = "Put a copy into models/embeddings as well: the LoRA's loader leaves the word out."
    return ToolReading(reading.tensors, reading.write, why)


def _forge(_file: RawFile, _model: TargetModel, _token: str | None) -> ToolReading:
    return refuse(f"it does not read words in a LoRA; {TAKE_OUT}.")


def _diffusers(_file: RawFile, _model: TargetModel, _token: str | None) -> ToolReading:
    return refuse(f"it refuses a LoRA that has words in it; {TAKE_OUT}.")


def _no_words(_file: RawFile, _model: TargetModel, _token: str | None) -> ToolReading:
    return refuse(f"it is not known to read words in a LoRA; {TAKE_OUT}.")


def _tensors_of(file: RawFile, token: str | None) -> Mapping[str, Any]:
    """Return the tensors of one word by key, where a name ends at its first dot."""
    words: dict[str, dict[str, Any]] = {}
    for name, tensor in file.content.items():
        if name.startswith(START):
            word, _, key = name.removeprefix(START).partition(".")
            words.setdefault(word, {})[key] = tensor
    wanted = token or next(iter(words))
    if "." in wanted:
        refuse(f"it cuts the name {quoted(wanted)} at its first dot; give the word another name.")
    if wanted not in words:
        refuse(f"there is no word {quoted(wanted)} in the LoRA.")
    return words[wanted]


def _reading(
    file: RawFile, tensors: Mapping[str, Any], model: TargetModel, token: str | None
) -> ToolReading:
    by_width = {tensor.shape[-1]: tensor for tensor in tensors.values()}
    by_key = {key: by_width[width] for key, width in zip(model.keys, model.widths, strict=True)}
    lora = f"<lora:{file.path.stem}:1>"
    why = f"Put the file into models/Lora; the word works in prompts with {lora}."
    return ToolReading(by_key, f"{escaped(token or '')} {lora}".strip(), why)


WORDS_IN_LORAS: Mapping[str, Rule] = {
    "AUTOMATIC1111": _automatic1111,
    "Forge": _forge,
    "ComfyUI": _comfyui,
    "SD.Next": _sdnext,
    "diffusers": _diffusers,
}
