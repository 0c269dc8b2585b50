"""What a residual vector for each training image is worth: `python benchmarks/nuisance.py`.

The idea of ConceptPrism (arXiv:2602.19575): beside the word, each image's caption holds a vector of
its own, which is learned with the word and thrown away at the end. It is to take up what the images
do not share, so that the word need not. An exclusion term can be added: on another image, the vector
alone must predict what the empty caption predicts, so that it holds nothing that images share.

On the demo model, captions tell no more than the word. Each way learns the same words from the same
images in the same order, and is judged as in `quality.py`: differences are paired by concept, and
their 95 % intervals bootstrapped over the concepts. Images of odd seeds are alike in ground and
colour; of even seeds they vary. Residual vectors are learned outside the
trainer: an observer holds their optimizers.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from coinage.config import WordConfig
from coinage.demo.dataset import IMAGES, alike, training_scenes
from coinage.demo.language import LEADS, phrase
from coinage.demo.reader import read
from coinage.demo.score import prompt_for, words_of
from coinage.embeddings.install import install_embeddings
from coinage.generate import draw
from coinage.models.families import FAMILIES
from coinage.optim.factory import make_schedule
from coinage.seeding import generator_for, rng_for
from coinage.training.batches import FixedUse, fixed_batches, join
from coinage.training.loop import train_together
from coinage.training.observers.base import Observer
from coinage.training.processes import ALONE
from coinage.training.run import Run
from coinage.training.setup import prepare_on
from coinage.training.step import noised, prepare
from quality import BOTH, FOUND, OBEYED, difference, mean_of
from quality_lab import (
    DRAWN,
    LETTERS,
    REACHABLE,
    SAMPLER,
    STEPS,
    TOGETHER,
    Kept,
    Lab,
    Result,
    Setting,
    Word,
    prepared,
    words_for,
)

SILENT = ("colour", "texture", "background")
INIT = "plain"  # what residual vectors start from
FREE = 8  # pictures of each word for which no background is asked
PAIRS = 4  # of a residual vector and another image, in each step, for the exclusion term


@dataclass(frozen=True, slots=True)
class Way:
    """How captions are written, and what is learned beside the word.

    Attributes:
        name: for the table.
        named: captions name colour, texture and background.
        tail: follows every caption; `{}` stands for a residual vector, which starts as `INIT`.
        learns: residual vectors are learned with the word.
        exclusion: weight of the exclusion term.
        first: steps in which one residual vector for all images is learned before the word, with
            the init word in the word's place; then it stays as it is.
    """

    name: str
    named: bool = False
    tail: str = ""
    learns: bool = False
    exclusion: float = 0.0
    first: int = 0

    def names(self, word: Word) -> list[str]:
        """For each image the token of its residual vector: new to the model, and no piece of another."""
        start = f"nu{word.token.removeprefix('zu')}"
        return [f"{start}{LETTERS[0 if self.first else image]}i" for image in range(IMAGES)]


WITH = " with {}"
WAYS = (
    Way("the word alone"),
    Way("all the rest named", named=True),
    Way("a fixed vector", tail=WITH),
    Way("a residual vector for each image", tail=WITH, learns=True),
    Way("the same, and exclusion", tail=WITH, learns=True, exclusion=1.0),
    Way("one for all, learned first", tail=" on a {} background", first=25),
)


def caption(word: Word, noun: str, image: int, way: Way, residual: str) -> str:
    """The caption of an image, counted from 0, with the word or another noun in its place."""
    scenes = training_scenes(word.concept, word.seed)
    scene = (alike(scenes, word.concept) if word.seed % 2 else scenes)[image]
    words = words_of(word.concept, noun, scene, silent=() if way.named else SILENT)
    return phrase(words, lead=LEADS[(image + 1) % len(LEADS)]) + way.tail.format(residual)


def captioned(
    lab: Lab,
    words: Sequence[Word],
    captions: Sequence[Sequence[str]],
    flags: Sequence[str],
    steps: int,
) -> list[Run]:
    """The runs of words whose images have these captions."""
    for word, texts in zip(words, captions, strict=True):
        files = sorted((lab.dataset(word).parent / "images").glob("*.txt"))
        for path, text in zip(files, texts, strict=True):
            path.write_text(text + "\n", encoding="utf-8")
    return prepared([lab.config(word, Setting("", tuple(flags)), steps) for word in words])


def beside(runs: Sequence[Run], names: Iterable[str]) -> list[Run]:
    """The same runs, on a model that knows more words beside theirs."""
    return prepare_on(
        runs[0].parts,
        runs[0].dtype,
        [run.config for run in runs],
        [run.samples for run in runs],
        ALONE,
        [run.latents for run in runs],
        beside=[WordConfig(token=name, init_word=INIT) for name in names],
    )


class Residuals(Observer):
    """Learns the residual vectors of words that are trained together, after each step of all.

    Args:
        runs: of the words.
        names: for each word the tokens of its images' vectors.
        weight: of the exclusion term.
    """

    def __init__(self, runs: Sequence[Run], names: Sequence[Sequence[str]], weight: float) -> None:
        self._runs, self._names, self._weight = runs, names, weight
        self._optimizers, self._schedules = [], []
        for number, run in enumerate(runs):
            first = len(runs) + number * IMAGES
            rows = [row for place in range(first, first + IMAGES) for row in run.parts.rows(place)]
            self._optimizers.append(run.make_optimizer(rows))
            made = make_schedule(run.config.optim, self._optimizers[-1], run.total_steps)
            self._schedules.append(made)

    def stepped(self, run: Run) -> None:
        if run is not self._runs[-1]:
            return
        if self._weight:
            (self._weight * self.exclusion()).backward()
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def exclusion(self) -> Tensor:
        """What residual vectors change on images that are not theirs: mean square, summed over words."""
        first = self._runs[0]
        family, parts, noise = first.family, first.parts, first.config.noise
        pairs = zip(self._runs, self._names, strict=True)
        batch = join([b for run, names in pairs for b in fixed_batches(run, _uses(run, names))])
        latents = noised(parts, prepare(family, parts, batch, noise))
        predictions = []
        for captions in (batch.captions, [""] * len(batch.captions)):
            cond = family.encode(parts, captions, batch.sizes)
            noisy, times = latents.noisy_latents, latents.timesteps
            predictions.append(family.predict(parts, noisy, times, cond).float())
        return mse_loss(predictions[0], predictions[1].detach()) * len(self._runs)


def _uses(run: Run, names: Sequence[str]) -> list[FixedUse]:
    """Images of a word, each with the vector of another one, and their noise."""
    seed, rng = run.config.loop.seed, rng_for(run.config.loop.seed, "pairs", run.step)
    uses = []
    for number in range(PAIRS):
        image, shift = int(rng.integers(IMAGES)), int(rng.integers(1, IMAGES))
        chance = generator_for(seed, "pair", run.step, number)
        times = run.parts.schedule.draw_times(run.config.noise, [chance])
        text = f"a photo of {names[(image + shift) % IMAGES]}"
        uses.append(FixedUse(image, text, times, [chance]))
    return uses


def learn(
    lab: Lab, words: Sequence[Word], way: Way, flags: Sequence[str], steps: int
) -> list[Kept]:
    """Train words together in one way."""
    names = [way.names(word) for word in words]
    captions = [
        [caption(word, word.token, image, way, name) for image, name in enumerate(own)]
        for word, own in zip(words, names, strict=True)
    ]
    first = learned_first(lab, words, way) if way.first else []
    runs = captioned(lab, words, captions, flags, steps)
    observers: list[list[Observer]] = [[] for _ in words]
    if way.tail:
        runs = beside(runs, dict.fromkeys(chain.from_iterable(names)))
    for place, vector in enumerate(first, len(words)):
        fill(runs[0].parts.rows(place), vector)
    if way.learns:
        observers[-1].append(Residuals(runs, names, way.exclusion))
    files = train_together(runs, observers)
    return [Kept(file, run.progress.images) for file, run in zip(files, runs, strict=True)]


def learned_first(lab: Lab, words: Sequence[Word], way: Way) -> list[list[Tensor]]:
    """For each word a vector that tells what its images show beside the init word."""
    standing, captions = [], []
    for word in words:
        name, noun = way.names(word)[0], word.concept.init_word
        standing.append(Word(replace(word.concept, init_word=INIT), word.seed, name))
        captions.append([caption(word, noun, image, way, name) for image in range(IMAGES)])
    runs = captioned(lab, standing, captions, (), way.first)
    return [list(file.vectors.values()) for file in train_together(runs, [[] for _ in runs])]


@torch.no_grad()
def fill(rows: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give rows other numbers."""
    for row, value in zip(rows, values, strict=True):
        row.copy_(value)


