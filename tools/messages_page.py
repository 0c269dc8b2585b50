"""Write docs/reference/messages.md and .ja.md from messages.toml, or `--check` that they are current."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
DATA = FOLDER / "messages.toml"
PAGES = {"en": FOLDER / "messages.md", "ja": FOLDER / "messages.ja.md"}
KINDS = ("text", "check", "code")  # what an entry is about, one of these
INTRO = {
    "en": """\
# Messages

What messages say, mean, and ask you to do. They are printed in English; search this page for a part of
yours. A … stands for what differs from case to case: names, numbers, files.

Before a message stands how serious it is. An *error* ends the command. A *warning* is probably a
mistake, and the run goes on. A *note* is only to be known. Below it, `-->` names the place, and `hint`
what to do.

Something else? [Troubleshooting](../guides/troubleshooting.md) goes by subject, and
[`coinage doctor`](commands.md#examine-a-machine) examines this machine.
""",
    # A paragraph is one line: a browser shows a space where a line ends
    "ja": """\
# メッセージ

メッセージの意味と対処を説明します。メッセージは英語で表示されるので、その一部をこのページで検索して\
ください。… は名前、数、ファイルなど、場合によって変わる部分です。

メッセージの前には重要度が付きます。*error*（エラー）ではコマンドが終了します。*warning*（警告）は\
おそらく間違いですが、学習は続きます。*note*（注記）は知っておくとよいことです。その下の `-->` は場所を、\
`hint` は対処を示します。

見つからないときは、[困ったときは](../guides/troubleshooting.md)に話題ごとの説明があります。\
[`coinage doctor`](commands.md#examine-a-machine) はこのマシンを調べます。
""",
}


def entry_text(entry: Mapping[str, str], language: str) -> str:
    """Return an entry as an item of a list."""
    (about,) = (entry[kind] for kind in KINDS if kind in entry)
    quoted = f"`{about}`"
    if "`" in about:  # which would end it
        quoted = f"<code>{about.replace('`', '&#96;')}</code>"
    return f"- {quoted}<br>{entry[language]}"


def page(data: Mapping[str, Any], language: str) -> str:
    """Return the page in one language."""
    parts = [INTRO[language]]
    for group in data["groups"]:
        parts.append(f"## {group[language]}\n")
        if intro := group.get(f"intro_{language}"):
            parts.append(f"{intro}\n")
        entries = [entry_text(entry, language) for entry in group["messages"]]
        parts.append("\n".join(entries) + "\n")
    return "\n".join(parts)


def main() -> int:
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))
    for language, path in PAGES.items():
        text = page(data, language)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"docs/reference/{path.name} is not current: run make format", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
