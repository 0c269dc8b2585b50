"""Words for the negative prompt, side by side: `python benchmarks/negative.py`.

The demo model draws two things that nobody asked for in about half of its pictures: warm colours
where the prompt names no colour, and shapes that no word means where it only says "shape". A word
for each is learned from eight pictures, in several ways, and written in the negative prompt. Once
more for the shapes, all eight pictures are red on white, which is not what is wrong with them, and
the other prompts ask for just that. An exact reader counts the pictures that still have the defect,
and those of other prompts in which all that they ask for is there. The intervals hold 95 % of what
chance would make of paired pictures: the same prompt and noise, with one negative prompt and with
another.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.data.default_prompts import without_word
from coinage.demo.concepts import SECRET_SHAPES
from coinage.demo.dataset import TOML
from coinage.demo.language import PUBLIC_SHAPES, Words, phrase, plural
from coinage.demo.reader import Reading, read
from coinage.demo.run import MODEL, WordModel
from coinage.demo.score import prompt_for
from coinage.demo.world import BACKGROUNDS, COLOURS, SIZE, Scene, render
from coinage.embeddings.install import install_embeddings
from coinage.embeddings.word import Word
from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.settings.discover import complete
from coinage.system.files import save_image
from coinage.text.prompts import Prompt
from coinage.training.loop import train
from coinage.training.setup import prepare

TOKEN = "zibu"
IMAGES = 8
GUIDANCE = 4.0  # of the pictures, and of words that are trained under it


@dataclass(frozen=True)
class Defect:
    """What the model draws unasked: the part of a scene that is wrong, and what it is then and otherwise.

    The pictures that are learned from, and what other prompts ask for, may have a colour and a
    background in common.
    """

    name: str
    part: str
    bad: tuple[str, ...]
    good: tuple[str, ...]
    init_word: str
    colours: tuple[str, ...] = tuple(COLOURS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)

    def scene(self, rng: np.random.Generator, *, bad: bool, free: bool = False) -> Scene:
        """Any scene, with the defect or without; `free`: of all colours and backgrounds."""
        colours, backgrounds = (
            (tuple(COLOURS), tuple(BACKGROUNDS)) if free else (self.colours, self.backgrounds)
        )
        scene = Scene(_any(rng, PUBLIC_SHAPES), _any(rng, colours), _any(rng, backgrounds))
        part: dict[str, Any] = {self.part: _any(rng, self.bad if bad else self.good)}
        return replace(scene, **part)

    def caption(self, scene: Scene, said: str | None = None) -> str:
        """A caption that is silent about the part, or calls it `said`."""
        if self.part == "shape":
            return phrase(Words(said or "shape", scene.colour, scene.background))
        return phrase(Words(scene.shape, said, scene.background))

    def is_in(self, found: Reading) -> bool:
        """Whether a picture has the defect."""
        return getattr(found, self.part) in self.bad


SECRET = tuple(concept.name for concept in SECRET_SHAPES)
DEFECTS = (
    Defect(
        "warm colours",
        "colour",
        ("red", "orange", "yellow", "pink"),
        ("green", "cyan", "blue", "purple"),
        "red",
    ),
    Defect("nameless shapes", "shape", SECRET, PUBLIC_SHAPES, "shape"),
    Defect(
        "nameless shapes, red on white",
        "shape",
        SECRET,
        PUBLIC_SHAPES,
        "shape",
        ("red",),
        ("white",),
    ),
)


def _any(rng: np.random.Generator, options: Sequence[str]) -> str:
    return str(rng.choice(list(options)))


# Of what is predicted for the word, the caption and no text
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


def guided(word: Tensor, caption: Tensor, _blank: Tensor) -> Tensor:
    """What is drawn under guidance with the word as the negative prompt.

    Dong et al. 2022, arXiv:2211.11337.
    """
    return word + GUIDANCE * (caption - word)


def composed(word: Tensor, caption: Tensor, blank: Tensor) -> Tensor:
    """The word added to the caption: it takes on what the caption does not say.

    Liu et al. 2022, arXiv:2206.01714, eq. 11.
    """
    return caption + word - blank


class Ruled:
    """A family that predicts by a rule from the word alone, the caption without it, and no text.

    Only the first has a gradient.
    """

    def __init__(self, family: ModelFamily, rule: Rule) -> None:
        self._family, self._rule = family, rule
        self._texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def encode_ids(self, parts: Components, ids: Sequence[Tensor], sizes: Tensor) -> Conditioning:
        """The word's conditioning; the captions are kept for later."""
        tokenizer: Any = parts.tokenizers[0]
        known = len(parts.embeddings[0].table)
        self._texts = []
        for row in ids[0].tolist():
            pieces: list[list[int]] = [[]]
            for number in row:
                if number < known:
                    pieces[-1].append(number)
                else:
                    pieces.append([])
            texts = [tokenizer.decode(piece, skip_special_tokens=True) for piece in pieces]
            self._texts.append(without_word(f" {TOKEN} ".join(texts), TOKEN))
        return self._family.encode(parts, [TOKEN] * len(self._texts), sizes)

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        """What the rule makes of the three answers."""
        sizes = torch.zeros(len(self._texts), 6, dtype=torch.int64)
        with torch.no_grad():
            told = [
                self._family.encode(parts, texts, sizes)
                for texts in (self._texts, [""] * len(self._texts))
            ]
            caption, blank = (
                self._family.predict(parts, noisy_latents, timesteps, one) for one in told
            )
        return self._rule(
            self._family.predict(parts, noisy_latents, timesteps, cond), caption, blank
        )


