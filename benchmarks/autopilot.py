"""What `--autopilot` is worth on the demo world: `python benchmarks/autopilot.py`.

Each concept is learned with the best of K settings, and once as configured with equally many images
through the UNet: the steps that the trial took are added to its length. Both are judged by S, the
share of pictures that show the concept, and E, the share that obeys all else that the prompt asks
for. Differences are paired by concept; their 95 % intervals are bootstrapped over the concepts
(Efron 1979).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from coinage.training.loop import train_together
from coinage.training.search.autopilot import cost, with_the_best
from quality import BOTH, FOUND, OBEYED, difference, mean_of
from quality_lab import (
    BATCH,
    REACHABLE,
    TOGETHER,
    Kept,
    Lab,
    Result,
    Setting,
    Word,
    prepared,
    words_for,
)

VALUES: dict[str, Callable[[Result], float]] = {"S": FOUND, "E": OBEYED, "both": BOTH}


def learned(
    lab: Lab, words: Sequence[Word], setting: Setting, steps: int
) -> list[tuple[str, Kept]]:
    """Each word as it is learned, and the name of the settings that were chosen for it."""
    configs = [lab.config(word, setting, steps) for word in words]
    runs = with_the_best(prepared(configs))
    train_together(runs, [[] for _ in runs])
    count = configs[0].loop.to_try
    tried = round(cost(count, steps, BATCH) * steps * BATCH) if count else 0
    return [
        (run.config.loop.chosen, Kept(run.embedding(), run.progress.images + tried)) for run in runs
    ]


def judged(
    lab: Lab, words: Sequence[Word], setting: Setting, steps: int
) -> tuple[list[str], list[Result]]:
    """What was chosen for each word, and how good it is."""
    groups = [words[i : i + TOGETHER] for i in range(0, len(words), TOGETHER)]
    found = [one for some in groups for one in learned(lab, some, setting, steps)]
    return [name for name, _ in found], lab.judge(words, [kept for _, kept in found])


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", nargs="+", default=[concept.name for concept in REACHABLE])
    parser.add_argument("--seeds", type=int, default=2, help="words for each concept")
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--count", type=int, default=4, help="K")
    parser.add_argument(
        "--steps", type=int, default=400, help="of 4 images, with the settings chosen"
    )
    parser.add_argument("--pictures", type=int, default=32, help="for each word")
    parser.add_argument(
        "--flags",
        type=shlex.split,
        default=[],
        help='of every run: --flags="--num_vectors_per_token=2 ..."',
    )
    args = parser.parse_args()
    words = words_for(args.concepts, range(args.seeds))
    more = round(args.steps * cost(args.count, args.steps, BATCH))
    with tempfile.TemporaryDirectory() as name:
        lab = Lab(args.family, Path(name), args.pictures)
        names, best = judged(
            lab, words, Setting("best", (*args.flags, f"--autopilot={args.count}")), args.steps
        )
        _, single = judged(lab, words, Setting("single", tuple(args.flags)), args.steps + more)
    print(
        f"| concept | seed | chosen of {args.count} | S, single → best | E | images, single → best |\n"
        "|---|---|---|---|---|---|"
    )
    for chosen, one, other in zip(names, single, best, strict=True):
        cells = [
            f"{getattr(one, key):.2f} → {getattr(other, key):.2f}" for key in ("found", "obeyed")
        ]
        print(
            f"| {one.concept} | {one.seed} | {chosen} | {' | '.join(cells)} | {one.passes} → {other.passes} |"
        )
    print(f"\nbest of {args.count} against one run with as many images, in points of a hundred\n")
    for key, value in VALUES.items():
        shown = difference(best, single, value)
        print(
            f"{key}: {100 * mean_of(single, value):.1f} → {100 * mean_of(best, value):.1f}, {shown}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
