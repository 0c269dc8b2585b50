"""Sentences of the user's own, which take the place of captions: files as AUTOMATIC1111 has them, too."""

from __future__ import annotations

from pathlib import Path

from coinage.data_config import CAPTION_SLOT
from coinage.errors import CoinageError, Findings
from coinage.system.text_files import MEGABYTE, read_text
from coinage.text.placeholder import word_pattern
from coinage.wording import few

FLAG = "--caption_templates"
EXAMPLE = f"write a sentence a line, such as: a photo of {{}}, {CAPTION_SLOT}"
WORD_SLOTS = ("{}", "[name]")  # ours; AUTOMATIC1111's


def read_templates(path: Path, token: str | None, findings: Findings) -> tuple[str, ...] | None:
    """Return the sentences of a file, one a line, with `{}` where the word stands.

    `[name]` means the same as `{}`. A line may name the word itself instead. Empty lines are left out.

    Args:
        path: of a text file, at most 1 MB.
        token: the new word; None where it is not known.
        findings: gets an error if the file cannot be read or is empty, or if a sentence lacks the word.

    Returns:
        The sentences; None after an error.
    """
    try:
        text = read_text(path, FLAG, MEGABYTE)
    except CoinageError as error:
        findings.errors += error.problems
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        findings.error(f"{FLAG}: the file holds no sentence", str(path), EXAMPLE)
        return None
    word = word_pattern([token]) if token else None
    lacking = [
        line for line in lines
        if not any(slot in line for slot in WORD_SLOTS) and not (word and word.search(line))
    ]  # fmt: skip
    if lacking:
        shown = few([repr(line) for line in lacking])
        findings.error(f"{FLAG}: the word has no place in {shown}", str(path), EXAMPLE)
        return None
    return tuple(line.replace(WORD_SLOTS[1], WORD_SLOTS[0]) for line in lines)
