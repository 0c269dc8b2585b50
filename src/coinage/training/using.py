"""What a run ends with: its file checked in every tool, and how to use it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.embeddings.file import DTYPES, EmbeddingFile
from coinage.errors import reason_of
from coinage.verify import COMPARED, Check, usage, verify

if TYPE_CHECKING:
    from coinage.training.setup import Run

log = logging.getLogger("coinage")


def check_and_tell(run: Run, path: Path) -> list[Check]:
    """Verify a run's file, and tell what it does where; a check that fails costs nothing but its line."""
    word = run.embedding()
    dtype = DTYPES[run.config.save.precision]
    rounded = EmbeddingFile({key: rows.to(dtype).float() for key, rows in word.vectors.items()}, word.token)
    try:
        with run.autocast():
            checks = verify(path, run.family, run.parts, rounded, run.placeholder.token)
    except Exception as error:  # noqa: BLE001 - the file is written and read back; that is what counts
        log.warning("the file could not be tried in other tools: %s", reason_of(error))
        return []
    negative = run.config.word.role == "negative"
    how = run.place == 0 or negative  # the other words go the same way
    tell(path, run.family.name, checks, run.placeholder.token, how=how, negative=negative)
    return checks


def tell(path: Path, family: str, checks: list[Check], token: str, *, how: bool = True, negative: bool = False) -> None:
    """Say where a file works, where not and why, and how to use it."""
    told = [check for check in checks if check.tool in COMPARED]
    good = [check.tool for check in told if check.same]
    if good:
        log.info("checked: the same conditioning as in training in %s", ", ".join(good))
    for check in told:
        why = f": {check.why}" if check.why else ""
        if not check.loads:
            log.info("note: not for %s%s", check.tool, why)
        elif check.untried:
            log.warning("the file could not be tried in %s%s", check.tool, why)
        elif not check.same:
            log.warning("in %s the word is something else (by %.1e)%s", check.tool, check.difference, why)
    if how:
        for line in usage(path, family, checks, token, negative=negative):
            log.info("  %s", line)
