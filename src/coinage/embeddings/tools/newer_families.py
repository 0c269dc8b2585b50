"""What tools make of words for families beyond SDXL, where it differs from their usual rule: a row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.automatic1111 import automatic1111, forge
from coinage.embeddings.tools.rules import Rule, TargetModel, ToolReading, refuse
from coinage.models.facts import FACTS, FLUX, SD3

# Read in SD.Next's `modules/textual_inversion.py`: files in its folder are for these models
OLD_MODELS = "it loads words for 1.x, 2.x and SDXL alone."
WITHOUT_T5 = "It leaves out the vectors for T5."


def _clip_alone(rule: Rule) -> Rule:
    """Return the rule of a tool that gives words to CLIP and none to T5."""

    def read(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
        encoders = FACTS[model.family].text_encoders[: len(model.widths)]
        clips = sum(encoder.kind != "t5" for encoder in encoders)
        reading = rule(file, replace(model, widths=model.widths[:clips]), token)
        if len(model.widths) == len(reading.tensors):
            return reading
        return replace(reading, why=f"{reading.why} {WITHOUT_T5}".strip())

    return read


def _none(why: str) -> Rule:
    """Return the rule of a tool that has no words for a family."""

    def read(_: RawFile, __: TargetModel, ___: str | None) -> ToolReading:
        return refuse(why)

    return read


def _with_one_tensor(rule: Rule) -> Rule:
    """Return the rule of a tool that gives words to CLIP, from files with nothing else."""

    def read(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
        content = file.content if isinstance(file.content, dict) else {}
        if len(content) > 1 and "string_to_param" not in content:
            refuse("it takes words for CLIP alone, from files with one tensor.")
        return rule(file, model, token)

    return read


NEWER_FAMILIES: Mapping[str, Mapping[str, Rule]] = {
    SD3.name: {
        "AUTOMATIC1111": _clip_alone(automatic1111),
        "Forge": _clip_alone(forge),
        "InvokeAI": _none("it draws no words with Stable Diffusion 3."),
        "SD.Next": _none(OLD_MODELS),
        "diffusers": _none("its pipeline of Stable Diffusion 3 loads no words."),
        "sd-scripts": _none("it draws no words with Stable Diffusion 3."),
    },
    FLUX.name: {
        "AUTOMATIC1111": _none("it does not draw with FLUX.1."),
        "Forge": _with_one_tensor(_clip_alone(forge)),
        "InvokeAI": _none("it draws no words with FLUX.1."),
        "SD.Next": _none(OLD_MODELS),
        "sd-scripts": _none("it draws no words with FLUX.1."),
    },
}
