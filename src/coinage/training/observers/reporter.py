"""The page of a run, `OUTPUT/NAME-report.html`, rewritten as the run goes."""

from __future__ import annotations

import glob
import logging
import math
import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import torch

from coinage import __version__
from coinage.config import TrainConfig
from coinage.data.sample import Sample
from coinage.embeddings.verify import COMPARED, Check, usage
from coinage.errors import CoinageError, reason_of
from coinage.models.facts import FACTS
from coinage.models.vocabulary import Vocabulary
from coinage.report.contact_sheet import marks_of, thumbnail
from coinage.report.curves import CurveKeeper
from coinage.report.fit import evenly
from coinage.report.page import read_report, render_report
from coinage.report.pictures import data_url
from coinage.report.record import Image, PreviewPrompt, Record, Row, Shot, Standing, Status, Tool
from coinage.system.files import write_bytes
from coinage.terminal.messages import message_of
from coinage.text.placeholder import marked_parts
from coinage.text.prompts import Prompt
from coinage.training.observers.base import Observer, Picture
from coinage.training.run import BANDS, Run

log = logging.getLogger("coinage")
MOST_IMAGES, THUMBNAIL = 40, 144  # of the contact sheet; pixels
MOST_PROMPTS, PREVIEW = 12, 256  # of the previews; pixels
MOST_SHOTS = 100  # steps whose previews are kept; of more, every second one goes
LEAST_INTERVAL = 15.0  # seconds between two writings
SHARE = 0.01  # of a run's time goes into writing, at most
NEAREST = 5


