"""What masks and the model's own prediction are worth on the demo world: `python benchmarks/masked.py`.

Words are learned from eight snapshots each: all on one ground and in one colour, with captions that
name neither. The ground is what a word should not learn. Masks show where the object is. S is the
share of pictures that show the concept, E the share in which all else that the prompt asks for is
there. Differences to the first row are paired by concept; their 95 % intervals are bootstrapped over
the concepts. Eight words take two to three minutes of one core for each row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from coinage.config import TrainConfig
from coinage.demo.language import PUBLIC_SHAPES, phrase
from coinage.demo.score import words_of
from coinage.demo.world import BACKGROUNDS, COLOURS, Scene, render
from coinage.system.files import save_image
from quality import shown
from quality_lab import REACHABLE, Lab, Result, Setting, Word, words_for

MASKS = "--conditioning_data_dir={masks}"
NORMAL = "--mask_normalize"
SETTINGS = (
    Setting("no masks"),
    Setting("masks", (MASKS,)),
    Setting("masks, normalized", (MASKS, NORMAL)),
    Setting("masks, unmasked weight 0.1", (MASKS, "--unmasked_weight=0.1")),
    Setting("masks, unmasked probability 0.25", (MASKS, "--unmasked_probability=0.25")),
    Setting("masks, prior preservation 1", (MASKS, "--masked_prior_preservation_weight=1")),
    Setting(
        "masks, normalized, prior preservation 1",
        (MASKS, NORMAL, "--masked_prior_preservation_weight=1"),
    ),
    Setting("no masks, prior prediction beside"),
)
OTHERS, SAMPLES = (
    24,
    40,
)  # pictures beside, and how many of them an epoch shows; 80 are the word's own
GRAY = 24  # of 255: what differs less from the ground is ground


class MaskLab(Lab):
    """Datasets with masks, and with a subset beside whose target is the model's own prediction."""

    beside = False  # whether that subset is used

    def dataset(self, word: Word) -> Path:
        """The word's images and captions, with masks and with pictures beside, written once."""
        data = super().dataset(word)
        masks = data.parent / "masks"
        if not masks.exists():
            masks.mkdir()
            for image in sorted((data.parent / "images").glob("*.png")):
                _mask_of(Image.open(image)).save(masks / image.name)
            self._write_beside(word, data)
        return data.with_name("beside.toml") if self.beside else data

    def _write_beside(self, word: Word, data: Path) -> None:
        """Write the same dataset with pictures beside: other things of all colours, on all grounds.

        Their captions name the word, the colour and the ground.
        """
        rng = np.random.default_rng([word.seed, 9])
        others = data.parent / "others"
        others.mkdir()
        for number in range(OTHERS):
            shape, colour, ground = (
                str(rng.choice(list(one))) for one in (PUBLIC_SHAPES, COLOURS, BACKGROUNDS)
            )
            scene = Scene(shape, colour, ground)
            save_image(others / f"{number:02d}.png", render(scene, rng))
            text = phrase(words_of(word.concept, word.token, scene, silent=("texture",)))
            (others / f"{number:02d}.txt").write_text(text + "\n", encoding="utf-8")
        folder = json.dumps(others.as_posix())
        more = f"\n[[datasets.subsets]]\nimage_dir = {folder}\nprior_prediction = true\n"
        more += f"samples_per_epoch = {SAMPLES}\n"
        text = f"{data.read_text(encoding='utf-8')}{more}"
        (data.parent / "beside.toml").write_text(text, encoding="utf-8")

    def config(self, word: Word, setting: Setting, steps: int) -> TrainConfig:
        """The training command's configuration, with the word's own folders in its flags."""
        self.beside = setting.name.endswith("beside")
        masks = self.dataset(word).parent / "masks"
        flags = tuple(flag.format(masks=masks) for flag in setting.flags)
        return super().config(word, replace(setting, flags=flags), steps)


def _mask_of(image: Image.Image) -> Image.Image:
    """White where a picture differs from its corner, and a little around it."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    differs = np.abs(pixels - pixels[0, 0]).max(axis=2) > GRAY
    return Image.fromarray((differs * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))


def row(name: str, results: Sequence[Result], base: Sequence[Result]) -> str:
    """A row of the table: S, E, and the paired difference of their mean, in points of a hundred."""
    found, obeyed = (
        100 * float(np.mean(own))
        for own in zip(*((r.found, r.obeyed) for r in results), strict=True)
    )
    differences = [100 * (r.both - b.both) for r, b in zip(results, base, strict=True)]
    return f"| {name} | {found:.1f} | {obeyed:.1f} | {shown(differences, 1)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--settings", type=int, nargs="+", default=range(len(SETTINGS)))
    args = parser.parse_args()
    concepts = [REACHABLE[place * len(REACHABLE) // args.words].name for place in range(args.words)]
    words = words_for(concepts, [1])
    print("| way | S | E | (S + E) / 2, difference |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        lab = MaskLab("sd1", Path(folder), args.pictures)
        base: list[Result] = []
        for number in args.settings:
            ((_, results),) = lab.measure(words, SETTINGS[number], [args.steps])
            base = base or results
            print(row(SETTINGS[number].name, results, base), flush=True)


if __name__ == "__main__":
    main()
