"""Check the file to use at the end of a run in every tool, and log how to use it."""

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
    """Verify the file to use, and log where it works and how to use it; a failing check only warns.

    Returns:
        The file, and how it does in each tool.
    """
    path = file_to_use(run)
    word = _rounded(run, path)
    try:
        with run.autocast():
            checks = verify(path, run.family, run.parts, word, run.placeholder.token)
    except Exception as error:  # noqa: BLE001 - the file is written and read back; that is what counts
        log.warning("%s could not be checked in other tools: %s", path.name, reason_of(error))
        return path, []
    negative = run.config.word.role == "negative"
    how = run.word_index == 0 or negative  # the other words go the same way
    tell(path, run.family.name, checks, run.placeholder.token, how=how, negative=negative)
    return path, checks


def _rounded(run: Run, path: Path) -> Word:
    """Return the word of a file of the run as it was trained, rounded as the file has it."""
    best = run.results.best
    rows = best.rows if best and path != run.config.output_file else run.rows_to_save()
    dtype = DTYPES[run.config.save.precision]
    vectors = {}
    for key, values in zip(run.family.embedding_keys, rows, strict=True):
        vectors[key] = values.to(dtype).float()
    return Word(vectors, run.placeholder.token)


def tell(
    path: Path,
    family: str,
    checks: list[Check],
    token: str,
    *,
    how: bool = True,
    negative: bool = False,
) -> None:
    """Log where a file works, where not and why, and how to use it."""
    compared = [check for check in checks if check.tool in COMPARED]
    good = [check.tool for check in compared if check.same]
    if good:
        log.info("works in %s (prompts encode exactly as in training)", ", ".join(good))
    for check in compared:
        why = f": {check.why}" if check.why else ""
        if not check.loads:
            log.info("note: does not work in %s%s", check.tool, why)
        elif check.untried:
            log.warning("%s could not be checked in %s%s", path.name, check.tool, why)
        elif not check.same:
            what = "in %s this word gives different results (by %.1e)%s"
            log.warning(what, check.tool, check.difference, why)
    if how:
        for line in usage(path, family, checks, token, negative=negative):
            log.info("  %s", line)
