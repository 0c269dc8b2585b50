"""Words of one picture, learned together or apart: `python benchmarks/one_picture.py`.

On the demo world, a shape and a pattern that the model has no words for are taught from eight images
that show both. How well each came apart is read from pictures with one of the two words alone:

- S: the share that shows what the word means;
- E: the share that shows all else that the prompt asks for;
- leak: the share with the other one of the two, where the prompt does not ask for anything like it;
  for a pattern, the share drawn in the shape of the training images instead of the asked one.

The settings differ in the captions' words, in what the words start from, and in the images:

- together: one run, captions name both words, which start from words of their kind;
- together, vague start: the same, from `shape` and `plain`;
- apart: a run for each word, from the same images, whose captions name this word alone;
- beside a frozen word: the pattern is learned before, from images of other shapes; the shape is then
  learned beside its file, which stays as it is;
- together, some alone: two of the eight images show the shape in another texture, and two another
  shape in the pattern.

Every setting passes equally many images through the UNet. It takes an hour of one quiet core;
`--results FILE` keeps what is measured, and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coinage.cli.parse import parse
from coinage.cli.words import build_words
from coinage.config import TrainConfig
from coinage.demo.concepts import SECRET_PATTERNS, SECRET_SHAPES, Concept
from coinage.demo.dataset import TOML, training_scenes
from coinage.demo.language import LEADS, PUBLIC_TEXTURES, Words, phrase
from coinage.demo.reader import read
from coinage.demo.score import score
from coinage.demo.world import SIZE, Scene, render
from coinage.embeddings.install import install_embeddings
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.generate import draw
from coinage.models.families import FAMILIES
from coinage.settings.discover import discover
from coinage.system.files import save_image, write_bytes
from coinage.training.loop import train_together
from quality import shown
from quality_lab import LETTERS, Lab, prepared
from quality_lab import Word as Asked

KINDS = ("circle", "striped")  # what a shape and a pattern start from: words of their kind
VAGUE = ("shape", "plain")
STEPS = 50  # of four images, together; a word of two that learn apart takes half of them
FOUND, OBEYED, LEAKED = range(3)
Scores = tuple[float, float, float]  # S, E and leak


@dataclass(frozen=True, slots=True)
class Pair:
    """A shape and a pattern of the same images, the words for them, and the seed of all chance."""

    shape: Concept
    pattern: Concept
    tokens: tuple[str, str]
    seed: int

    @property
    def scenes(self) -> list[Scene]:
        """Of the images with both."""
        both = Concept("both", shape=self.shape.shape, texture=self.pattern.texture)
        return training_scenes(both, self.seed)


def pairs_of(count: int, seeds: Sequence[int]) -> list[Pair]:
    """Return the pairs in an order in which any first few are of many kinds."""
    made = list[Pair]()
    for seed in seeds:
        every = [(shape, pattern) for shape in SECRET_SHAPES for pattern in SECRET_PATTERNS]
        order = np.random.default_rng(0).permutation(len(every))[:count]
        for shape, pattern in (every[number] for number in order):
            letters = f"{LETTERS[len(made) % 20]}a{LETTERS[len(made) // 20]}"
            made.append(Pair(shape, pattern, (f"zu{letters}o", f"wi{letters}u"), seed))
    return made


def captioned(scene: Scene, noun: str | None, texture: str | None, lead: int) -> tuple[Scene, str]:
    """Return a scene and its caption; what has no word is not named."""
    words = Words(noun or "shape", scene.colour, scene.background, texture)
    return scene, phrase(words, lead=LEADS[1 + lead % 6])


def dataset(folder: Path, images: Sequence[tuple[Scene, str]], seed: int) -> Path:
    """Write images with captions, and return their dataset file."""
    rng = np.random.default_rng([seed, 5])
    place = folder / "images"
    place.mkdir(parents=True)
    for number, (scene, caption) in enumerate(images, 1):
        save_image(place / f"{number:02d}.png", render(scene, rng))
        (place / f"{number:02d}.txt").write_text(caption + "\n", encoding="utf-8")
    file = folder / "dataset.toml"
    text = TOML.format(size=SIZE, folder=json.dumps(place.as_posix()))
    file.write_text(text, encoding="utf-8")
    return file


def learned(
    lab: Lab, data: Path, tables: Sequence[dict[str, object]], seed: int, steps: int, *more: str
) -> list[Word]:
    """Train the words of a config file, and return those that learn."""
    shared = {
        "pretrained_model_name_or_path": lab.model.as_posix(),
        "output_dir": (data.parent / "out").as_posix(),
        "dataset_config": data.as_posix(),
        "max_train_steps": steps,
        "seed": seed,
        "cache_latents": True,
    }
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in shared.items())
    for table in tables:
        text += "\n[[words]]\n"
        text += "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
    file = data.parent / "words.toml"
    file.write_text(text, encoding="utf-8")
    configs, _ = build_words(parse("coinage", [f"--config_file={file}", *more], "one_picture"))
    runs = prepared([complete(config) for config in configs])
    return train_together(runs, [[] for _ in runs])


def complete(config: TrainConfig) -> TrainConfig:
    """Return a configuration that leaves nothing open."""
    from coinage.errors import Findings

    return discover(config, Findings())


def together(
    lab: Lab,
    pair: Pair,
    folder: Path,
    steps: int,
    flags: Sequence[str],
    starts: tuple[str, str] = KINDS,
    *,
    alone: bool = False,
) -> list[Word]:
    """One run of both words."""
    noun, texture = pair.tokens
    images = [captioned(s, noun, texture, i) for i, s in enumerate(pair.scenes)]
    if alone:
        for number, scene in enumerate(training_scenes(pair.pattern, pair.seed)[:2]):
            images[number] = captioned(scene, scene.shape, texture, number)
        for number, scene in enumerate(training_scenes(pair.shape, pair.seed)[2:4], 2):
            other = replace(scene, texture=PUBLIC_TEXTURES[1 + number % 2])
            images[number] = captioned(other, noun, other.texture, number)
    tables: list[dict[str, object]] = [
        {"token_string": token, "init_word": start, "together": True}
        for token, start in zip(pair.tokens, starts, strict=True)
    ]
    return learned(lab, dataset(folder, images, pair.seed), tables, pair.seed, steps, *flags)


def apart(
    lab: Lab,
    pair: Pair,
    folder: Path,
    steps: int,
    flags: Sequence[str],
    starts: tuple[str, str] = KINDS,
) -> list[Word]:
    """A run for each word, from the same images."""
    words = []
    for number, (token, start) in enumerate(zip(pair.tokens, starts, strict=True)):
        noun, texture = (token, None) if number == 0 else (None, token)
        images = [captioned(s, noun, texture, i) for i, s in enumerate(pair.scenes)]
        data = dataset(folder / str(number), images, pair.seed)
        table: dict[str, object] = {"token_string": token, "init_word": start}
        words += learned(lab, data, [table], pair.seed, steps // 2, *flags)
    return words


def beside_frozen(
    lab: Lab,
    pair: Pair,
    folder: Path,
    steps: int,
    flags: Sequence[str],
    starts: tuple[str, str] = KINDS,
) -> list[Word]:
    """The pattern from its own images; then the shape, beside the file of the pattern."""
    noun, texture = pair.tokens
    own = training_scenes(pair.pattern, pair.seed)
    images = [captioned(s, s.shape, texture, i) for i, s in enumerate(own)]
    table: dict[str, object] = {"token_string": texture, "init_word": starts[1]}
    data = dataset(folder / "pattern", images, pair.seed)
    (pattern,) = learned(lab, data, [table], pair.seed, steps // 2, *flags)
    file = folder / "pattern.safetensors"
    write(file, pattern)
    tables: list[dict[str, object]] = [
        {"token_string": noun, "init_word": starts[0]},
        {"token_string": texture, "weights": file.as_posix(), "train": False},
    ]
    images = [captioned(s, noun, texture, i) for i, s in enumerate(pair.scenes)]
    data = dataset(folder / "shape", images, pair.seed)
    (shape,) = learned(lab, data, tables, pair.seed, steps // 2, *flags)
    return [shape, pattern]


def vague(lab: Lab, pair: Pair, folder: Path, steps: int, flags: Sequence[str]) -> list[Word]:
    """As `together`, from words that hardly say which is the shape and which the pattern."""
    return together(lab, pair, folder, steps, flags, VAGUE)


def some_alone(lab: Lab, pair: Pair, folder: Path, steps: int, flags: Sequence[str]) -> list[Word]:
    """As `together`, with two images of each word alone."""
    return together(lab, pair, folder, steps, flags, alone=True)


Way = Callable[[Lab, Pair, Path, int, Sequence[str]], list[Word]]
WAYS: dict[str, Way] = {
    "together": together,
    "together, vague start": vague,
    "apart": apart,
    "beside a frozen word": beside_frozen,
    "together, some alone": some_alone,
}


def judged(lab: Lab, pair: Pair, words: Sequence[Word]) -> tuple[Scores, Scores]:
    """Return S, E and leak of each word, read from pictures with it alone."""
    family, parts = FAMILIES[lab.family], lab.load()
    install_embeddings(parts, family.facts.keys, list(zip(pair.tokens, words, strict=True)))
    results = []
    concepts = pair.shape, pair.pattern
    for number, (concept, token) in enumerate(zip(concepts, pair.tokens, strict=True)):
        other = concepts[1 - number]
        trials = lab.trials(Asked(concept, pair.seed, token))
        images = list(draw(family, parts, [trial.prompt for trial in trials], len(trials)))
        found, obeyed = score(trials, images)
        ((part, value),) = other.parts.items()
        leaks = [
            getattr(read(image), part) == value
            for trial, image in zip(trials, images, strict=True)
            if trial.asked.get(part) != value and (part == "shape" or part not in trial.asked)
        ]
        results.append((found, obeyed, float(np.mean(leaks))))
    return results[0], results[1]


def rows_of(table: dict[str, list[tuple[Scores, Scores]]]) -> list[str]:
    """The table in Markdown: mean over the pairs with its 95 % interval, in points of a hundred."""
    lines = ["| setting | word | S | E | leak |", "|---|---|---|---|---|"]
    for name, results in table.items():
        for place, word in enumerate(("shape", "pattern")):
            cells = []
            for value in (FOUND, OBEYED, LEAKED):
                numbers = [100 * result[place][value] for result in results]
                cells.append(shown(numbers).replace("+", ""))
            lines.append(f"| {name} | {word} | {' | '.join(cells)} |")
    return lines


def by_pattern(table: dict[str, list[tuple[Scores, Scores]]], pairs: Sequence[Pair]) -> list[str]:
    """S of shape and pattern for each pattern."""
    names = list(dict.fromkeys(pair.pattern.name for pair in pairs))
    lines = ["| setting | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, results in table.items():
        cells = []
        for pattern in names:
            own = [r for r, p in zip(results, pairs, strict=False) if p.pattern.name == pattern]
            means = [100 * float(np.mean([r[place][FOUND] for r in own])) for place in (0, 1)]
            cells.append("{:.0f}, {:.0f}".format(*means))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--pairs", type=int, default=12, help="of shape and pattern, at most 24")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pictures", type=int, default=16, help="of each word")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--add", default="", help="flags for all: --add='--learning_rate=1e-2 ...'")
    parser.add_argument("--results", type=Path, help="JSON; of the same pairs, steps and flags")
    args = parser.parse_args()
    pairs, table = pairs_of(args.pairs, args.seeds), dict[str, list[tuple[Scores, Scores]]]()
    if args.results and args.results.exists():
        table = json.loads(args.results.read_text(encoding="utf-8"))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(args.family, Path(scratch), args.pictures)
        for name in args.only:
            own = table.setdefault(name, [])
            for number, pair in list(enumerate(pairs))[len(own) :]:
                folder = Path(scratch) / name.replace(" ", "_") / str(number)
                words = WAYS[name](lab, pair, folder, args.steps, args.add.split())
                own.append(judged(lab, pair, words))
                if args.results:
                    write_bytes(args.results, json.dumps(table).encode())
                minutes = (time.monotonic() - begun) / 60
                what = f"{name}: {pair.shape.name}, {pair.pattern.name} {own[-1]}"
                print(f"{what}; {minutes:.0f} min", file=sys.stderr, flush=True)
    print("\n".join([*rows_of(table), "", *by_pattern(table, pairs)]))


if __name__ == "__main__":
    main()
