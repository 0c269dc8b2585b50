"""How often the training image that does not belong is found: `python benchmarks/foreign_image.py`.

On the demo world, 20 words learn from eight images each, one of which shows another concept. At the
end every image is measured, and ranked by its loss and by what the word gains on it. The same is done
with all eight images in place: every image that is named then is a false alarm. It takes five
minutes of one core.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from coinage.cli.parse import parse
from coinage.config import TrainConfig
from coinage.demo.concepts import CONCEPTS, Concept
from coinage.demo.dataset import write_dataset
from coinage.demo.worlds import MODELS
from coinage.models.quiet import quiet_libraries
from coinage.settings.discover import complete
from coinage.training.image_losses import MOST_DRAWS, ImageLoss, foreign, image_losses
from coinage.training.loop import train_together
from quality_lab import LETTERS, REACHABLE, prepared

IMAGES = 8


def config_of(folder: Path, concept: Concept, token: str, seed: int, steps: int) -> TrainConfig:
    """A word whose images lie in a folder."""
    given = {
        "pretrained_model_name_or_path": MODELS / "sd1",
        "dataset_config": write_dataset(folder, concept, token, seed),
        "output_dir": folder / "out",
        "token_string": token,
        "init_word": concept.init_word,
        "max_train_steps": steps,
        "seed": seed,
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    return complete(parse("coinage", [*words, "--cache_latents"], "foreign_image.py"))[0]


def put_in(folder: Path, other: Concept, token: str, seed: int, place: int) -> None:
    """Replace an image and its caption by those of another concept."""
    strange = folder / "other"
    write_dataset(strange, other, token, seed)
    there, here = (sorted((f / "images").glob("*.png"))[place] for f in (strange, folder))
    shutil.copy(there, here)
    shutil.copy(there.with_suffix(".txt"), here.with_suffix(".txt"))


def measured(configs: Sequence[TrainConfig]) -> list[list[ImageLoss]]:
    """What each word gains on each of its images."""
    runs = prepared(configs)
    train_together(runs, [[] for _ in runs])
    return [image_losses(run, MOST_DRAWS) for run in runs]


def share_first(losses: Sequence[Sequence[ImageLoss]], worst: Callable[[ImageLoss], float]) -> int:
    """How many words rank their foreign image first."""
    return sum(
        max(of_word, key=worst).sample == number % IMAGES for number, of_word in enumerate(losses)
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="See the file's first lines.")
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("foreign", "clean"):
            configs = []
            for seed in range(args.words):
                folder = Path(scratch) / kind / str(seed)
                concept = CONCEPTS[REACHABLE[seed % len(REACHABLE)].name]
                places = [(seed * 5 + 3 + more) % len(REACHABLE) for more in (0, 1)]
                others = [REACHABLE[place] for place in places if REACHABLE[place] != concept]
                token = f"zu{LETTERS[seed % 20]}{'aeiou'[seed // 20]}o"
                configs.append(config_of(folder, concept, token, seed, args.steps))
                if kind == "foreign":
                    put_in(folder, others[0], token, seed + 100, seed % IMAGES)
            losses = measured(configs)
            named = [[one.sample for one in foreign(of_word)] for of_word in losses]
            if kind == "clean":
                print(f"all images belong: {sum(map(bool, named))} of {len(named)} words name one")
                continue
            right = sum(names == [seed % IMAGES] for seed, names in enumerate(named))
            wrong = sum(bool(set(names) - {seed % IMAGES}) for seed, names in enumerate(named))
            print(f"one of {IMAGES} images is foreign, {len(named)} words, {args.steps} steps")
            print(f"ranked first by gain: {share_first(losses, lambda one: -one.gain)}")
            print(f"ranked first by loss: {share_first(losses, lambda one: one.after)}")
            print(f"named, and no other: {right}; another is named: {wrong}")


if __name__ == "__main__":
    main()
