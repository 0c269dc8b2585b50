"""Checks of the new word: its name, what it starts from, and how tools that draw will take it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from coinage.checks.plan import Draft
from coinage.config import ModelConfig, WordConfig
from coinage.embeddings.naming import naming_problems
from coinage.errors import CoinageError, Findings, Problem
from coinage.models.facts import FACTS
from coinage.models.tokenizer_files import find_tokenizer
from coinage.system.text_files import is_file, no_file
from coinage.text import init_words
from coinage.text.clip_tokenizer import ClipTokenizer, read_tokenizer
from coinage.text.placeholder import Tokenizer, pieces_of, vocabulary_problems
from coinage.text.unigram_tokenizer import read_unigram


def read_draft_tokenizer(draft: Draft) -> None:
    """Read the model's tokenizer, for the checks that follow."""
    model = draft.config.model
    draft.tokenizer = tokenizer_of(model.source, draft.findings, model.tokenizer_cache)


def check_word(draft: Draft) -> None:
    """Find a word that is not one, that the model has already, or that has nothing to start from."""
    config = draft.config
    known = draft.tokenizer.get_vocab() if draft.tokenizer else {}
    problems = word_problems(config.word, known, config.model.source)
    draft.word_is_sound = not problems
    for companion in config.companions:
        problems += word_problems(companion, known, config.model.source)
    draft.findings.errors += problems


def check_init_word(draft: Draft) -> None:
    """Find init words that the model does not know, or that have too many or too few tokens."""
    if draft.tokenizer:
        tokenizers = [draft.tokenizer, *second_tokenizer(draft.config.model)]
        init_words.check_init_word(draft.config.word, tokenizers, draft.findings)


def check_naming(draft: Draft) -> None:
    """Warn of names that tools that draw take for something else."""
    word = draft.config.word
    if draft.word_is_sound:
        draft.findings.warnings += naming_problems(
            word.token, word.output_name, word.num_vectors, draft.tokenizer
        )


def tokenizer_of(
    source: str | Path, findings: Findings, cache: Path | None = None
) -> ClipTokenizer | None:
    """Return the tokenizer of a model, without the model; or that of a folder which is given as a path."""
    try:
        if isinstance(source, Path):
            return read_tokenizer(source)
        return read_tokenizer(find_tokenizer(source, "tokenizer", cache))
    except CoinageError as error:
        findings.errors += error.problems
    return None


def second_tokenizer(model: ModelConfig) -> list[Tokenizer]:
    """Return a folder's tokenizers beside the first one, such as SDXL's; they may have other words."""
    tokenizers: list[Tokenizer] = []
    for encoder in FACTS[model.family].text_encoders[1:]:
        folder = Path(model.source) / encoder.tokenizer_folder
        if not folder.is_dir():
            continue
        is_t5 = encoder.kind == "t5"
        tokenizer = _unigram_of(folder) if is_t5 else tokenizer_of(folder, Findings())
        if tokenizer:
            tokenizers.append(tokenizer)
    return tokenizers


def _unigram_of(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of T5; None where it cannot be read, which is an error elsewhere."""
    try:
        return read_unigram(folder)
    except CoinageError:
        return None


def word_problems(word: WordConfig, vocabulary: Iterable[str], where: str) -> list[Problem]:
    """Find out whether the word is new to the model's vocabulary, and its start is there."""
    problems = []
    token = word.token
    if not token.strip() or token != token.strip() or re.search(r"\s", token):
        problems.append(
            Problem(f"--token_string {token!r} must be one word", hint="for example mychar")
        )
    if word.init_file and not is_file(word.init_file):
        problems.append(Problem(f"--weights: {no_file(word.init_file)}", str(word.init_file)))
    if word.init_word is None and word.init_file is None and not word.search:
        hint = "give --init_word with a known word close to the concept, such as girl, or --weights"
        problems.append(Problem("no start word", hint=hint))
    return problems + vocabulary_problems(pieces_of(token, word.num_vectors), vocabulary, where)
