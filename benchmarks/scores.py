"""What scores and drift tell, and what `--keep_best scores` gains: `python benchmarks/scores.py`.

On the demo model, words are trained too much, and looked at on the way: the exact reader scores
pictures (S shows the concept, E obeys all else), drift measures need none. Printed are their means at
each checkpoint, the rank correlation of each drift measure with S and E over all words and
checkpoints, and how good the word is that each way to choose a checkpoint keeps: the last one, that of
the lowest loss on fixed images and noise, and that of the highest score. Half of the pictures choose,
the other half judge. Differences are paired by word; 95 % intervals are bootstrapped over the words.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from coinage.demo.score import score
from coinage.embeddings.install import install_embeddings
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
    install_embeddings(parts, family.embedding_keys, named)
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


def report(found: Sequence[Sequence[Look]], steps: Sequence[int]) -> str:
    """The tables."""
    names = list(found[0][0].drift)
    lines = [
        f"| steps | S | E | score | loss | {' | '.join(names)} |",
        f"|---|---|---|---|---|{'---|' * len(names)}",
    ]
    for place, step in enumerate(steps):
        of = [own[place] for own in found]
        both = [[(a + b) / 2 for a, b in zip(x.choosing, x.judging, strict=True)] for x in of]
        s, e = np.mean(both, axis=0)
        drift = [f"{np.mean([look.drift[name] for look in of]):.2f}" for name in names]
        loss, total = np.mean([x.loss for x in of]), np.mean([x.score for x in of])
        lines.append(
            f"| {step} | {100 * s:.1f} | {100 * e:.1f} | {total:.3f} | {loss:.4f} | {' | '.join(drift)} |"
        )
    every = [look for own in found for look in own]
    lines += ["", "| rank correlation with | S | E |", "|---|---|---|"]
    for name in names:
        values = [look.drift[name] for look in every]
        against = [
            rank_correlation(values, [look.judging[half] for look in every]) for half in (0, 1)
        ]
        lines.append(f"| {name} | {against[0]:+.2f} | {against[1]:+.2f} |")
    lines += ["", "| kept | (S + E) / 2 | against the last |", "|---|---|---|"]
    last = [own[-1].quality for own in found]
    lines.append(f"| the last | {np.mean(last):.1f} | |")
    for name, value in CHOICES.items():
        own = [max(of_word, key=value).quality for of_word in found]
        difference = shown([a - b for a, b in zip(own, last, strict=True)])
        lines.append(f"| {name} | {np.mean(own):.1f} | {difference} |")
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
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(args.family, Path(folder), args.pictures)
        words = words_for(CONCEPTS[: args.words], [0])
        print(report(looks(lab, words, args.steps), args.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
