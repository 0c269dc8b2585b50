"""How well the demo's model obeys its own words: `python benchmarks/demo_world.py`.

Draws fresh prompts as the demo draws them, and reads the pictures. `--card` writes
the figures into the model's card. The targets are those a demo needs: shape 0.80, colour 0.95,
background 0.97, texture 0.95, all four 0.75.
"""

from __future__ import annotations

import argparse
import sys

import torch

from coinage.config import ModelConfig
from coinage.demo.run import BATCH
from coinage.demo.score import base_accuracy, base_prompts
from coinage.demo.worlds import MODELS
from coinage.generate import draw
from coinage.models.families import FAMILIES
from coinage.models.quiet import quiet_libraries

TARGETS = {"shape": 0.80, "colour": 0.95, "background": 0.97, "texture": 0.95, "all": 0.75}


def main() -> int:
    """Print the table; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--card", action="store_true", help="write the table into the model's card")
    args = parser.parse_args()
    quiet_libraries()
    family, folder = FAMILIES[args.family], MODELS / args.family
    parts = family.load(ModelConfig(source=str(folder), family=args.family), torch.float32)
    parts.install([], [])
    pairs = base_prompts(args.prompts, args.seed, args.family)
    images = list(draw(family, parts, [prompt for prompt, _ in pairs], BATCH))
    accuracies = base_accuracy([scene for _, scene in pairs], images)
    lines = [
        f"{args.prompts} fresh prompts, seed {args.seed}",
        "",
        "| part | read correctly | target |",
        "|---|---|---|",
    ]
    lines += [
        f"| {part} | {value:.3f} | {TARGETS[part]:.2f} |" for part, value in accuracies.items()
    ]
    table = "\n".join(lines)
    print(table)
    if args.card:
        card = folder / "README.md"
        before, _, rest = card.read_text(encoding="utf-8").partition("<!-- table -->")
        after = rest.partition("<!-- end -->")[2]
        card.write_text(f"{before}<!-- table -->\n{table}\n<!-- end -->{after}", encoding="utf-8")
    return int(any(accuracies[part] < target for part, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