class WarningsKept(logging.Handler):
    """Keeps what is warned of while it is in use, each text once."""

    def __init__(self, already: Iterable[str] = ()) -> None:
        super().__init__(logging.WARNING)
        self._found = dict.fromkeys(already)

    def emit(self, record: logging.LogRecord) -> None:
        self._found[message_of(record)] = None

    @property
    def found(self) -> list[str]:
        """So far."""
        return list(self._found)

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
        warned: what is warned of.
        processes: of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        rows: int,
        prompts: Sequence[Prompt],
        warned: WarningsKept,
        processes: int = 1,
    ) -> None:
        word, model = config.word, config.model
        self.path = config.save.output_dir / f"{word.output_name}-report.html"
        self._warned = warned
        self._keeper = CurveKeeper(BANDS, rows)
        self._begun = self._next = time.monotonic()
        self._before = 0.0  # seconds of the processes that took the run this far
        self._images_before = 0  # learned from by those processes
        self._run: Run | None = None
        self._told = False
        self.written = False  # the page is as the run is
        self.record = Record(
            coinage=__version__,
            name=word.output_name,
            token=word.token,
            family=FACTS[model.family].display_name,
            model=Path(model.source).name,
            began=_now(),
            command=command_of(config, processes),
            settings=[
                (group, [(flag, " ".join(words)) for flag, *words in flags])
                for group, flags in settings_of(config)
            ],
        )
        self._prompts = prompts
        for prompt in prompts:
            self._place(prompt)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take a line of the journal."""
        try:
            self._keeper.add(entry)
        except (ValueError, TypeError, KeyError):  # of an earlier version
            log.debug("a line of the log tells nothing: %s", entry)

    def started(self, run: Run) -> None:
        self._run = run
        try:
            self._describe(run)
        except Exception as error:  # noqa: BLE001 - as when it is written
            self._complain(error)
        self._write(run, "training")

    def _describe(self, run: Run) -> None:
        """What does not change over the run."""
        record = self.record
        if run.step:
            self._go_on(run)
        record.starts, record.tried = list(run.results.init_words), list(run.config.loop.tried)
        record.device = f"{run.parts.device}, {str(run.dtype).removeprefix('torch.')}"
        record.total_steps, record.total_epochs = run.total_steps, run.total_epochs
        record.bands = run.parts.schedule.band_limits(BANDS)
        record.image_count = sum(sample.trains for sample in run.samples)
        record.images = shown_images(run.samples, record.token)
        record.rows = [
            Row(key=key, number=number)
            for key, rows in zip(run.family.embedding_keys, run.start, strict=True)
            for number in range(1, len(rows) + 1)
        ]
        vocabularies = _vocabularies(run)
        record.vocabulary = {
            key: words.usual_lengths
            for key, words in zip(run.family.embedding_keys, vocabularies, strict=True)
        }
        for row, words in zip(record.rows, _nearest(vocabularies, run.start), strict=True):
            row.first = words

    def _go_on(self, run: Run) -> None:
        """Take over what the page of the run so far tells and nothing else does."""
        try:
            before = read_report(self.path)
        except (CoinageError, OSError):
            return
        if [asked.text for asked in before.prompts] == [
            asked.text for asked in self.record.prompts
        ]:
            self.record.shots = [shot for shot in before.shots if shot.step <= run.step]
        # Of what it had come to, when the state was saved
        done = min(1.0, run.step / max(before.step, 1))
        self.record.began, self._before = before.began, before.seconds * done
        self._images_before = round(before.images_learned * done)

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Take previews of a step; those of an earlier one, such as the best, stand before what is there of later ones."""
        drawn = {self._place(picture.prompt): picture for picture in pictures}
        places = range(len(self.record.prompts))
        shot = Shot(
            step=step,
            pictures=[data_url(drawn[i].pixels, PREVIEW) if i in drawn else None for i in places],
        )
        shots = sorted(
            [*(other for other in self.record.shots if other.step != step), shot],
            key=lambda shot: shot.step,
        )
        thin = len(shots) > MOST_SHOTS and shot is shots[-1]  # the best step's stay
        self.record.shots = [shots[0], *shots[2::2]] if thin else shots
        self._next = time.monotonic()

    def _place(self, prompt: Prompt) -> int | None:
        """A prompt's place on the page, where a file that was changed may bring new ones; None when there are too many."""
        of = self._place(self._prompts[prompt.of]) if prompt.of is not None else None
        asked = PreviewPrompt(text=prompt.text, seed=prompt.seed, of=of, negative=prompt.negative)
        prompts = self.record.prompts
        if asked not in prompts and len(prompts) < MOST_PROMPTS:
            prompts.append(asked)
        return prompts.index(asked) if asked in prompts else None

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

    def close(self) -> None:
        """Where a second signal ended the run at once, the page must not say that it goes on."""
        if self.record.status == "training" and self._run is not None:
            self._write(self._run, "stopped")

    def verified(self, run: Run, path: Path, checks: Sequence[Check]) -> None:
        """Tell how the file to use does in other tools."""
        record = self.record
        record.file = str(path)
        record.tools = [
            Tool(
                tool=c.tool,
                loads=c.loads,
                same=c.same,
                difference=c.difference,
                write=c.write,
                why=c.why,
            )
            for c in checks
            if c.tool in COMPARED
        ]
        record.usage = usage(
            path, run.family.name, checks, record.token, negative=run.config.word.role == "negative"
        )
        self._write(run, "finished")

    def _write(self, run: Run, status: Status) -> None:
        record, begun = self.record, time.monotonic()
        record.status, record.written = status, _now()
        record.step, record.epoch = run.step, run.progress.epoch
        record.seconds = self._before + begun - self._begun
        record.measured = [
            (step, measured.loss) for step, measured in sorted(run.results.measurements.items())
        ]
        record.measured_on = run.measured_on
        record.ended_early = (
            run.results.settled.sentence(run.total_steps, run.measured_on)
            if run.results.settled
            else ""
        )
        record.standings = standings(run)
        record.images_learned = self._images_before + run.progress.images
        record.curves = self._keeper.curves()
        record.warnings = self._warned.found
        self.written = False
        try:
            with run.averaged():
                rows = [rows.detach() for rows in run.rows]
                for row, words in zip(record.rows, _nearest(_vocabularies(run), rows), strict=True):
                    row.now = words
            write_bytes(self.path, render_report(record).encode(), sync=status != "training")
            self.written = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the run matters more
            self._complain(error)
        now = time.monotonic()
        self._next = now + max(LEAST_INTERVAL, (now - begun) / SHARE)

    def _complain(self, error: Exception) -> None:
        if not self._told:
            log.warning(
                "%s\nthe run goes on without its report",
                error if isinstance(error, CoinageError) else reason_of(error),
            )
        self._told = True


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _vocabularies(run: Run) -> list[Vocabulary]:
    """The words of each text encoder."""
    pairs = zip(run.parts.embeddings, run.parts.tokenizers, strict=True)
    return [Vocabulary(embedding.table.float(), tokenizer) for embedding, tokenizer in pairs]