@dataclass(frozen=True)
class Way:
    """A way to learn a word: from which pictures, with which captions and flags."""

    bad: bool = True
    flags: tuple[str, ...] = ()
    said: bool = True  # the word stands in the caption in place of what is wrong, else behind it
    rule: Rule | None = None

    def caption(self, defect: Defect, scene: Scene) -> str:
        """A caption of a picture."""
        return defect.caption(scene, TOKEN) if self.said else f"{defect.caption(scene)}, {TOKEN}"


WAYS = {
    "captions with the word": Way(),
    "--role negative": Way(flags=("--role=negative",)),
    "--role negative, AdamW 1e-2": Way(
        flags=("--role=negative", "--optimizer_type=AdamW", "--learning_rate=1e-2")
    ),
    "--role negative, 4 vectors": Way(flags=("--role=negative", "--num_vectors_per_token=4")),
    "added to captions": Way(said=False, rule=composed),
    "guided, good pictures": Way(bad=False, said=False, rule=guided),
}


def learned(defect: Defect, way: Way, seed: int, steps: int) -> Word:
    """A word, trained as `coinage train` would."""
    rng = np.random.default_rng([seed, 3])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(IMAGES):
            scene = defect.scene(rng, bad=way.bad)
            save_image(folder / "images" / f"{i}.png", render(scene, rng))
            (folder / "images" / f"{i}.txt").write_text(
                way.caption(defect, scene), encoding="utf-8"
            )
        data = folder / "dataset.toml"
        data.write_text(
            TOML.format(size=SIZE, folder=json.dumps((folder / "images").as_posix())),
            encoding="utf-8",
        )
        flags = [
            f"--pretrained_model_name_or_path={MODEL}",
            f"--dataset_config={data}",
            f"--output_dir={folder}",
            f"--token_string={TOKEN}",
        ]
        flags += [
            f"--init_word={defect.init_word}",
            f"--max_train_steps={steps}",
            f"--seed={seed}",
            "--cache_latents",
        ]
        config, _ = complete(parse("coinage", [*flags, *way.flags], "benchmark"))
        run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
        run.latents.cache(IMAGES, lambda _: None)
        if way.rule:
            run.family = cast(ModelFamily, Ruled(run.family, way.rule))
        return train(run, [])


def probes(defect: Defect, count: int, seed: int) -> list[Prompt]:
    """Prompts that leave room for the defect."""
    rng = np.random.default_rng([seed, 21])
    texts = [defect.caption(defect.scene(rng, bad=False, free=True)) for _ in range(count)]
    return [_prompt(text, rng) for text in texts]


