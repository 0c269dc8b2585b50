"""The values of all flags, as one object. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from coinage.errors import Findings
from coinage.settings.flags import SECRETS, flags_of
from coinage.settings.scripts import Script

# Flags about a settings file itself, which are never written into one
ABOUT_THE_FILE = ("config_file", "output_config")


class FlagValues(SimpleNamespace):
    """The value of every flag of a script, as an attribute named like the flag without dashes.

    Nothing in it is changed once it is made: `changed` returns another one.

    Attributes:
        script: whose flags and defaults these are.
        remarks: warnings and notes about the settings file that the values come from.
        words: where a settings file has `[[words]]` tables, the values of each word.
        typed: names of the flags that the command line has.
    """

    script: Script
    remarks: Findings
    words: tuple[WordValues, ...]
    typed: tuple[str, ...]

    def changed(self, **values: Any) -> FlagValues:
        """Return the same values but for those given."""
        return FlagValues(**{**vars(self), **values})

    def given(self) -> dict[str, Any]:
        """Return the values that differ from the script's defaults, by flag name, without secrets."""
        given = {}
        for flag in flags_of(self.script):
            value = getattr(self, flag.dest)
            if value != flag.default and flag.dest not in (*SECRETS, *ABOUT_THE_FILE):
                given[flag.dest] = value
        return given


@dataclass(frozen=True, slots=True)
class WordValues:
    """The values of one `[[words]]` table.

    Attributes:
        label: what the table is called in messages.
        values: of all flags, for this word.
    """

    label: str
    values: FlagValues


def make_values(
    script: Script, values: Mapping[str, Any], remarks: Findings | None = None
) -> FlagValues:
    """Return the values of all flags of a script: those given, and defaults for the others."""
    defaults = {flag.dest: flag.default for flag in flags_of(script)}
    return FlagValues(
        **{**defaults, **values}, script=script, remarks=remarks or Findings(), words=(), typed=()
    )
