"""Check the file of `--weights` before the model is loaded."""

from __future__ import annotations

from dataclasses import replace

from coinage.checks.plan import Draft
from coinage.config import ModelConfig, WordConfig
from coinage.embeddings.install import misfit, read_vectors
from coinage.errors import CoinageError, Problem
from coinage.models.text_encoder_sizes import text_encoder_sizes


def check_word_file(draft: Draft) -> None:
    """Find a file of `--weights` that does not fit the model."""
    config = draft.config
    for word in (config.word, *config.companions):
        draft.findings.errors += weights_problems(word, config.model)


def weights_problems(word: WordConfig, model: ModelConfig) -> list[Problem]:
    """Find out whether a word's file fits the model: the number, widths and values of its vectors."""
    path = str(word.init_file)
    try:
        given = read_vectors(word)
    except CoinageError as error:
        return [replace(problem, what=f"--weights: {problem.what}") for problem in error.problems]
    if not given:
        return []
    sizes = text_encoder_sizes(model)
    widths = [size.width for size in sizes if size.width]
    wrong = None
    if len(widths) == len(sizes):
        wrong = misfit(given, [size.key for size in sizes], widths, path)
    if wrong:
        return [replace(wrong, what=f"--weights: {wrong.what}")]
    if not all(rows.isfinite().all() for rows in given.values()):
        what = "--weights: the file holds numbers that are not finite"
        return [Problem(what, path, "give another file")]
    if not any(rows.any() for rows in given.values()):
        what = "--weights: the file holds only zeros"
        return [Problem(what, path, "give another file, or --init_word")]
    return []
