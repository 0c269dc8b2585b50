"""The programs that read embedding files: which loads a file, what it takes, what to write in prompts.

Each tool's rule is stated anew, from what is publicly known of it, as one function on the file's
content. The rules were compared with the tools in 2026; a tool may change. To add a tool, write its
rule in a module of its own and add a row to `TOOLS`. A family that tools treat differently has a row in
`newer_families.py`.
"""

from __future__ import annotations

from pathlib import Path

from coinage.embeddings.raw_file import read_raw_file
from coinage.embeddings.tools.automatic1111 import automatic1111, forge
from coinage.embeddings.tools.comfyui import comfyui
from coinage.embeddings.tools.diffusers import diffusers
from coinage.embeddings.tools.invokeai import invokeai
from coinage.embeddings.tools.loras import has_words, rule_for_loras
from coinage.embeddings.tools.newer_families import NEWER_FAMILIES
from coinage.embeddings.tools.onetrainer import onetrainer
from coinage.embeddings.tools.rules import Rule, TargetModel, Verdict, judge
from coinage.embeddings.tools.sd_scripts import sd_scripts
from coinage.embeddings.tools.sdnext import sdnext
from coinage.embeddings.tools.swarmui import swarmui

__all__ = ["TOOLS", "Verdict", "verdicts"]

TOOLS: dict[str, Rule] = {
    "AUTOMATIC1111": automatic1111,
    "Forge": forge,
    "ComfyUI": comfyui,
    "InvokeAI": invokeai,
    "SD.Next": sdnext,
    "diffusers": diffusers,
    "SwarmUI": swarmui,
    "OneTrainer": onetrainer,
    "sd-scripts": sd_scripts,
}


def verdicts(
    path: Path, family: str, widths: tuple[int, ...], token: str | None = None
) -> list[Verdict]:
    """Return what each tool makes of a file with a model of a family, in the order of `TOOLS`.

    Args:
        path: the embedding file; a broken or missing one is refused by every tool.
        family: "sd1", "sd2", "sdxl", "sd3" or "flux".
        widths: of the model's text encoders: (768,), (1024,) and (768, 1280) in the released ones.
        token: the word to pass to diffusers; default: the file's own, or the stem of its name.
    """
    file = read_raw_file(path)
    model = TargetModel(family, widths)
    in_lora = has_words(file)
    found = []
    for tool, usual in TOOLS.items():
        rule = NEWER_FAMILIES.get(family, {}).get(tool, usual)
        due = rule_for_loras(tool) if in_lora else rule
        found.append(judge(tool, due, file, model, token))
    return found
