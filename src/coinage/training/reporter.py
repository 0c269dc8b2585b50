"""The page of a run, `OUTPUT/NAME-report.html`, rewritten as the run goes."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import torch

from coinage import __version__
from coinage.config import TrainConfig
from coinage.contact_sheet import marks_of, thumbnail
from coinage.data.sample import Sample
from coinage.errors import CoinageError
from coinage.files import write_bytes
from coinage.model_files import FAMILY_NAMES
from coinage.prompts import Prompt
from coinage.report.curves import CurveKeeper
from coinage.report.page import read, render
from coinage.report.pictures import data_url
from coinage.report.record import Asked, Image, Record, Row, Shot, Status, Tool
from coinage.training.observers import Observer, Picture
from coinage.training.setup import BANDS, Run
from coinage.verify import COMPARED, Check, usage
from coinage.vocabulary import Vocabulary
from coinage.words import marked_parts

log = logging.getLogger("coinage")
MOST_IMAGES, THUMBNAIL = 40, 144  # of the contact sheet; pixels
MOST_PROMPTS, PREVIEW = 12, 256  # of the previews; pixels
LEAST_INTERVAL = 15.0  # seconds between two writings
SHARE = 0.01  # of a run's time goes into writing, at most
NEAREST = 5


class WarningsKept(logging.Handler):
    """Keeps what is warned of while it is in use."""

    def __init__(self, already: Iterable[str] = ()) -> None:
        super().__init__(logging.WARNING)
        self.found = list(already)

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())

    def __enter__(self) -> Self:
        log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)


class Reporter(Observer):
    """Collects what a page tells and writes it; a page that cannot be written is told once, and the run goes on.

    Args:
        config: of the run.
        rows: trained vectors of all text encoders.
        prompts: of the previews.
        warnings: grows as they are told.
    """

    def __init__(self, config: TrainConfig, rows: int, prompts: Sequence[Prompt], warnings: Sequence[str] = ()) -> None:
        word, model = config.words[0], config.model
        self.path = config.save.output_dir / f"{word.output_name}-report.html"
        self._warnings = warnings
        self._keeper = CurveKeeper(BANDS, rows)
        self._begun = self._next = time.monotonic()
        self._before = 0.0  # seconds of the processes that took the run this far
        self._told = False
        self.record = Record(
            coinage=__version__,
            name=word.output_name,
            token=word.token,
            family=FAMILY_NAMES[model.family],
            model=Path(model.source).name,
            began=_now(),
            command=command_of(config),
            settings=[(group, [(flag, " ".join(words)) for flag, *words in flags]) for group, flags in settings_of(config)],
            prompts=[Asked(text=prompt.text, seed=prompt.seed, of=prompt.of) for prompt in prompts[:MOST_PROMPTS]],
        )

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take a line of the journal."""
        try:
            self._keeper.add(entry)
        except (ValueError, TypeError, KeyError):  # of an earlier version
            log.debug("a line of the log tells nothing: %s", entry)

    def started(self, run: Run) -> None:
        self._describe(run)
        self._write(run, "training")

    def _describe(self, run: Run) -> None:
        """What does not change over the run."""
        record = self.record
        if run.step:
            self._go_on(run)
        record.device = f"{run.parts.device}, {str(run.dtype).removeprefix('torch.')}"
        record.total_steps, record.total_epochs = run.total_steps, run.total_epochs
        steps = run.parts.schedule.num_timesteps
        record.bands = [(-(-i * steps // BANDS), -(-(i + 1) * steps // BANDS)) for i in range(BANDS)]
        record.image_count = sum(sample.trains for sample in run.samples)
        record.images = shown_images(run.samples, record.token)
        record.rows = [
            Row(key=key, number=number)
            for key, rows in zip(run.family.embedding_keys, run.start, strict=True)
            for number in range(1, len(rows) + 1)
        ]
        for key, embedding in zip(run.family.embedding_keys, run.parts.embeddings, strict=True):
            norms = embedding.table.float().norm(dim=1)[:: max(1, len(embedding.table) // 50_000)]
            low, middle, high = norms.quantile(torch.tensor([0.05, 0.5, 0.95], device=norms.device)).tolist()
            record.vocabulary[key] = (low, middle, high)
        for row, words in zip(record.rows, _nearest(run, run.start), strict=True):
            row.first = words

    def _go_on(self, run: Run) -> None:
        """Take over what the page of the run so far tells and nothing else does."""
        try:
            before = read(self.path)
        except (CoinageError, OSError):
            return
        if [asked.text for asked in before.prompts] == [asked.text for asked in self.record.prompts]:
            self.record.shots = [shot for shot in before.shots if shot.step <= run.step]
        self.record.began, self._before = before.began, before.seconds * min(1.0, run.step / max(before.step, 1))
        self.record.images_learned = round(before.images_learned * min(1.0, run.step / max(before.step, 1)))

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Take previews."""
        shown: list[str | None] = [None] * len(self.record.prompts)
        for picture in pictures:
            if picture.index < len(shown):
                shown[picture.index] = data_url(picture.pixels, PREVIEW)
        self.record.shots = [*(shot for shot in self.record.shots if shot.step < step), Shot(step=step, pictures=shown)]
        self._next = time.monotonic()

    def stepped(self, run: Run) -> None:
        if time.monotonic() >= self._next:
            self._write(run, "training")

    def finished(self, run: Run) -> None:
        self._write(run, "finished")

    def stopped(self, run: Run) -> None:
        self._write(run, "stopped")

    def failed(self, run: Run, error: Exception) -> None:
        if not self.record.rows:
            self._describe(run)  # it failed before it began
        self.record.problem = str(error) or type(error).__name__
        self._write(run, "failed")

    def verified(self, run: Run, path: Path, checks: Sequence[Check]) -> None:
        """Tell how the finished file does in other tools."""
        record = self.record
        record.file = str(path)
        record.tools = [
            Tool(tool=c.tool, loads=c.loads, same=c.same, difference=c.difference, write=c.write, why=c.why)
            for c in checks
            if c.tool in COMPARED
        ]
        record.usage = usage(path, run.family.name, checks, record.token)
        self._write(run, "finished")

    def _write(self, run: Run, status: Status) -> None:
        record, begun = self.record, time.monotonic()
        record.status, record.written = status, _now()
        record.step, record.epoch = run.step, run.epoch
        record.seconds = self._before + begun - self._begun
        record.measured = sorted(run.measured.items())
        record.curves = self._keeper.curves()
        record.warnings = list(dict.fromkeys(self._warnings))
        try:
            with run.averaged():
                rows = [rows.detach() for rows in run.parts.rows()]
                for row, words in zip(record.rows, _nearest(run, rows), strict=True):
                    row.now = words
            write_bytes(self.path, render(record).encode(), sync=status != "training")
        except CoinageError as error:
            if not self._told:
                log.warning("%s\ntraining goes on without its report", error)
            self._told = True
        now = time.monotonic()
        self._next = now + max(LEAST_INTERVAL, (now - begun) / SHARE)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _nearest(run: Run, rows: Sequence[torch.Tensor]) -> list[list[tuple[str, float]]]:
    """For every row of every text encoder the words it is nearest to."""
    found: list[list[tuple[str, float]]] = []
    for tokenizer, embedding, own in zip(run.parts.tokenizers, run.parts.embeddings, rows, strict=True):
        table = embedding.table.float()
        found += Vocabulary(table, tokenizer).nearest(own.to(table.device), NEAREST)
    return [[(word, round(cosine, 4)) for word, cosine in words] for words in found]


def shown_images(samples: Sequence[Sample], token: str) -> list[Image]:
    """Some of the training images, evenly chosen."""
    most = min(MOST_IMAGES, len(samples))
    chosen = [samples[i * len(samples) // most] for i in range(most)]
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda sample: thumbnail(sample, THUMBNAIL), chosen))
    return [
        Image(
            name=sample.path.name,
            thumbnail=picture,
            caption=marked_parts(sample.caption, token),
            size_wh=sample.image_wh,
            bucket_wh=sample.fit.bucket_wh,
            repeats=sample.repeats,
            marks=marks_of(sample),
        )
        for sample, picture in zip(chosen, pictures, strict=True)
    ]


def settings_of(config: TrainConfig) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Flags that differ from their defaults, and what the datasets set, by group."""
    given = [(group, list(flags)) for group, flags in config.log.given]
    subsets = [subset for dataset in config.data.datasets for subset in dataset.subsets]
    told = dict.fromkeys((where, setting) for subset in subsets for setting, where in subset.settings)
    return [*given, ("dataset file", [(where, setting) for where, setting in told])] if told else given


def command_of(config: TrainConfig) -> str:
    """A command that repeats the run, as this system's shell takes it; the seed is in it, keys are not."""
    pairs = [flag for _, flags in config.log.given for flag in flags if flag[0] != "--seed"]
    lines = [[name, *rest] if len(rest) > 1 else ["=".join((name, *rest))] for name, *rest in [*pairs, ("--seed", str(config.loop.seed))]]
    return (" ^\n  " if os.name == "nt" else " \\\n  ").join([config.log.program, *map(_quoted_line, lines)])


def _quoted_line(words: Sequence[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