def _nearest(
    vocabularies: Sequence[Vocabulary], rows: Sequence[torch.Tensor]
) -> list[list[tuple[str, float]]]:
    """For every row of every text encoder the words it is nearest to."""
    pairs = zip(vocabularies, rows, strict=True)
    found = [
        words
        for vocabulary, own in pairs
        for words in vocabulary.nearest(own.to(vocabulary.table.device), NEAREST)
    ]
    return [[(word, round(cosine, 4)) for word, cosine in words] for words in found]


def shown_images(samples: Sequence[Sample], token: str) -> list[Image]:
    """Some of the training images, evenly chosen."""
    chosen = [samples[i] for i in evenly(len(samples), MOST_IMAGES)]
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


def standings(run: Run) -> list[Standing]:
    """The measured steps, lowest loss first, with the files that were saved there."""
    save, name = run.config.save, run.config.word.output_name
    files = {
        path.stem: path.name for path in save.output_dir.glob(f"{glob.escape(name)}*.{save.format}")
    }
    found = []
    for step, measured in sorted(
        run.results.measurements.items(),
        key=lambda item: (not math.isfinite(item[1].loss), item[1].loss, item[0]),
    ):
        epoch, rest = divmod(step, run.updates_per_epoch)
        stems = [f"{name}-step{step:08d}"] + ([] if rest else [f"{name}-{epoch:06d}"])
        stems = [name, *stems] if run.complete and step == run.step else stems
        stems += [f"{name}-best"] if run.results.best and run.results.best.step == step else []
        angle, norm = (
            value if math.isfinite(value) else None for value in (measured.angle, measured.norm)
        )
        loss = measured.loss if math.isfinite(measured.loss) else None
        found.append(
            Standing(
                step=step,
                loss=loss,
                angle=angle,
                norm=norm,
                file=", ".join(files[stem] for stem in stems if stem in files),
            )
        )
    return found


def settings_of(config: TrainConfig) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Flags that differ from their defaults, and what the datasets set, by group."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for flag in config.log.given:
        groups.setdefault(flag.group, []).append((flag.name, *flag.arguments))
    given = list(groups.items())
    subsets = [subset for dataset in config.data.datasets for subset in dataset.subsets]
    told = dict.fromkeys(
        (where, setting) for subset in subsets for setting, where in subset.settings
    )
    return (
        [*given, ("dataset file", [(where, setting) for where, setting in told])] if told else given
    )


def command_of(config: TrainConfig, processes: int) -> str:
    """A command that repeats the run from its beginning, as this system's shell takes it; the seed is in it, keys are not."""
    program, seed = (
        config.log.program,
        config.loop.seed if config.loop.given_seed is None else config.loop.given_seed,
    )
    start = program if program.startswith("coinage") else f"python {program}"
    if processes > 1:
        start = f"accelerate launch --num_processes={processes} {program.replace('coinage train', '-m coinage.cli.main train')}"
    pairs = [
        (flag.name, *flag.arguments)
        for flag in config.log.given
        if flag.name not in ("--seed", "--resume")
    ]
    lines = [
        [name, *rest] if len(rest) > 1 else ["=".join((name, *rest))]
        for name, *rest in [*pairs, ("--seed", str(seed))]
    ]
    return (" `\n  " if os.name == "nt" else " \\\n  ").join([start, *map(quoted, lines)])


def quoted(words: Sequence[str], system: str = os.name) -> str:
    """Words as a shell takes them: PowerShell on Windows, else sh."""
    if system != "nt":
        return shlex.join(words)
    return " ".join(
        word if re.fullmatch(r"[\w.,:=/\\+-]+", word) else "'" + word.replace("'", "''") + "'"
        for word in words
    )
