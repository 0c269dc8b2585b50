"""Words beside a word: those that stay as they are, and those that learn with it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coinage.config import TrainConfig, WordConfig
from coinage.errors import CoinageError, Findings, Problem
from coinage.settings.flag_values import WordValues
from coinage.settings.word_tables import stays

OPEN = 0  # vectors of a companion whose file has not been looked into


def companions_apart(
    words: Sequence[WordValues],
) -> tuple[list[WordValues], tuple[WordConfig, ...], list[Problem]]:
    """Return the words that learn, those that stay as they are, and what is wrong with the latter.

    A word without others learns; whether it may is for its own configuration to say.
    """
    if len(words) == 1:
        return list(words), (), []
    learning = [word for word in words if not stays(vars(word.values))]
    companions, problems = [], []
    for word in words:
        if word in learning:
            continue
        token, file = word.values.token_string, word.values.weights
        if not token:
            hint = "give the word as captions write it"
            problems.append(Problem("--token_string is missing", word.label, hint))
        if not file:
            hint = "give the embedding file of the word that stays as it is"
            problems.append(Problem("--weights is missing", word.label, hint))
        if token and file:
            companions.append(WordConfig(token=token, num_vectors=OPEN, init_file=Path(file)))
    if not learning:
        hint = "leave out train = false in the table of the word to train"
        problems.append(Problem("no word learns", words[0].label, hint))
    return learning, tuple(companions), problems


def with_others(
    configs: Sequence[TrainConfig], companions: Sequence[WordConfig] = ()
) -> list[TrainConfig]:
    """Return configurations that name the words beside their own.

    Args:
        configs: of all words that train side by side.
        companions: added to those that they have.
    """
    known = dict.fromkeys(companion for config in configs for companion in config.companions)
    beside = tuple(dict.fromkeys([*known, *companions]))
    joined = []
    for config in configs:
        others = [o.word for o in configs if o is not config and o.word.together]
        learns_with = tuple(others) if config.word.together else ()
        joined.append(replace(config, companions=beside, learns_with=learns_with))
    return joined


def with_lengths(config: TrainConfig, findings: Findings) -> TrainConfig:
    """Return a configuration whose companions have as many vectors as their files.

    Args:
        config: of a run.
        findings: gets an error for each file that cannot be used.
    """
    companions = [_with_length(word, findings) for word in config.companions]
    return replace(config, companions=tuple(companions))


def _with_length(companion: WordConfig, findings: Findings) -> WordConfig:
    """Return a companion with the number of its file's vectors; 1 where they cannot be counted."""
    if companion.num_vectors != OPEN or companion.init_file is None:
        return companion
    from coinage.embeddings.pairs import open_with_other_half

    try:
        file = open_with_other_half(companion.init_file, companion.token).usable_word()
    except CoinageError as error:
        for problem in error.problems:
            findings.errors.append(replace(problem, what=f"--weights: {problem.what}"))
        return replace(companion, num_vectors=1)
    return replace(companion, num_vectors=file.num_vectors)
