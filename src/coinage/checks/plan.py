"""The draft that checks work on, and the plan that they return. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coinage.checks.footprint import Footprint
from coinage.checks.output import make_folder
from coinage.config import TrainConfig
from coinage.data.batches import length_of
from coinage.data.sample import Sample
from coinage.errors import Findings, Problem
from coinage.runs.lock import Lock
from coinage.system.launch import process_count
from coinage.text.clip_tokenizer import ClipTokenizer
from coinage.text.prompts import Prompt


@dataclass(slots=True)
class Draft:
    """A word's run while it is checked.

    Attributes:
        label: what the word is called in messages about several; "" where it is the only one.
        config: nothing in it is open any more.
        findings: of all checks so far.
        seed_drawn: nobody gave the seed.
        tokenizer: of the model's first text encoder, where it could be read.
        word_is_sound: the word itself can be learned.
        samples: the images.
        prompts: of previews.
        state: folder of the state to go on from.
        lock: on the run's name.
    """

    label: str
    config: TrainConfig
    findings: Findings
    seed_drawn: bool = False
    tokenizer: ClipTokenizer | None = None
    word_is_sound: bool = False
    samples: tuple[Sample, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    state: Path | None = None
    lock: Lock | None = None

    def length(self) -> tuple[int, int]:
        """Return optimizer steps and epochs of the run; it has images to train on."""
        return length_of(self.config, self.samples, process_count())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run of one word, ready to begin: what was asked for, and what the checks found.

    Attributes:
        label: what the word is called in messages about several; "" where it is the only one.
        config: what was asked for; what was left open in it has been looked up.
        samples: the images, with the buckets that they are fitted to.
        prompts: of previews.
        state: folder of the state to go on from; None where the run begins.
        steps: optimizer steps of the whole run.
        epochs: passes over the images of the whole run.
        memory: GPU memory that the run needs, with all words that train side by side.
        seed_drawn: nobody gave the seed.
        notes: what a user should know.
        warnings: what is probably a mistake.
        lock: on the run's name, until `release`.
    """

    label: str
    config: TrainConfig
    samples: tuple[Sample, ...]
    prompts: tuple[Prompt, ...]
    state: Path | None
    steps: int
    epochs: int
    memory: Footprint
    seed_drawn: bool
    notes: tuple[str, ...]
    warnings: tuple[Problem, ...]
    lock: Lock | None

    def start(self) -> None:
        """Make the run's folders and take its name. A run does this before anything else.

        Raises:
            ConfigError: a folder cannot be made, or another run has taken the name in the meantime.
        """
        findings = Findings(errors=make_folder(self.config.save.output_dir))
        if self.config.log.dir:
            findings.errors += make_folder(self.config.log.dir, "--logging_dir")
        if self.lock and not findings.errors:
            self.lock.take(findings)
        findings.raise_errors()

    def release(self) -> None:
        """Give the run's name free for other runs."""
        if self.lock:
            self.lock.release()


@contextmanager
def released(plans: Sequence[Plan]) -> Iterator[None]:
    """Give the names of runs free at the end."""
    try:
        yield
    finally:
        for plan in plans:
            plan.release()
