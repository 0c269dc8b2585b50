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
from dataclasses import dataclass, replace
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
    "moon", "bolt", "checkered", "cup", "banded", "red-striped-cross", "drop", "blue-dotted-star",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A way to train too much.

    Attributes:
        name: for the table.
        setting: of the training.
        steps: of four images.
        alike: all words are learned from snapshots, alike in ground and colour; else every second.
    """

    name: str
    setting: Setting
    steps: int
    alike: bool = False

    def words(self, count: int) -> list[Word]:
        """The words to learn, each with a seed of its own; those of odd seeds have snapshots."""
        every = 2 if self.alike else 1
        return [
            replace(word, seed=every * number + 1)
            for number, word in enumerate(words_for(CONCEPTS[:count], [0]))
        ]


def _adamw(name: str, vectors: int) -> Setting:
    flags = ("--optimizer_type=AdamW", "--learning_rate=5e-2", f"--num_vectors_per_token={vectors}")
    return Setting(name, flags)


OVERTRAINED = (
    Case("too long, on pictures that are alike", _adamw("alike", 2), 150, alike=True),
    Case("too many vectors", _adamw("vectors", 8), 100),
)
KEEPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.0)  # 1 changes the length alone, 0 gives the init word
Way = Callable[[LearnedWord, str], LearnedWord]


def ways(model: ModelConfig) -> dict[str, Way]:
    """What is done to a word, by name: the word and its init word go in."""
    found: dict[str, Way] = {"as it was trained": lambda word, _: word}
    for keep in KEEPS:
        found[f"--keep {keep:g}"] = partial(_adjusted, keep=keep, model=model)
    found["the direction alone, 0.8"] = partial(_turned, keep=0.8, model=model)
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


def measured(lab: Lab, words: Sequence[Word], case: Case) -> None:
    """Print the table of words that were trained in one way."""
    kept = [own[case.steps] for own in lab.learn(words, case.setting, [case.steps])]
    lines = [
        f"\n{case.name}: {' '.join(case.setting.flags)}, {case.steps} steps, {len(words)} words\n",
        "| word | S | E | (S + E) / 2 | S against before | E against before | both | length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    before: Sequence[Result] | None = None
    for name, way in ways(ModelConfig(source=str(lab.model), family=lab.family)).items():
        mended = [
            Kept(way(own.file, word.concept.init_word), own.passes)
            for word, own in zip(words, kept, strict=True)
        ]
        after = lab.judge(words, mended)
        before = before or after
        print(row(name, after, before), flush=True)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--words", type=int, default=len(CONCEPTS))
    parser.add_argument("--pictures", type=int, default=16, help="of each word, each time")
    parser.add_argument("--threads", type=int, default=1)
    names = [case.name for case in OVERTRAINED]
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for case in OVERTRAINED:
        if case.name in args.only:
            with tempfile.TemporaryDirectory() as folder:
                lab = Lab(args.family, Path(folder), args.pictures)
                measured(lab, case.words(args.words), case)
    return 0


if __name__ == "__main__":
    sys.exit(main())
