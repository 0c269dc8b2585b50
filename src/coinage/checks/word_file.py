"""Check the file of `--weights` before the model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from coinage.checks.plan import Draft
from coinage.config import ModelConfig, WordConfig
from coinage.embeddings.base_model import base_of_model, other_base
from coinage.embeddings.install import misfit, read_vectors
from coinage.embeddings.pairs import open_with_other_half
from coinage.errors import CoinageError, Problem
from coinage.models.text_encoder_sizes import text_encoder_sizes


def check_word_file(draft: Draft) -> None:
    """Find a file of `--weights` that does not fit the model."""
    config = draft.config
    for word in (config.word, *config.companions):
        problems = weights_problems(word, config.model)
        draft.findings.errors += problems
        if not problems and word.init_file is not None:
            _warn_of_other_base(draft, word)


def _warn_of_other_base(draft: Draft, word: WordConfig) -> None:
    """Find a word that was trained on another model than this run's."""
    path = str(word.init_file)
    metadata = open_with_other_half(Path(path), word.token).word.metadata
    if warning := other_base(path, metadata, base_of_model(draft.config.model)):
        draft.findings.warn(f"--weights: {warning}")


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
