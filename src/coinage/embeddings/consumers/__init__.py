"""Which other tool reads an embedding file, what it takes from it, and what to write there.

Each tool's rules are stated anew, from what is known of them in public, as one small function on the
file's content. They were compared with the tools in 2026; a tool may change.
"""

from __future__ import annotations

from pathlib import Path

from coinage.embeddings.consumers.comfy import comfyui, swarmui
from coinage.embeddings.consumers.libraries import diffusers, invokeai
from coinage.embeddings.consumers.trainers import onetrainer, sd_scripts
from coinage.embeddings.consumers.verdict import Model, Rule, Verdict, judge
from coinage.embeddings.consumers.webuis import automatic1111, forge, sdnext
from coinage.embeddings.raw import read_raw

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
    """What each tool makes of a file, with a model of a family; in the order of `TOOLS`.

    Args:
        path: the embedding file; a broken or missing one is refused by every tool.
        family: "sd1", "sd2" or "sdxl".
        widths: of the model's text encoders: (768,), (1024,) and (768, 1280) on the released ones.
        token: the word to give diffusers; the file's own, or the stem, when unset.
    """
    raw, model = read_raw(path), Model(family, widths)
    return [judge(tool, rule, raw, model, token) for tool, rule in TOOLS.items()]