def leaks(lab: Lab, words: Sequence[Word], kept: Sequence[Kept]) -> list[float]:
    """For each word the share of pictures on the training images' ground, where none is asked for."""
    family, parts = FAMILIES[lab.family], lab.load()
    named = [(word.token, own.file) for word, own in zip(words, kept, strict=True)]
    install_embeddings(parts, family.facts.keys, named)
    prompts, grounds = [], []
    for word in words:
        scene = training_scenes(word.concept, word.seed)[0]
        text = phrase(words_of(word.concept, word.token, scene, silent=SILENT))
        plain = replace(prompt_for(text, 0, lab.family), steps=STEPS, sampler=SAMPLER)
        prompts += [replace(plain, seed=seed) for seed in range(FREE)]
        grounds += [scene.background] * FREE
    images = draw(family, parts, prompts, DRAWN)
    hits = [read(image).background == own for image, own in zip(images, grounds, strict=True)]
    return [sum(hits[at : at + FREE]) / FREE for at in range(0, len(hits), FREE)]


def row(name: str, after: Sequence[Result], before: Sequence[Result], leak: float) -> str:
    """A line of the table; all but the first tells the differences from the first."""
    cells = [f"{100 * mean_of(after, value):.1f}" for value in (FOUND, OBEYED, BOTH)]
    cells += [f"{100 * leak:.0f}"]
    for value in (FOUND, OBEYED, BOTH):
        cells.append("" if after is before else difference(after, before, value))
    return f"| {name} | {' | '.join(cells)} |"


def measured(lab: Lab, ways: Sequence[Way], args: argparse.Namespace) -> None:
    """Print the table."""
    words = words_for(args.concepts, args.seeds)
    lines = [
        f"{len(words)} words, {args.steps} steps\n",
        "| captions | S | E | (S + E) / 2 | own ground | S against the first | E | both |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    before: Sequence[Result] = []
    for way in ways:
        kept = []
        for at in range(0, len(words), TOGETHER):
            kept += learn(lab, words[at : at + TOGETHER], way, args.flags, args.steps)
        after = lab.judge(words, kept)
        before = before or after
        print(row(way.name, after, before, mean(leaks(lab, words, kept))), flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concepts", nargs="+", default=[concept.name for concept in REACHABLE])
    parser.add_argument("--steps", type=int, default=60, help="of four images")
    parser.add_argument("--pictures", type=int, default=16, help="of each word in each way")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="even: images vary")
    parser.add_argument("--flags", type=shlex.split, default=[], help="of the training command")
    names = [way.name for way in WAYS]
    parser.add_argument("--ways", nargs="+", default=names, choices=names)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        chosen = [way for way in WAYS if way.name in args.ways]
        measured(Lab("sd1", Path(folder), args.pictures), chosen, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
