"""What mending gives to over-trained words, and what it takes: `python benchmarks/mending.py`.

On the demo model, words are trained in ways that make them drown their prompts, and mended as
`coinage convert --adjust` does. Each is judged as in `quality.py`, by the same prompts and seeds
before and after: S is the share of pictures that show the concept, E the share that obey all else.
Differences are paired by word; their 95 % intervals are bootstrapped over the words (Efron 1979).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from coinage.config import ModelConfig
from coinage.embeddings.mending import adjusted_to
from coinage.embeddings.sphere import between
from coinage.embeddings.word import Word as LearnedWord
from coinage.models.token_embedding import initial_rows
from coinage.models.vocabulary import read_vocabularies
from quality import BOTH, FOUND, OBEYED, shown
from quality_lab import Kept, Lab, Result, Setting, Word, words_for

CONCEPTS = (
    "moon", "bolt", "checkered", "drop", "red-striped-cross", "cup", "banded", "blue-dotted-star",
    "bowtie",
)  # fmt: skip
SEEDS = 3  # each word has one of them; those of odd ones are learned from snapshots
OVERTRAINED = (
    Setting(
        "8 vectors, AdamW 5e-2",
        ("--optimizer_type=AdamW", "--learning_rate=5e-2", "--num_vectors_per_token=8"),
    ),
    Setting(
        "4 vectors, AdamW 5e-2",
        ("--optimizer_type=AdamW", "--learning_rate=5e-2", "--num_vectors_per_token=4"),
    ),
    Setting("1 vector, AdamW 1", ("--optimizer_type=AdamW", "--learning_rate=1")),
)
KEEPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
Way = Callable[[LearnedWord, str], LearnedWord]


def ways(model: ModelConfig) -> dict[str, Way]:
    """What is done to a word, by name: the word and its init word go in."""
    found: dict[str, Way] = {"as it was trained": lambda word, _: word}
    for keep in KEEPS:
        name = f"--keep {keep:g}" + (" (the length alone)" if keep == 1 else "")
        found[name] = partial(_adjusted, keep=keep, model=model)
    found["direction alone, 0.8"] = partial(_turned, keep=0.8, model=model)
    return found


def _adjusted(word: LearnedWord, init: str, keep: float, model: ModelConfig) -> LearnedWord:
    """A word as the command mends it."""
    return adjusted_to(word, init, keep, model)


def _turned(word: LearnedWord, init: str, keep: float, model: ModelConfig) -> LearnedWord:
    """A word turned to its init word, as long as it was."""
    vectors = {}
    for key, words in read_vocabularies(model).items():
        rows = word.vectors[key]
        known = initial_rows(words.table, words.tokenizer, init, len(rows))
        vectors[key] = (between(known, rows, keep) * rows.norm(dim=1, keepdim=True)).float()
    return replace(word, vectors=vectors)


def differences(
    after: Sequence[Result], before: Sequence[Result], value: Callable[[Result], float]
) -> str:
    """The mean paired difference in points of a hundred, with its interval."""
    pairs = zip(after, before, strict=True)
    return shown([100 * (value(one) - value(other)) for one, other in pairs])


def row(name: str, after: Sequence[Result], before: Sequence[Result]) -> str:
    """A line of the table."""
    cells = [f"{100 * sum(map(value, after)) / len(after):.1f}" for value in (FOUND, OBEYED, BOTH)]
    if after is not before:
        cells += [differences(after, before, value) for value in (FOUND, OBEYED, BOTH)]
    else:
        cells += ["", "", ""]
    length = sum(result.length for result in after) / len(after)
    return f"| {name} | {' | '.join(cells)} | {length:.2f} |"


def measured(lab: Lab, words: Sequence[Word], setting: Setting, steps: int) -> list[str]:
    """The table of words that were trained in one way."""
    kept = [own[steps] for own in lab.learn(words, setting, [steps])]
    lines = [
        f"\n{setting.name}, {steps} steps\n",
        "| word | S | E | (S + E) / 2 | S against before | E against before | both | length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    before: Sequence[Result] | None = None
    for name, way in ways(ModelConfig(source=str(lab.model), family=lab.family)).items():
        mended = [
            Kept(way(own.file, word.concept.init_word), own.passes)
            for word, own in zip(words, kept, strict=True)
        ]
        after = lab.judge(words, mended)
        before = before or after
        lines.append(row(name, after, before))
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--words", type=int, default=len(CONCEPTS))
    parser.add_argument("--pictures", type=int, default=24, help="of each word, each time")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    names = [setting.name for setting in OVERTRAINED]
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    words = [
        replace(word, seed=number % SEEDS)
        for number, word in enumerate(words_for(CONCEPTS[: args.words], [0]))
    ]
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(args.family, Path(folder), args.pictures)
        for setting in OVERTRAINED:
            if setting.name in args.only:
                print("\n".join(measured(lab, words, setting, args.steps)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
