"""The commands that train, and which families each is for. Imports no torch."""

from __future__ import annotations

from enum import StrEnum

from coinage.models.facts import SD1, SD2, SDXL, FamilyFacts


class Script(StrEnum):
    """Whose flags and defaults are meant: those of a script of sd-scripts, or of `coinage train`."""

    SD = "sd"
    SDXL = "sdxl"
    COINAGE = "coinage"  # which detects the family

    @property
    def program(self) -> str:
        """What is typed to start it."""
        names = {
            Script.SD: SD1.script,
            Script.SDXL: SDXL.script,
            Script.COINAGE: "coinage train",
        }
        return names[self]


def script_for(facts: FamilyFacts) -> Script:
    """Return sd-scripts' command for a family; `coinage train` where it has none."""
    if facts.script == Script.COINAGE.program:
        return Script.COINAGE
    return Script.SDXL if facts.script == Script.SDXL.program else Script.SD


def asked_family(script: Script, *, v2: bool) -> FamilyFacts | None:
    """Return the family that a command and `--v2` name; None for `coinage train`, which detects it."""
    if script == Script.SDXL:
        return SDXL
    if v2:
        return SD2
    return None if script == Script.COINAGE else SD1
