"""What scores and drift tell, and what `--keep_best scores` gains: `python benchmarks/scores.py`.

On the demo model the exact reader scores pictures (S shows the concept, E obeys all else); drift
measures need none. First, words that are untrained, trained and trained far too much are put side by
side. Then words are looked at while they are trained too much: how good is the one that each way to
choose a checkpoint keeps, the last one, that of the lowest loss on fixed images and noise, and that
of the highest score? Half of the pictures choose, the other half judge. Printed are means over the
words, paired differences with 95 % intervals bootstrapped over the words (Efron 1979), and the rank
correlation of each drift measure with S and E over all words. It takes ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from coinage.demo.score import score
from coinage.embeddings.install import install_embeddings, install_words
from coinage.embeddings.word import Word as LearnedWord
from coinage.generate import draw
from coinage.models.families import FAMILIES
from coinage.scoring.drift import drift_of
from coinage.scoring.results import drift_values
from coinage.scoring.scorer import overall
from coinage.training.loop import train_together
from mending import CONCEPTS
from quality import shown
from quality_lab import DRAWN, Keeper, Kept, Lab, Setting, Word, prepared, words_for

STEPS = (10, 25, 50, 100, 150)
FLAGS = (
    "--optimizer_type=AdamW",
    "--learning_rate=5e-2",
    "--num_vectors_per_token=8",
    "--keep_best",
    "--validate_every_n_steps=5",
)
LONG = 100  # steps of the words side by side
OVERTRAINED = ("--optimizer_type=AdamW", "--learning_rate=0.5", "--num_vectors_per_token=8")
TEMPLATES = ("a photo of a {} on a white background", "a {} on a mint background")


@dataclass(frozen=True, slots=True)
class Look:
    """A word at a checkpoint.

    Attributes:
        choosing, judging: S and E of each half of the pictures.
        loss: on fixed images and noise.
        drift: its measures, by name.
    """

    choosing: tuple[float, float]
    judging: tuple[float, float]
    loss: float
    drift: Mapping[str, float]

    @property
    def quality(self) -> float:
        """(S + E) / 2 of the half that judges, per cent."""
        return 50 * sum(self.judging)

    @property
    def score(self) -> float:
        """The overall score of the half that chooses."""
        found, obeyed = self.choosing
        return float(overall([found], [obeyed]))


def side_by_side(lab: Lab, words: Sequence[Word]) -> dict[str, list[Look]]:
    """The words untrained, trained and trained far too much."""
    nothing = [0.0] * len(words)
    found = {}
    for name, kept in {
        "untrained": untrained(lab, words),
        "trained": [own[LONG] for own in lab.learn(words, Setting(""), [LONG])],
        "too much": [own[LONG] for own in lab.learn(words, Setting("", OVERTRAINED), [LONG])],
    }.items():
        found[name] = at_checkpoint(lab, words, kept, nothing)
        print(name, file=sys.stderr, flush=True)
    return found


def untrained(lab: Lab, words: Sequence[Word]) -> list[Kept]:
    """The words as they start."""
    parts = lab.load()
    configs = [lab.config(word, Setting(""), 1).word for word in words]
    keys = FAMILIES[lab.family].facts.keys
    install_words(parts, configs, keys)
    kept = []
    for place in range(len(words)):
        rows = [row.detach() for row in parts.rows(place)]
        kept.append(Kept(LearnedWord(dict(zip(keys, rows, strict=True))), 0))
    return kept


def looks(lab: Lab, words: Sequence[Word], steps: Sequence[int]) -> list[list[Look]]:
    """Each word at each checkpoint."""
    runs = prepared([lab.config(word, Setting("too much", FLAGS), max(steps)) for word in words])
    keepers = [Keeper(steps, 0) for _ in runs]
    train_together(runs, [[keeper] for keeper in keepers])
    found: list[list[Look]] = [[] for _ in words]
    for step in steps:
        kept = [keeper.kept[step] for keeper in keepers]
        losses = [run.results.measurements[step].loss for run in runs]
        for own, look in zip(found, at_checkpoint(lab, words, kept, losses), strict=True):
            own.append(look)
        print(f"step {step} of {max(steps)}", file=sys.stderr, flush=True)
    return found


def at_checkpoint(
    lab: Lab, words: Sequence[Word], kept: Sequence[Kept], losses: Sequence[float]
) -> list[Look]:
    """The words as they are after a step."""
    family, parts = FAMILIES[lab.family], lab.load()
    named = [(word.token, own.file) for word, own in zip(words, kept, strict=True)]
    install_embeddings(parts, family.facts.keys, named)
    asked = [lab.trials(word) for word in words]
    images = list(draw(family, parts, [trial.prompt for own in asked for trial in own], DRAWN))
    found = []
    for place, (own, trials, loss) in enumerate(zip(kept, asked, losses, strict=True)):
        pictures = images[place * lab.pictures : (place + 1) * lab.pictures]
        halves = [score(trials[half::2], pictures[half::2]) for half in (0, 1)]
        drift = drift_values(drift_of(own.file, family, parts, TEMPLATES))
        found.append(Look(halves[0], halves[1], loss, drift))
    return found


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: Pearson's of the ranks, ties at their mean."""
    ranks = []
    for values in (a, b):
        numbers = np.asarray(values)
        below = (numbers[:, None] > numbers).sum(axis=1)
        alike = (numbers[:, None] == numbers).sum(axis=1)
        ranks.append(below + (alike - 1) / 2)
    return float(np.corrcoef(*ranks)[0, 1])


