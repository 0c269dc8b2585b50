"""Write docs/compared.md from docs/compared.toml, or check that it is current (`--check`)."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
DATA, PAGE = DOCS / "compared.toml", DOCS / "compared.md"
MARKS = {"yes": "✓", "part": "(✓)", "no": "–"}
INTRO = """\
# Compared with other trainers

What Coinage and five other trainers of embeddings offer, as their code says it. The mark of each entry
leads to the file that it was read in, at the version named here. The other programs were read for this
page, not run. Time and memory side by side are in [Benchmarks](benchmarks.md#compared-with-other-trainers),
how good the words are in [How good words are](quality.md).

✓ stands for all of it, (✓) for a part, – for nothing of the kind among a program's options. Bold is what
another program does better. Where one has something that Coinage has not, Coinage's column says why.
"""
END = """
## Keep this page current

The page is written from `docs/compared.toml` by `make format`. With a newer copy of a trainer,
`tools/peer_changes.py` tells which options are new or gone since the version above, and which files
of this page are no longer there. It runs nothing that is in the copy.

```bash
python tools/peer_changes.py onetrainer path/to/OneTrainer
```
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A trainer that Coinage is compared with, as `[[peers]]` describes it.

    Attributes:
        key: its name in the rows.
        name: its name for readers.
        repository: owner/name on GitHub.
        version: tag or branch.
        commit: whose files were read.
        date: of the commit, ISO.
    """

    key: str
    name: str
    repository: str
    version: str
    commit: str
    date: str

    def address(self, path: str = "") -> str:
        """Return where a file, or all of them, can be read at this commit."""
        kind = "blob" if "." in path.rpartition("/")[2] else "tree"
        return f"https://github.com/{self.repository}/{kind}/{self.commit}/{path}".rstrip("/")


def peers_of(data: Mapping[str, Any]) -> list[Peer]:
    keys = Peer.__dataclass_fields__
    return [Peer(**{key: str(row[key]) for key in keys}) for row in data["peers"]]


def rows_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for section in data["sections"] for row in section["rows"]]


def mistakes(data: Mapping[str, Any], docs: Path = DOCS) -> list[str]:
    """Return what is wrong in the table: a cell without a source, a gap without a reason."""
    keys = [peer.key for peer in peers_of(data)]
    found = []
    for row in rows_of(data):
        cells = {key: row[key] for key in ("coinage", *keys) if key in row}
        wrong = [f"unknown key {key}" for key in row.keys() - {*cells, "feature", "better"}]
        wrong += [f"{key}: not a mark, a text and files" for key in cells if not _is_cell(row[key])]
        if wrong or "coinage" not in cells:
            found += [f"{row['feature']}: {what}" for what in wrong or ["no cell for coinage"]]
            continue
        ours, text, *pages = cells.pop("coinage")
        wrong += [f"{key} has no source" for key, cell in cells.items() if len(cell) < 3]
        wrong += [f"no page {page}" for page in pages if not (docs / page).is_file()]
        if ours != "yes" and not text and any(cell[0] != "no" for cell in cells.values()):
            wrong.append("others have it, and our cell does not say why we have not")
        better = row.get("better", [])
        wrong += [f"{key} is better without a cell" for key in better if key not in cells]
        if better and ours == "yes" and not text:
            wrong.append("others are better, and our cell does not say why")
        found += [f"{row['feature']}: {what}" for what in wrong]
    return found


def _is_cell(cell: object) -> bool:
    is_list = isinstance(cell, list) and all(isinstance(part, str) for part in cell)
    return is_list and len(cell) >= 2 and cell[0] in MARKS  # type: ignore[arg-type,index]


def cell_text(cell: Sequence[str], name: Callable[[str], str]) -> str:
    """Return a cell as Markdown; its mark leads to its first source, numbers to the others.

    Args:
        cell: mark, text, sources.
        name: the name of a source among the page's link definitions.
    """
    mark, text, *sources = cell
    signs = [MARKS[mark], *(str(number) for number in range(2, len(sources) + 1))]
    links = [f"[{sign}][{name(path)}]" for sign, path in zip(signs, sources, strict=False)]
    return " ".join(filter(None, [*(links[:1] or signs[:1]), _in_cell(text), *links[1:]]))


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")  # a bar would end the cell


def row_text(row: Mapping[str, Any], peers: Sequence[Peer]) -> str:
    cells = [_in_cell(row["feature"]), cell_text(row["coinage"], str)]
    for peer in peers:
        text = cell_text(row.get(peer.key, ["no", ""]), partial(source_name, peer))
        cells.append(f"**{text}**" if peer.key in row.get("better", []) else text)
    return "| " + " | ".join(cells) + " |"


def source_name(peer: Peer, path: str) -> str:
    return f"{peer.key}/{path}"


def definitions(data: Mapping[str, Any], peers: Sequence[Peer]) -> list[str]:
    """Return the link definitions of all sources, each once."""
    rows = rows_of(data)
    pages = {page for row in rows for page in row["coinage"][2:]}
    lines = [f'[{page}]: {page} "{page}"' for page in sorted(pages)]
    for peer in peers:
        paths = {path for row in rows for path in row.get(peer.key, [])[2:]}
        for path in sorted(paths):
            lines.append(f'[{source_name(peer, path)}]: {peer.address(path)} "{path}"')
    return lines


def page_text(data: Mapping[str, Any]) -> str:
    peers = peers_of(data)
    parts = [INTRO, "| program | version | commit | date |", "|---|---|---|---|"]
    for peer in peers:
        commit = f"[`{peer.commit[:8]}`]({peer.address()})"
        parts.append(f"| {peer.name} | {peer.version} | {commit} | {peer.date} |")
    parts += ["", *better_text(data, peers), '\n<div class="compared" markdown>']
    head = "| | Coinage | " + " | ".join(peer.name for peer in peers) + " |"
    for section in data["sections"]:
        parts += [f"\n## {section['name']}\n", head, "|---" * (len(peers) + 2) + "|"]
        parts += [row_text(row, peers) for row in section["rows"]]
    return "\n".join([*parts, "\n</div>", END, *definitions(data, peers)]) + "\n"


def better_text(data: Mapping[str, Any], peers: Sequence[Peer]) -> list[str]:
    """Return a list of what each of the others does better."""
    lines = ["## Where another program is better\n"]
    for peer in peers:
        names = [row["feature"] for row in rows_of(data) if peer.key in row.get("better", [])]
        if names:
            lines.append(f"- **{peer.name}**: {'; '.join(names)}.")
    return lines


def main() -> int:
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))
    if found := mistakes(data):
        print("docs/compared.toml:", *found, sep="\n  ", file=sys.stderr)
        return 1
    if "--check" in sys.argv:
        current = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
        if current != page_text(data):
            print("docs/compared.md is not current: run make format", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page_text(data), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
