"""What `--init_word auto` is worth on the demo world: `python benchmarks/init_word.py`.

For each concept a word is searched. Then the concept's own general word ("shape", "plain") and the
found one are measured as they stand and while both learn from the same draws (all words as one
batch): the loss on the evaluation set. Differences are paired by concept; their 95 % intervals are
bootstrapped over the concepts (Efron 1979).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from coinage.cli.parse import parse
from coinage.config import TrainConfig
from coinage.demo.concepts import CONCEPTS, Concept
from coinage.demo.dataset import write_dataset
from coinage.demo.worlds import MODELS
from coinage.models.quiet import quiet_libraries
from coinage.settings.discover import complete
from coinage.training.evaluation import evaluation_loss, evaluation_set
from coinage.training.loop import train_together
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.training.search.init_word import start_from_the_best
from quality import shown
from quality_lab import REACHABLE, prepared

CHECKPOINTS = (0, 5, 10, 20, 50)


class Curve(Observer):
    """The evaluation loss at the checkpoints."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def started(self, run: Run) -> None:
        self._batches = evaluation_set(run)
        self.stepped(run)

    def stepped(self, run: Run) -> None:
        if run.step in CHECKPOINTS:
            self.losses[run.step] = evaluation_loss(run, self._batches)


def config_for(folder: Path, concept: Concept, token: str, init: str, family: str) -> TrainConfig:
    """A short training of a concept."""
    dataset = folder / concept.name / token / "dataset.toml"
    given = {
        "pretrained_model_name_or_path": MODELS / family,
        "dataset_config": dataset
        if dataset.exists()
        else write_dataset(dataset.parent, concept, token, seed=0),
        "output_dir": folder / "out",
        "token_string": token,
        "init_word": init,
        "optimizer_type": "AdamW",
        "learning_rate": "1e-2",
        "max_train_steps": max(CHECKPOINTS),
        "seed": 0,
    }
    return complete(
        parse(
            "coinage",
            [*(f"--{name}={value}" for name, value in given.items()), "--cache_latents"],
            "init_word",
        )
    )[0]


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", nargs="+", default=[concept.name for concept in REACHABLE])
    parser.add_argument("--family", default="sd1")
    args = parser.parse_args()
    quiet_libraries()
    logging.getLogger("coinage").setLevel(logging.ERROR)
    concepts = [CONCEPTS[name] for name in args.concepts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = [
            config_for(folder, c, f"zugen{i}o", c.init_word, args.family)
            for i, c in enumerate(concepts)
        ]
        searched = [
            config_for(folder, c, f"zubest{i}o", "auto", args.family)
            for i, c in enumerate(concepts)
        ]
        runs = prepared([*given, *searched])
        begun = time.perf_counter()
        for run in runs[len(given) :]:
            start_from_the_best(run)
        seconds = (time.perf_counter() - begun) / len(searched)
        curves = [Curve() for _ in runs]
        train_together(runs, [[curve] for curve in curves])
    print(
        "| concept | given | found | "
        + " | ".join(f"{step} steps" for step in CHECKPOINTS)
        + " |\n|"
        + "---|" * (3 + len(CHECKPOINTS))
    )
    pairs = list(
        zip(
            runs[: len(given)],
            runs[len(given) :],
            curves[: len(given)],
            curves[len(given) :],
            strict=True,
        )
    )
    for concept, (one, other, a, b) in zip(concepts, pairs, strict=True):
        cells = [f"{a.losses[step]:.4f} → {b.losses[step]:.4f}" for step in CHECKPOINTS]
        print(
            f"| {concept.name} | {one.config.word.init_word} | "
            f"{other.config.word.init_word} | {' | '.join(cells)} |"
        )
    print(f"\nloss, found against given, in percent; {seconds:.1f} s for each search\n")
    for step in CHECKPOINTS:
        changes = [100 * (b.losses[step] / a.losses[step] - 1) for _, _, a, b in pairs]
        print(
            f"after {step} steps: {shown(changes, 2)}, lower for "
            f"{sum(change < 0 for change in changes)} of {len(changes)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