def others(defect: Defect, count: int, seed: int) -> list[tuple[Prompt, dict[str, object]]]:
    """Return prompts that ask for other things, and what they ask for.

    That is shape, colour and background, and by turns two objects or a texture.
    """
    rng = np.random.default_rng([seed, 22])
    found = []
    for i in range(count):
        scene = defect.scene(rng, bad=False)
        asked: dict[str, object] = {
            "shape": scene.shape,
            "colour": scene.colour,
            "background": scene.background,
            "count": 1 + (i % 3 == 1),
        }
        texture = _any(rng, ("striped", "dotted")) if i % 3 == 2 else None
        noun = plural(scene.shape) if i % 3 == 1 else scene.shape
        text = phrase(Words(noun, scene.colour, scene.background, texture, 1 + (i % 3 == 1)))
        found.append((_prompt(text, rng), asked | ({"texture": texture} if texture else {})))
    return found


def _prompt(text: str, rng: np.random.Generator) -> Prompt:
    return replace(
        prompt_for(text, int(rng.integers(2**31))), steps=10, sampler="dpmsolver++", scale=GUIDANCE
    )


# Which pictures have the defect; which of other prompts have all that is asked for
Hits = tuple[list[bool], list[bool]]


def judged(model: WordModel, defect: Defect, negative: str, count: int, seed: int) -> Hits:
    """Pictures with a negative prompt."""
    asked = others(defect, count, seed)
    prompts = [
        replace(prompt, negative=negative)
        for prompt in (*probes(defect, count, seed), *(prompt for prompt, _ in asked))
    ]
    found = [read(image) for image in model.model.draw(prompts, 96)]
    wanted = zip(asked, found[count:], strict=True)
    return [defect.is_in(own) for own in found[:count]], [
        all(getattr(own, k) == v for k, v in want.items()) for (_, want), own in wanted
    ]


def difference(ours: Sequence[bool], theirs: Sequence[bool]) -> str:
    """The mean difference of paired hits, with what it is sure to."""
    gaps = [float(a) - float(b) for a, b in zip(ours, theirs, strict=True)]
    return f"{fmean(gaps):+.3f} ± {1.96 * pstdev(gaps) / sqrt(len(gaps)):.3f}"


def row(defect: str, way: str, hits: Hits, none: Hits, naive: Hits) -> str:
    """A line of the table."""
    cells = [f"{fmean(hits[0]):.3f}", difference(hits[0], none[0]), difference(hits[0], naive[0])]
    return (
        f"| {defect} | {way} | "
        + " | ".join([*cells, f"{fmean(hits[1]):.3f}", difference(hits[1], none[1])])
        + " |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=96, help="Of each kind, for each word.")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    model, start = WordModel(MODEL, "sd1"), time.monotonic()
    names = ["none", *args.ways]
    found: dict[tuple[str, str], Hits] = {
        (defect.name, name): ([], []) for defect in DEFECTS for name in names
    }
    for seed in args.seeds:
        for defect in DEFECTS:
            for name in names:
                words = (
                    []
                    if name == "none"
                    else [(TOKEN, learned(defect, WAYS[name], seed, args.steps))]
                )
                install_embeddings(
                    model.model.parts,
                    model.model.embedding_keys,
                    words or [(TOKEN, _nothing(model))],
                )
                hits = judged(model, defect, TOKEN if words else "", args.pictures, seed)
                for kept, new in zip(found[defect.name, name], hits, strict=True):
                    kept.extend(new)
                told = (
                    f"seed {seed}, {defect.name}, {name}: {fmean(hits[0]):.3f} "
                    f"with the defect, E {fmean(hits[1]):.3f}"
                )
                print(f"{told}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(
        "| defect | word from | share | against none | against the first | E | against none |\n"
        "|---|---|---|---|---|---|---|"
    )
    for (defect_name, name), hits in found.items():
        print(
            row(
                defect_name,
                name,
                hits,
                found[defect_name, "none"],
                found[defect_name, args.ways[0]],
            )
        )
    return 0


def _nothing(model: WordModel) -> Word:
    """A word that no prompt uses."""
    width = model.model.parts.text_encoders[0].get_input_embeddings().weight.shape[1]
    return Word({key: torch.zeros(1, width) for key in model.model.embedding_keys}, TOKEN)


if __name__ == "__main__":
    sys.exit(main())
