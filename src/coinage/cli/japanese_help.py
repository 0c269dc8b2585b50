"""The help of a parser in Japanese; imported only when it is shown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from rich.cells import cell_len

from coinage.settings.help_texts import japanese
from coinage.terminal.wrapping import wrapped

ENGLISH_USAGE = "usage: "


class JapaneseFormatter(argparse.HelpFormatter):
    """argparse's layout, with Japanese texts, broken by their width."""

    def _expand_help(self, action: argparse.Action) -> str:
        return japanese().text(super()._expand_help(action))

    def start_section(self, heading: str | None) -> None:
        """Begin a group of flags, with its title in Japanese."""
        super().start_section(heading and japanese().group(heading))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Translate a description, or the lines of an epilog, whose breaks stay."""
        if "\n" in text:
            lines = [japanese().line(line) for line in text.splitlines()]
        else:
            lines = wrapped(japanese().text(text), width - len(indent))
        return "\n".join(f"{indent}{line}".rstrip() for line in lines)

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None,  # noqa: ARG002 - the base class passes it
    ) -> str:
        """Write the usage with a Japanese title, and further lines below the first one's text."""
        texts = japanese()
        title = f"{texts.group('usage')}: "
        columns = cell_len(title)
        if usage:
            usage = usage.replace("\n" + " " * len(ENGLISH_USAGE), "\n" + " " * columns)
            usage = usage.replace("[flags]", f"[{texts.group('flags')}]")
        place = ENGLISH_USAGE.ljust(columns)
        text = super()._format_usage(usage, actions, groups, place)
        return text.replace(place, title, 1)


def japanese_help(parser: argparse.ArgumentParser) -> str:
    """Return the help of a parser in Japanese."""
    english, parser.formatter_class = parser.formatter_class, JapaneseFormatter
    try:
        return parser.format_help()
    finally:
        parser.formatter_class = english