CHOICES: Mapping[str, Callable[[Look], float]] = {
    "lowest loss": lambda look: -look.loss,
    "highest score": lambda look: look.score,
}


def table(found: Mapping[str, Sequence[Look]]) -> str:
    """The means of each row, and what its words differ in from those of the row before."""
    names = list(next(iter(found.values()))[0].drift)
    lines = [
        f"| words | S | E | score | {' | '.join(names)} |",
        f"|---|---|---|---|{'---|' * len(names)}",
    ]
    for name, of in found.items():
        s, e = (
            np.mean([[*look.choosing, *look.judging] for look in of], axis=0).reshape(2, 2).mean(0)
        )
        drift = [f"{np.mean([look.drift[one] for look in of]):.2f}" for one in names]
        total = np.mean([look.score for look in of])
        lines.append(
            f"| {name} | {100 * s:.1f} | {100 * e:.1f} | {total:.3f} | {' | '.join(drift)} |"
        )
    return "\n".join(lines)


def correlations(every: Sequence[Look]) -> str:
    """The rank correlation of each drift measure with S and E."""
    lines = ["| rank correlation with | S | E |", "|---|---|---|"]
    for name in every[0].drift:
        values = [look.drift[name] for look in every]
        pairs = zip(*(look.judging for look in every), strict=True)
        s, e = (rank_correlation(values, of) for of in pairs)
        lines.append(f"| {name} | {s:+.2f} | {e:+.2f} |")
    return "\n".join(lines)


def choices(found: Sequence[Sequence[Look]]) -> str:
    """How good the word is that each way to choose a checkpoint keeps."""
    lines = ["| kept | (S + E) / 2 | against the last |", "|---|---|---|"]
    last = [own[-1].quality for own in found]
    lines.append(f"| the last | {np.mean(last):.1f} | |")
    for name, value in CHOICES.items():
        own = [max(of_word, key=value).quality for of_word in found]
        difference = shown([a - b for a, b in zip(own, last, strict=True)])
        lines.append(f"| {name} | {np.mean(own):.1f} | {difference} |")
    return "\n".join(lines)


def scores_apart(found: Mapping[str, Sequence[Look]]) -> str:
    """How much higher the trained words score than the others."""
    lines = []
    for name in ("untrained", "too much"):
        pairs = zip(found["trained"], found[name], strict=True)
        lines.append(f"trained above {name}: {shown([a.score - b.score for a, b in pairs], 3)}")
    return "\n".join(lines)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--words", type=int, default=len(CONCEPTS))
    parser.add_argument("--pictures", type=int, default=32, help="of each word at each checkpoint")
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="multiples of 5")
    parser.add_argument("--only", choices=("words", "checkpoints"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(args.family, Path(folder), args.pictures)
        words = words_for(CONCEPTS[: args.words], [0])
        if args.only != "checkpoints":
            beside = side_by_side(lab, words)
            print(
                "\n\n".join(
                    (
                        table(beside),
                        scores_apart(beside),
                        correlations(list(chain(*beside.values()))),
                    )
                )
            )
        if args.only != "words":
            found = looks(lab, words, args.steps)
            at = {
                f"after {step} steps": [own[i] for own in found]
                for i, step in enumerate(args.steps)
            }
            print("\n\n".join(("", table(at), correlations(list(chain(*found))), choices(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
