"""`coinage demo`: write a dataset, run the training command, show and score what was learned.

The training runs as a command in a process of its own, since this command is what the demo shows.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coinage.checks.output import make_folder
from coinage.config import WordConfig
from coinage.demo.concepts import CONCEPTS, Concept
from coinage.demo.dataset import write_dataset
from coinage.demo.grid import Row, draw_grid
from coinage.demo.score import Trial, prompt_for, score, showcase, trials
from coinage.demo.worlds import MODELS, WORLDS
from coinage.errors import AlreadyReported, ConfigError, Problem, TrainingError, did_you_mean
from coinage.models.facts import FACTS
from coinage.system.files import save_image, write_bytes
from coinage.terminal.messages import print_line, print_text
from coinage.terminal.progress import counted
from coinage.text.prompts import Prompt

MODEL = MODELS / "sd1"
LEARNING_RATE = 5e-3
BATCH = 16  # pictures drawn together
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What to teach, under which word, and in which folder."""

    concept: str
    word: str
    seed: int
    steps: int
    folder: Path
    family: str = "sd1"

    def find_concept(self) -> Concept:
        """Return the concept by its name.

        Raises:
            ConfigError: no such concept.
        """
        if self.concept not in CONCEPTS:
            hint = did_you_mean(self.concept, list(CONCEPTS)) or f"one of {', '.join(CONCEPTS)}"
            raise ConfigError([Problem(f"unknown concept {self.concept!r}", hint=hint)])
        return CONCEPTS[self.concept]


def training_command(settings: DemoSettings, config: Path, init_word: str) -> list[str]:
    """Return the command that trains the demo's word, as a user would type it."""
    folder = settings.folder
    return [
        sys.executable,
        *_script_of(FACTS[settings.family].script),
        f"--pretrained_model_name_or_path={folder / 'model'}",
        f"--dataset_config={config}",
        f"--output_dir={folder}",
        f"--output_name={settings.word}",
        "--save_model_as=safetensors",
        f"--token_string={settings.word}",
        f"--init_word={init_word}",
        f"--max_train_steps={settings.steps}",
        f"--learning_rate={LEARNING_RATE}",
        "--cache_latents",
        f"--seed={settings.seed}",
        *FACTS[settings.family].script_flags,
    ]


def _script_of(name: str) -> list[str]:
    """Return how a script is started from here; `coinage train` where it is not installed."""
    script = Path(__file__).parents[3] / name
    if not script.is_file():
        return ["-m", "coinage.cli.main", "train"]
    return [_from_here(script)]


def _from_here(path: Path) -> str:
    """Return a path as it is typed in the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def export(settings: DemoSettings) -> list[str]:
    """Write model and dataset, print the training command and return it.

    Raises:
        ConfigError: the folder cannot be written, or the seed is negative.
    """
    concept = settings.find_concept()
    problems = make_folder(settings.folder, "--output")
    if settings.seed < 0:
        problems.append(Problem(f"--seed {settings.seed} must not be negative"))
    if problems:
        raise ConfigError(problems)
    shutil.copytree(MODELS / settings.family, settings.folder / "model", dirs_exist_ok=True)
    config = write_dataset(
        settings.folder / "dataset",
        concept,
        settings.word,
        settings.seed,
        spread=WORLDS[settings.family].spread,
    )
    command = training_command(settings, config, concept.init_word)
    print_text(shown(command))
    return command


def shown(command: Sequence[str]) -> str:
    """Return the command as a user would paste it into this system's shell."""
    words = [_from_here(Path(command[0])), *command[1:]]
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    return " \\\n  ".join([shlex.join(words[:2]), *map(shlex.quote, words[2:])])


