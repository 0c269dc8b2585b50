"""What the help of flags and commands says in Japanese. Imports no torch.

`locales/ja.json` holds each text beside its English one, so a text that is changed in English loses its
translation, and a test names it. The file is read only when something is shown in Japanese.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coinage.settings.flags import Flag
from coinage.system.text_files import read_json

LOCALES = Path(__file__).parent / "locales"
# `What it is. Default: 75. (and what it does not do)`
PARTS = re.compile(
    r"(?P<what>.*?)(?: Default: (?P<default>.*?)\.)?(?:(?<=\.) \((?P<note>.+)\))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class HelpTexts:
    """English texts of the help, and what they are in another language.

    A text that is not there is given back as it is, such as a number.

    Attributes:
        groups: titles of groups of flags, and of the parts of a help page.
        texts: what flags and commands do.
        defaults: what a flag is where it is not given, as far as it is no plain value.
        notes: what a flag does not do.
    """

    groups: Mapping[str, str]
    texts: Mapping[str, str]
    defaults: Mapping[str, str]
    notes: Mapping[str, str]

    def group(self, title: str) -> str:
        """Translate the title of a group."""
        return self.groups.get(title, title)

    def note(self, text: str) -> str:
        """Translate what a flag does not do."""
        return self.notes.get(text, text)

    def text(self, text: str) -> str:
        """Translate the help of a flag: what it does, its default and its note."""
        found = PARTS.fullmatch(text)
        if text in self.texts or not found:
            return self.texts.get(text, text)
        parts = [self.texts.get(found["what"], found["what"])]
        if default := found["default"]:
            parts.append(f"既定値: {self.defaults.get(default, default)}。")
        if note := found["note"]:
            parts.append(f"（{self.note(note)}）")
        return "".join(parts)

    def line(self, line: str) -> str:
        """Translate a line of examples or commands; what is typed stays as it is."""
        typed, rest = re.fullmatch(r"( *)(.*)", line).groups()  # type: ignore[union-attr]
        if rest not in self.texts and (command := re.match(r"\w+ +", rest)):
            typed, rest = typed + command.group(), rest[command.end() :]
        return f"{typed}{self.texts[rest]}" if rest in self.texts else line


@cache
def japanese() -> HelpTexts:
    """Return the Japanese texts."""
    return HelpTexts(**read_json(LOCALES / "ja.json"))


def help_in(language: str, flag: Flag) -> str:
    """Return what a flag does and does not do, in `en` or `ja`; its default is left to the caller."""
    text = f"{flag.help} ({flag.note})" if flag.note else flag.help
    return japanese().text(text) if language == "ja" else text
