"""Reading the pages of the documentation: their blocks, and where each page's translation lies."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(?:^|[ \t]+)#(?:[ \t].*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page: its language, its file name if it has one, and its text."""

    language: str
    title: str
    text: str

    @property
    def without_comments(self) -> "Block":
        """The block that a translation must have: only comments may be in another language."""
        return Block(self.language, self.title, COMMENT.sub("", self.text))


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def is_translation(page: Path) -> bool:
    return page.name.endswith(".ja.md")


def english_of(page: Path) -> Path:
    return page.with_name(page.name.replace(".ja.md", ".md"))


def own_blocks_of(page: Path) -> list[Block]:
    """The blocks that have to be run: of a translation, those that the English page has not."""
    if not is_translation(page):
        return blocks_of(page)
    english = [block.without_comments for block in blocks_of(english_of(page))]
    return [block for block in blocks_of(page) if block.without_comments not in english]
