"""What a translated page must share with the English one; each rule tells where they differ."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

from tests.pages import FENCE, Block

HEADING = re.compile(r"^(#{1,6}) ", re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"(?<![A-Za-z_\d])\d+(?:,\d{3})*(?:\.\d+)*(?:e-?\d+)?", re.ASCII)
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
# Browsers show a space there, which Japanese has not
BROKEN = re.compile(
    r"(?<=[\u3001-\u30ff\u4e00-\u9fff（）])[ ]*\n[ ]*(?=[\u3001-\u30ff\u4e00-\u9fff（）])"
)
# Where a plain number stands for a word of these, as in 2 枚 for both; 1 may stand anywhere: 1 つの
WORDS = {
    "2": "two|both|twice|second|double|pair|half|halves|either|other",
    "3": "three|third|thirds",
    "4": "four|fourth|quarter|quarters",
    "5": "five|fifth", "6": "six|sixth", "7": "seven|seventh", "8": "eight|eighth|august",
    "9": "nine|ninth", "10": "ten|tenth|tens", "11": "eleven", "12": "twelve|dozen",
    "15": "fifteen", "16": "sixteen", "20": "twenty|twentieth", "30": "thirty", "40": "forty",
    "50": "fifty|half", "60": "sixty", "63": "sixty-three",
    "100": "hundred|hundreds|million", "1000": "thousand|thousands", "10000": "million",
    "1000000": "million",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """What stands from one heading to the next; its fenced blocks are one line each."""

    text: str

    @cached_property
    def level(self) -> int:
        found = HEADING.match(self.text)
        return len(found[1]) if found else 0

    @cached_property
    def parts(self) -> list[str]:
        """What its paragraphs are: text, a list or a table with its number of rows, a block."""
        return [kind_of(part) for part in re.split(r"\n\s*\n", self.text.strip()) if part]

    @cached_property
    def targets(self) -> Counter[str]:
        return Counter(mark + target for mark, _, target in LINK.findall(self.text))

    @cached_property
    def prose(self) -> str:
        """The text without code, addresses and HTML."""
        text = CODE.sub("", LINK.sub(r"\2", self.text))
        return re.sub(r"<[^>]*>|https?://\S+", "", text)

    @cached_property
    def code(self) -> set[str]:
        return {" ".join(found.split()) for found in CODE.findall(LINK.sub(r"\2", self.text))}

    @cached_property
    def figures(self) -> Counter[str]:
        return Counter(found.replace(",", "") for found in FIGURE.findall(self.prose))

    @cached_property
    def words(self) -> set[str]:
        return set(re.findall(r"[a-z]+(?:-[a-z]+)*", self.prose.lower().replace("-", " ")))


def kind_of(part: str) -> str:
    if part.startswith("|"):
        return f"a table of {part.count(chr(10)) + 1} rows"
    if re.match(r"- |\d+\. ", part):
        return f"a list of {len(re.findall(r'^(?:- |[0-9]+[.] )', part, re.MULTILINE))}"
    return "a block" if part == "~~~" else "text"


def sections_of(text: str) -> list[Section]:
    text = FENCE.sub("~~~", text)
    starts = [0, *(found.start() for found in HEADING.finditer(text))]
    parts = [text[start:end] for start, end in zip_longest(starts, starts[1:])]
    return [Section(part) for part in parts if part.strip()]


def blocks_in(text: str) -> list[Block]:
    return [Block(*found).without_comments for found in FENCE.findall(text)]


def figures_apart(english: Section, other: Section) -> list[str]:
    """Figures that one of them lacks; those that English writes as a word are not meant."""
    named = {"1", *(n for n, words in WORDS.items() if english.words & set(words.split("|")))}
    lost = english.figures - other.figures
    added = {figure for figure in other.figures - english.figures if figure not in named}
    return sorted({*lost, *added})


def section_faults(english: Section, other: Section) -> list[str]:
    """The rules that a section breaks, in words."""
    faults = []
    if english.parts != other.parts:
        faults.append(f"parts: {', '.join(english.parts)} became {', '.join(other.parts)}")
    if english.targets != other.targets:
        apart = (english.targets - other.targets) + (other.targets - english.targets)
        faults.append(f"links: {', '.join(sorted(apart))}")
    if english.code != other.code:
        faults.append(f"code: {', '.join(sorted(english.code ^ other.code))}")
    if figures := figures_apart(english, other):
        faults.append(f"figures: {', '.join(figures)}")
    if broken := BROKEN.search(other.text):
        line = other.text[: broken.start()].splitlines()[-1]
        faults.append(f"line break: a paragraph is one line: {line[-20:]}")
    if english.words and not JAPANESE.search(other.prose):
        faults.append("language: not translated")
    return faults


def faults_of(english: str, other: str) -> list[str]:
    """What is wrong with a translated page, each with the heading where it is."""
    if blocks_in(english) != blocks_in(other):
        pairs = zip_longest(blocks_in(english), blocks_in(other))
        number = next(n for n, (one, two) in enumerate(pairs, 1) if one != two)
        return [f"blocks: number {number} differs"]
    pages = [sections_of(english), sections_of(other)]
    levels = [[section.level for section in page] for page in pages]
    if levels[0] != levels[1]:
        return [f"headings: levels {levels[0]} became {levels[1]}"]
    return [
        f"{two.text.splitlines()[0]}: {fault}"
        for one, two in zip(*pages, strict=True)
        for fault in section_faults(one, two)
    ]
