"""The commands that train, and which families each is for. Imports no torch."""

from __future__ import annotations

from enum import StrEnum

from coinage.models.facts import SD1, SD2, SDXL, FamilyFacts


class Script(StrEnum):
    """A command that trains; each has its own set of flags."""

    SD = "sd"
    SDXL = "sdxl"
    ANY = "any"  # `coinage train`, which detects the family


PROGRAMS = {Script.SD: SD1.script, Script.SDXL: SDXL.script, Script.ANY: "coinage train"}


def script_for(facts: FamilyFacts) -> Script:
    """Return sd-scripts' command for a family."""
    return Script.SDXL if facts.script == PROGRAMS[Script.SDXL] else Script.SD


def family_asked_for(script: str, *, v2: bool) -> FamilyFacts:
    """Return the family that a command and `--v2` name, where the model itself does not show it."""
    if script == Script.SDXL:
        return SDXL
    return SD2 if v2 else SD1
