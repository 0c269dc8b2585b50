"""Write docs/reference/flags.md from the flag table, or check that it is current (`--check`)."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from coinage.settings.flags import FLAGS, Flag

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "flags.md"
INTRO = """\
# Flags

All flags of `train_textual_inversion.py`, `sdxl_train_textual_inversion.py` and `coinage train`.
Names, types and defaults are those of kohya-ss/sd-scripts; `coinage train` has other defaults
for some of them ([Commands](commands.md#train)). The same names, without dashes, are the keys of settings
files and of `TrainConfig.from_mapping`.

A *switch* takes no value. A *ratio* is a number of steps, a fraction of the run below 1, or a
percentage. A *list* takes several values.

<div class="flags" markdown>
"""


def row(flag: Flag) -> str:
    default = f"`{flag.shown_default}`" if flag.shown_default else ""
    kind = " ".join(f"`{c}`" for c in flag.choices) or flag.kind
    notes = [f"*{flag.note[0].upper()}{flag.note[1:]}.*"] if flag.note else []
    notes += ["SDXL only."] if flag.sdxl_only else []
    meaning = " ".join([flag.help, *notes]).replace("|", "\\|")  # a bar would end the cell
    return f"| `{flag.name}` | {kind} | {default} | {meaning} |"


def page() -> str:
    parts = [INTRO]
    for group, flags in groupby(FLAGS, key=lambda flag: flag.group):
        parts.append(
            f"\n## {group[0].upper()}{group[1:]}\n\n| flag | type | default | meaning |\n|---|---|---|---|"
        )
        parts += [row(flag) for flag in flags]
    parts.append("\n</div>")
    return "\n".join(parts) + "\n"


def main() -> int:
    if "--check" in sys.argv:
        current = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
        if current != page():
            print("docs/reference/flags.md is not current: run make format", file=sys.stderr)
            return 1
        return 0
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
