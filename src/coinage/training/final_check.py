"""What a run ends with: the file to use, checked in every tool, and how to use it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.embeddings.verify import COMPARED, Check, usage, verify
from coinage.embeddings.word import Word
from coinage.embeddings.writing import DTYPES
from coinage.errors import reason_of
from coinage.training.observers.saver import file_to_use

if TYPE_CHECKING:
    from coinage.training.run import Run

log = logging.getLogger("coinage")


def check_and_tell(run: Run) -> tuple[Path, list[Check]]:
    """Verify the file to use, and tell what it does where; a check that fails costs nothing but its line.

    Returns:
        The file, and how it does in each tool.
    """
    path = file_to_use(run)
    rows = run.rows_to_save() if path == run.config.output_file or not run.best else run.best.rows
    dtype = DTYPES[run.config.save.precision]
    vectors = {
        key: own.to(dtype).float() for key, own in zip(run.family.embedding_keys, rows, strict=True)
    }
    rounded = Word(vectors, run.placeholder.token)
    try:
        with run.autocast():
            checks = verify(path, run.family, run.parts, rounded, run.placeholder.token)
    except Exception as error:  # noqa: BLE001 - the file is written and read back; that is what counts
        log.warning("%s could not be checked in other tools: %s", path.name, reason_of(error))
        return path, []
    negative = run.config.word.role == "negative"
    how = run.place == 0 or negative  # the other words go the same way
    tell(path, run.family.name, checks, run.placeholder.token, how=how, negative=negative)
    return path, checks


def tell(
    path: Path,
    family: str,
    checks: list[Check],
    token: str,
    *,
    how: bool = True,
    negative: bool = False,
) -> None:
    """Say where a file works, where not and why, and how to use it."""
    told = [check for check in checks if check.tool in COMPARED]
    good = [check.tool for check in told if check.same]
    if good:
        log.info("works in %s (prompts encode exactly as in training)", ", ".join(good))
    for check in told:
        why = f": {check.why}" if check.why else ""
        if not check.loads:
            log.info("note: does not work in %s%s", check.tool, why)
        elif check.untried:
            log.warning("%s could not be checked in %s%s", path.name, check.tool, why)
        elif not check.same:
            log.warning(
                "in %s this word gives different results (by %.1e)%s",
                check.tool,
                check.difference,
                why,
            )
    if how:
        for line in usage(path, family, checks, token, negative=negative):
            log.info("  %s", line)
