"""Write docs/reference/flags.md and flags.ja.md from the flag table, or `--check` that they are current."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from coinage.settings.flags import FLAGS, Flag
from coinage.settings.help_texts import japanese

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
INTRO = """\
# Flags

All flags of `train_textual_inversion.py`, `sdxl_train_textual_inversion.py` and `coinage train`.
Names, types and defaults are those of kohya-ss/sd-scripts; `coinage train` has other defaults
for some of them ([Commands](commands.md#train)). The same names, without dashes, are the keys of settings
files and of `TrainConfig.from_mapping`.

`--help` shows them on the terminal, `--help --lang ja` in Japanese; without `--lang` the language is
that of `LANG` ([Commands](commands.md#language-of-the-help)).

A *switch* takes no value. A *ratio* is a number of steps, a fraction of the run below 1, or a
percentage. A *list* takes several values.

<div class="flags" markdown>
"""
# A paragraph is one line: a browser shows a space where a line ends
INTRO_JA = """\
# オプション

`train_textual_inversion.py`、`sdxl_train_textual_inversion.py`、`coinage train` のすべての\
オプションです。名前、型、既定値は kohya-ss/sd-scripts と同じです。`coinage train` では一部の\
既定値が異なります（[コマンド](commands.md#train)）。先頭のハイフンを除いた同じ名前が、\
設定ファイルと `TrainConfig.from_mapping` のキーになります。

`--help` でターミナルに表示でき、`--help --lang ja` なら日本語になります。`--lang` がなければ \
`LANG` の言語で表示します（[コマンド](commands.md#language-of-the-help)）。

*switch* は値を取りません。*ratio* はステップ数、1 未満の値（学習全体に対する割合）、または\
パーセントです。*list* は複数の値を取ります。

<div class="flags" markdown>
"""


@dataclass(frozen=True, slots=True)
class Page:
    """What the flag table is written around in one language.

    Attributes:
        file: name of the page.
        intro: its text before the first table.
        head: the names of the columns.
        sdxl_only: said of flags that only the SDXL script has.
    """

    file: str
    intro: str
    head: str
    sdxl_only: str

    @property
    def in_japanese(self) -> bool:
        return self.file.endswith(".ja.md")

    def row(self, flag: Flag) -> str:
        default = f"`{flag.shown_default}`" if flag.shown_default else ""
        kind = " ".join(f"`{c}`" for c in flag.choices) or flag.kind
        parts = [japanese().text(flag.help) if self.in_japanese else flag.help]
        if flag.note:
            parts.append(f"*{self.note(flag.note)}*")
        if flag.sdxl_only:
            parts.append(self.sdxl_only)
        # A bar would end the cell, and two stars would slant what is between them
        stars = parts[0].replace("*", "\\*")
        meaning = " ".join([stars, *parts[1:]]).replace("|", "\\|")
        return f"| `{flag.name}` | {kind} | {default} | {meaning} |"

    def note(self, text: str) -> str:
        """Return a note as a sentence."""
        if self.in_japanese:
            return f"{japanese().note(text)}。"
        return f"{text[0].upper()}{text[1:]}."

    def text(self) -> str:
        parts = [self.intro]
        for group, flags in groupby(FLAGS, key=lambda flag: flag.group):
            title = japanese().group(group) if self.in_japanese else group[0].upper() + group[1:]
            parts.append(f"\n## {title}\n\n| {self.head} |\n|---|---|---|---|")
            parts += [self.row(flag) for flag in flags]
        parts.append("\n</div>")
        return "\n".join(parts) + "\n"


PAGES = (
    Page("flags.md", INTRO, "flag | type | default | meaning", "SDXL only."),
    Page("flags.ja.md", INTRO_JA, "オプション | 型 | 既定値 | 意味", "SDXL のみ。"),
)


def main() -> int:
    for page in PAGES:
        path = FOLDER / page.file
        if "--check" not in sys.argv:
            path.write_text(page.text(), encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != page.text():
            print(f"docs/reference/{page.file} is not current: run make format", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