def run(settings: DemoSettings) -> None:
    """Run the whole demo.

    Raises:
        TrainingError: the training command failed.
    """
    concept = settings.find_concept()
    title = f"Teaching the word “{settings.word}” to a model that does not know {concept.name}"
    print_line(title, "stderr", "bold")
    if not concept.reachable:
        text = "The model cannot draw this shape: it never saw one. See how close a word can get."
        print_line(text, "stderr")
    command = export(settings)
    print_line("", "stderr")
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    print_line("", "stderr")
    if code == ConfigError.exit_code:
        raise AlreadyReported  # the command has said what is wrong
    if code:
        raise TrainingError("the training command failed", hint="its messages are above")
    seconds = time.monotonic() - started
    result = _show(settings, concept) | {"seconds": round(seconds, 1)}
    write_bytes(settings.folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    saved = settings.folder / f"{settings.word}.safetensors"
    learned = f"before {result['S_before']:.0%}, after {result['S_after']:.0%}"
    obeyed = f"before {result['E_before']:.0%}, after {result['E_after']:.0%}"
    print_line(f"pictures that show the concept:    {learned}", "stderr")
    print_line(f"pictures that obey the rest of it: {obeyed}", "stderr")
    print_line(f"look at {settings.folder / 'previews.png'}; the word is in {saved}", "stderr")


def _show(settings: DemoSettings, concept: Concept) -> dict[str, object]:
    """Draw and score pictures with the word before and after training, and return the result."""
    count = WORLDS[settings.family].trials
    scored = trials(concept, settings.word, count, settings.seed, settings.family)
    prompts = [trial.prompt for trial in scored]
    labels = []
    for i, text in enumerate(showcase(concept, settings.word)):
        prompts.append(prompt_for(text, settings.seed * 100 + i, settings.family))
        labels.append(text.removeprefix("a photo of "))
    model = WordModel(settings.folder / "model", settings.family)
    words = (
        WordConfig(token=settings.word, init_word=concept.init_word),
        WordConfig(token=settings.word, init_file=settings.folder / f"{settings.word}.safetensors"),
    )
    with counted("drawing before and after", len(words) * len(prompts)) as on_count:
        number = itertools.count(1)
        before, after = (
            model.draw(word, prompts, lambda: on_count(next(number))) for word in words
        )
    images = sorted((settings.folder / "dataset" / "images").glob("*.png"))
    rows = [
        Row(
            "the training images, with their captions",
            [np.asarray(Image.open(p)) for p in images],
            [_caption(p) for p in images],
        ),
        Row("before: the same prompts and seeds, the word untrained", before[count:], labels),
        Row(f"after {settings.steps} steps", after[count:], labels),
    ]
    save_image(
        settings.folder / "previews.png", draw_grid(f"“{settings.word}” = {concept.name}", rows)
    )
    return _result(settings, scored, before[:count], after[:count])


def _caption(image: Path) -> str:
    return image.with_suffix(".txt").read_text(encoding="utf-8").strip().removeprefix("a photo of ")


def _result(
    settings: DemoSettings,
    scored: Sequence[Trial],
    before: Sequence[Picture],
    after: Sequence[Picture],
) -> dict[str, object]:
    (s_before, e_before), (s_after, e_after) = score(scored, before), score(scored, after)
    return {
        "family": settings.family,
        "concept": settings.concept,
        "steps": settings.steps,
        "seed": settings.seed,
        "pictures": len(scored),
        "S_before": round(s_before, 4),
        "S_after": round(s_after, 4),
        "E_before": round(e_before, 4),
        "E_after": round(e_after, 4),
    }


class WordModel:
    """Draws with the demo model and one word at a time.

    Attributes:
        model: that draws.
    """

    def __init__(self, folder: Path, family: str) -> None:
        from coinage.api import load_model
        from coinage.models.process_fit import fit_process
        from coinage.models.quiet import quiet_libraries

        quiet_libraries()
        self.model = load_model(folder, family=family, precision="no", device="cpu")
        fit_process(self.model.parts)

    def draw(
        self, word: WordConfig, prompts: Sequence[Prompt], on_image: Callable[[], None]
    ) -> list[Picture]:
        """Return pictures of prompts, with the word as its init word or its file has it."""
        from coinage.embeddings.install import install_word

        install_word(self.model.parts, word, self.model.embedding_keys)
        pictures = []
        for picture in self.model.draw(prompts, BATCH):
            pictures.append(picture)
            on_image()
        return pictures
