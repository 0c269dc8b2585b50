"""Words learned by the dozen on a demo model, and judged: what `quality.py` measures with."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.config import ModelConfig, TrainConfig
from coinage.demo.concepts import CONCEPTS, Concept
from coinage.demo.dataset import write_dataset
from coinage.demo.score import Trial, score, trials
from coinage.demo.worlds import MODELS, WORLDS
from coinage.embeddings.install import install_embeddings, install_words
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word as LearnedWord
from coinage.generate import draw
from coinage.models.families import FAMILIES, Components
from coinage.models.quiet import quiet_libraries
from coinage.settings.discover import complete
from coinage.training.evaluation import DRAWS
from coinage.training.loop import train_together
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.training.search.init_word import start_from_the_best
from coinage.training.setup import prepare_all

REACHABLE = tuple(concept for concept in CONCEPTS.values() if concept.reachable)
TOGETHER = 21  # words in one batch; more are no faster on a CPU
DRAWN = 96  # pictures in one batch
SAMPLER, STEPS = "dpmsolver++", 10  # reads as 25 steps of DDIM do, and costs 0.4 of them
BATCH = 4  # images a step, as the datasets say
LETTERS = "bcdfghjklmnpqrstvwxz"


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to train: a name for the table, and flags of the training command.

    Its rate does not ask how long the run is.
    """

    name: str
    flags: tuple[str, ...] = ()
    # Nothing is said but images, word and model: no captions, no init word, no size
    newcomer: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A word to learn: what it means, the seed of its images and of all chance, and its token.

    Words of odd seeds are learned from snapshots: all on one ground and in one colour, with
    captions that tell neither.
    """

    concept: Concept
    seed: int
    token: str


@dataclass(frozen=True, slots=True)
class Result:
    """How well a word was learned at a checkpoint.

    Attributes:
        concept: its name.
        seed: of images and training.
        passes: images that have gone through the UNet for it, measurements included.
        found: S, share of the pictures that show the concept, 0..1.
        obeyed: E, share of the pictures that show all else that the prompt asks for, 0..1.
        length: of the word's vectors, in the mean.
    """

    concept: str
    seed: int
    passes: int
    found: float
    obeyed: float
    length: float

    @property
    def both(self) -> float:
        """(S + E) / 2."""
        return (self.found + self.obeyed) / 2


def words_for(concepts: Sequence[str], seeds: Sequence[int]) -> list[Word]:
    """A word for every concept and seed; each token is new to the models, and no piece of another."""
    pairs = [(CONCEPTS[name], seed) for seed in seeds for name in concepts]
    return [
        Word(c, seed, f"zu{LETTERS[i // 20]}a{LETTERS[i % 20]}o")
        for i, (c, seed) in enumerate(pairs)
    ]


@dataclass(frozen=True, slots=True)
class Kept:
    """A word at a checkpoint, and how many images have gone through the UNet for it.

    They are counted apart: to find a start, to learn, to measure.
    """

    file: LearnedWord
    passes: int


class Keeper(Observer):
    """Keeps the word as it is at some steps, and at the end where the run ends by itself."""

    def __init__(self, checkpoints: Sequence[int], before: int) -> None:
        self._checkpoints, self._before = checkpoints, before
        self.kept: dict[int, Kept] = {}

    def stepped(self, run: Run) -> None:
        if run.step in self._checkpoints:
            self._keep(run, run.step)

    def finished(self, run: Run) -> None:
        for step in self._checkpoints:
            if step not in self.kept:  # it has ended sooner
                self._keep(run, step)

    def _keep(self, run: Run, step: int) -> None:
        passes = self._before + run.progress.images + len(run.results.measurements) * DRAWS
        self.kept[step] = Kept(run.embedding(), passes)


def prepared(configs: Sequence[TrainConfig]) -> list[Run]:
    """Their runs, on one model, with latents in memory."""
    runs = prepare_all(
        configs,
        [make_plans([config])[0].samples for config in configs],
        torch.device("cpu"),
        [None] * len(configs),
    )
    for run in runs:
        run.latents.cache(8, lambda _: None)
    return runs


class Lab:
    """A demo model, a folder of datasets, and the prompts that judge words."""

    def __init__(self, family: str, folder: Path, pictures: int) -> None:
        quiet_libraries()
        logging.getLogger("coinage").setLevel(logging.ERROR)
        self.family, self.folder, self.pictures = family, folder, pictures
        self.model, self.world = MODELS / family, WORLDS[family]

    def dataset(self, word: Word) -> Path:
        """The word's images and captions, written once."""
        folder = self.folder / f"{word.concept.name}-{word.seed}-{word.token}"
        config = folder / "dataset.toml"
        return (
            config
            if config.exists()
            else write_dataset(
                folder,
                word.concept,
                word.token,
                word.seed,
                snapshots=word.seed % 2 == 1,
                spread=self.world.spread,
            )
        )

    def config(self, word: Word, setting: Setting, steps: int) -> TrainConfig:
        """The training command's configuration for a word."""
        data = self.dataset(word)
        given = [
            f"--pretrained_model_name_or_path={self.model}",
            f"--output_dir={self.folder / 'out'}",
            f"--token_string={word.token}",
            f"--seed={word.seed}",
            *setting.flags,
        ]
        if setting.newcomer:
            for caption in (data.parent / "images").glob("*.txt"):
                caption.unlink()
            given.append(f"--train_data_dir={data.parent / 'images'}")
        else:
            given += [
                f"--dataset_config={data}",
                f"--init_word={word.concept.init_word}",
                f"--max_train_steps={steps}",
                "--cache_latents",
            ]
        return complete(parse("coinage", given, "quality"))[0]

    def learn(
        self, words: Sequence[Word], setting: Setting, checkpoints: Sequence[int]
    ) -> list[dict[int, Kept]]:
        """Train words together; each as it is at every checkpoint."""
        configs = [self.config(word, setting, max(checkpoints)) for word in words]
        runs = prepared(configs)
        keepers = [Keeper(checkpoints, start_from_the_best(run)) for run in runs]
        train_together(runs, [[keeper] for keeper in keepers])
        return [keeper.kept for keeper in keepers]

    def load(self) -> Components:
        """The model, as it came."""
        return FAMILIES[self.family].load(
            ModelConfig(source=str(self.model), family=self.family), torch.float32
        )

    def judge(self, words: Sequence[Word], kept: Sequence[Kept]) -> list[Result]:
        """Draw pictures with the words, read them, and compare with what the prompts asked for."""
        family, parts = FAMILIES[self.family], self.load()
        install_embeddings(
            parts,
            family.facts.keys,
            [(word.token, own.file) for word, own in zip(words, kept, strict=True)],
        )
        asked = [self.trials(word) for word in words]
        images = list(draw(family, parts, [trial.prompt for own in asked for trial in own], DRAWN))
        results = []
        for at, (word, own, learned) in enumerate(zip(words, asked, kept, strict=True)):
            found, obeyed = score(own, images[at * self.pictures : (at + 1) * self.pictures])
            length = mean(float(rows.norm(dim=1).mean()) for rows in learned.file.vectors.values())
            results.append(
                Result(word.concept.name, word.seed, learned.passes, found, obeyed, length)
            )
        return results

    def trials(self, word: Word) -> list[Trial]:
        """Prompts with the word; the same for every setting."""
        made = trials(word.concept, word.token, self.pictures, 1000 + word.seed, self.family)
        if FAMILIES[self.family].facts.is_flow:  # it has one sampler
            return made
        return [
            replace(trial, prompt=replace(trial.prompt, steps=STEPS, sampler=SAMPLER))
            for trial in made
        ]

    def measure(
        self, words: Sequence[Word], setting: Setting, checkpoints: Sequence[int]
    ) -> Iterator[tuple[int, list[Result]]]:
        """Train with a setting, and judge at every checkpoint."""
        groups = [words[i : i + TOGETHER] for i in range(0, len(words), TOGETHER)]
        kept = [own for some in groups for own in self.learn(some, setting, checkpoints)]
        for step in checkpoints:
            yield step, self.judge(words, [own[step] for own in kept])

    def untrained(self, words: Sequence[Word]) -> list[Result]:
        """The words as they start."""
        keys, parts = FAMILIES[self.family].facts.keys, self.load()
        install_words(parts, [self.config(word, Setting(""), 1).word for word in words], keys)
        rows = [[own.detach() for own in parts.rows(place)] for place in range(len(words))]
        return self.judge(
            words, [Kept(LearnedWord(dict(zip(keys, own, strict=True))), 0) for own in rows]
        )

    def peer(self, words: Sequence[Word], script: str, arguments: str, steps: int) -> list[Result]:
        """Train with another program, word by word, and judge what it wrote.

        Args:
            words: to learn.
            script: what Python starts.
            arguments: with {model}, {data}, {images}, {out}, {token}, {init}, {steps} and {seed}
                for what they name.
            steps: of each word.
        """
        kept = []
        for word in words:
            out = self.folder / "peer"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            data = self.dataset(word)
            filled = {
                "model": self.model, "data": data, "images": data.parent / "images", "out": out,
                "token": word.token, "init": word.concept.init_word, "steps": steps, "seed": word.seed,
            }  # fmt: skip
            command = [
                sys.executable,
                script,
                *(part.format(**filled) for part in shlex.split(arguments)),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = sorted(
                (p for p in out.rglob("*") if p.suffix in {".safetensors", ".pt", ".bin"}),
                key=lambda p: p.stat().st_mtime,
            )
            if done.returncode or not found:
                sys.exit(
                    f"{shlex.join(command)}\nended with {done.returncode}\n{done.stderr[-3000:]}"
                )
            kept.append(Kept(read(found[-1]), steps * BATCH))
        return self.judge(words, kept)


def as_json(results: Mapping[str, Mapping[int, Sequence[Result]]]) -> str:
    """All results, to be read again."""
    return json.dumps(
        {
            name: {step: [_fields(r) for r in own] for step, own in by_step.items()}
            for name, by_step in results.items()
        }
    )


def from_json(text: str) -> dict[str, dict[int, list[Result]]]:
    """What `as_json` wrote."""
    raw: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(text)
    return {
        name: {int(step): [Result(**r) for r in own] for step, own in by_step.items()}
        for name, by_step in raw.items()
    }


def _fields(result: Result) -> dict[str, Any]:
    return {
        name: getattr(result, name)
        for name in ("concept", "seed", "passes", "found", "obeyed", "length")
    }
