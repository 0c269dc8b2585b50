"""The page of a run, `OUTPUT/NAME-report.html`, rewritten as the run goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from coinage import __version__
from coinage.config import TrainConfig
from coinage.embeddings.verify import COMPARED, Check, usage
from coinage.errors import CoinageError, reason_of
from coinage.models.facts import FACTS
from coinage.models.vocabulary import Vocabulary
from coinage.report.command import command_of, settings_of
from coinage.report.curves import CurveKeeper
from coinage.report.page import read_report, render_report
from coinage.report.pictures import data_url
from coinage.report.record import PreviewPrompt, Record, Row, Shot, Status, Tool
from coinage.report.standings import MeasuredStep, SavedFiles, standings
from coinage.report.training_images import shown_images, shown_numbers
from coinage.report.word_maps import layer_url
from coinage.system.files import write_bytes
from coinage.text.prompts import Prompt
from coinage.training.image_losses import ImageLoss, foreign
from coinage.training.observers.base import Observer, Picture, Priority
from coinage.training.run import BANDS, Run

log = logging.getLogger("coinage")
MAX_PROMPTS = 12  # of the previews
PREVIEW_SIZE = 256  # pixels
MAX_SHOTS = 100  # steps whose previews are kept; of more, every second one is dropped
MIN_INTERVAL = 15.0  # seconds between two writings
WRITING_SHARE = 0.01  # of a run's time that goes into writing, at most
NEAREST_WORDS = 5  # of the vocabulary, for each vector
Warnings = Callable[[], Sequence[str]]
NearestWords = list[list[tuple[str, float]]]  # for each vector, words and cosines


def no_warnings() -> Sequence[str]:
    """Return no warnings."""
    return ()


class Reporter(Observer):
    """Collects what the page shows and writes it.

    If the page cannot be written, this is logged once and the run continues.

    Args:
        config: of the run.
        row_count: trained vectors of all text encoders.
        prompts: of the previews.
        warnings: called for the warnings so far, each time that the page is written.
        process_count: how many processes train together.

    Attributes:
        path: of the page.
        written: the page shows the run as it is.
    """

    priority = Priority.REPORT

    def __init__(
        self,
        config: TrainConfig,
        row_count: int,
        prompts: Sequence[Prompt],
        warnings: Warnings = no_warnings,
        process_count: int = 1,
    ) -> None:
        word, model = config.word, config.model
        self.path = config.save.output_dir / f"{word.output_name}-report.html"
        self.written = False
        self._warnings = warnings
        self._keeper = CurveKeeper(BANDS, row_count)
        self._began = self._next = time.monotonic()
        self._earlier_seconds = 0.0  # of the processes that took the run this far
        self._earlier_images = 0  # learned from by those processes
        self._run: Run | None = None
        self._complained = False
        self.record = Record(
            coinage=__version__,
            name=word.output_name,
            token=word.token,
            family=FACTS[model.family].display_name,
            model=Path(model.source).name,
            began=_now(),
            command=command_of(config, process_count),
            settings=settings_of(config),
        )
        self._prompts = prompts
        for prompt in prompts:
            self._place(prompt)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take a line of the journal."""
        try:
            self._keeper.add(entry)
        except (ValueError, TypeError, KeyError):  # of an earlier version
            log.debug("a line of the log cannot be drawn: %s", entry)

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Take the previews of a step, which may be an earlier one, such as the best."""
        drawn = {self._place(picture.prompt): picture for picture in pictures}
        urls: list[str | None] = []
        heat: list[str | None] = []
        for place in range(len(self.record.prompts)):
            picture = drawn.get(place)
            urls.append(data_url(picture.pixels, PREVIEW_SIZE) if picture else None)
            word_map = picture.word_maps.get(self.record.token) if picture else None
            heat.append(None if word_map is None else layer_url(word_map))
        shot = Shot(step=step, pictures=urls, heat=heat if any(heat) else [])
        others = [other for other in self.record.shots if other.step != step]
        shots = sorted([*others, shot], key=lambda shot: shot.step)
        if len(shots) > MAX_SHOTS and shot is shots[-1]:  # the best step's stay
            shots = [shots[0], *shots[2::2]]
        self.record.shots = shots
        self._next = time.monotonic()

    def compared(self, run: Run, losses: Sequence[ImageLoss]) -> None:
        """Show how much the word helps with each image; first, those that gain far less than the others."""
        far = [one.sample for one in foreign(losses)]
        gains = {one.sample: one.percent for one in losses}
        shown = dict(zip(shown_numbers(run.samples), self.record.images, strict=False))
        for number in far:
            if number not in shown:
                (shown[number],) = shown_images([run.samples[number]], self.record.token)
            shown[number].marks.append("gains least from the word")
        for number, image in shown.items():
            image.gain = gains.get(number)
        others = [image for number, image in shown.items() if number not in far]
        self.record.images = [*(shown[number] for number in far), *others]

    def verified(self, run: Run, path: Path, checks: Sequence[Check]) -> None:
        """Show the file to use, and how it works in other tools."""
        record = self.record
        record.file = str(path)
        record.tools = [_tool(check) for check in checks if check.tool in COMPARED]
        negative = run.config.word.role == "negative"
        record.usage = usage(path, run.family.name, checks, record.token, negative=negative)
        self._write(run, "finished")

    def started(self, run: Run) -> None:
        self._run = run
        try:
            self._describe(run)
        except Exception as error:  # noqa: BLE001 - as when it is written
            self._complain(error)
        self._write(run, "training")

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

    def close(self, run: Run) -> None:  # noqa: ARG002 - only of a run that began
        """Mark a run that ended at once, by a second signal, as stopped."""
        if self.record.status == "training" and self._run is not None:
            self._write(self._run, "stopped")

    def _describe(self, run: Run) -> None:
        """Fill in what does not change over the run."""
        record = self.record
        if run.step:
            self._continue_page(run)
        record.starts, record.tried = list(run.results.init_words), list(run.config.loop.tried)
        record.device = f"{run.parts.device}, {str(run.dtype).removeprefix('torch.')}"
        record.total_steps, record.total_epochs = run.total_steps, run.total_epochs
        record.bands = run.parts.schedule.band_limits(BANDS)
        record.image_count = sum(sample.trains for sample in run.samples)
        shown = [run.samples[number] for number in shown_numbers(run.samples)]
        record.images = shown_images(shown, record.token)
        record.rows = []
        for key, rows, learns in zip(run.parts.keys, run.start, run.learns_in, strict=True):
            for number in range(1, len(rows) + 1):
                record.rows.append(Row(key=key, number=number, learns=learns))
        vocabularies = _vocabularies(run)
        for key, vocabulary in zip(run.parts.keys, vocabularies, strict=True):
            record.vocabulary[key] = vocabulary.usual_lengths
        for row, words in zip(record.rows, _nearest(vocabularies, run.start), strict=True):
            row.first = words

    def _continue_page(self, run: Run) -> None:
        """Take over from the page of the run so far what is nowhere else."""
        try:
            before = read_report(self.path)
        except (CoinageError, OSError):
            return
        texts_before = [asked.text for asked in before.prompts]
        if texts_before == [asked.text for asked in self.record.prompts]:
            self.record.shots = [shot for shot in before.shots if shot.step <= run.step]
        # As much as there was when the state was saved
        share = min(1.0, run.step / max(before.step, 1))
        self.record.began, self._earlier_seconds = before.began, before.seconds * share
        self._earlier_images = round(before.images_learned * share)

    def _place(self, prompt: Prompt) -> int | None:
        """Return the place of a prompt on the page; None if there are too many.

        A prompt file that was changed during the run may bring new ones.
        """
        original = None if prompt.of is None else self._place(self._prompts[prompt.of])
        asked = PreviewPrompt(
            text=prompt.text, seed=prompt.seed, of=original, negative=prompt.negative
        )
        prompts = self.record.prompts
        if asked in prompts:
            return prompts.index(asked)
        if len(prompts) == MAX_PROMPTS:
            return None
        prompts.append(asked)
        return len(prompts) - 1

    def _write(self, run: Run, status: Status) -> None:
        began = time.monotonic()
        self.written = False
        self._update(run, status, began)
        try:
            self._find_nearest(run)
            page = render_report(self.record).encode()
            write_bytes(self.path, page, sync=status != "training")
            self.written = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the run matters more
            self._complain(error)
        now = time.monotonic()
        self._next = now + max(MIN_INTERVAL, (now - began) / WRITING_SHARE)

    def _update(self, run: Run, status: Status, now: float) -> None:
        """Fill in how far the run is."""
        record = self.record
        record.status, record.written = status, _now()
        record.step, record.epoch = run.step, run.progress.epoch
        record.seconds = self._earlier_seconds + now - self._began
        record.measured = [
            (step, measured.loss) for step, measured in sorted(run.results.measurements.items())
        ]
        record.measured_on = run.measured_on
        if run.results.settled:
            record.ended_early = run.results.settled.sentence(run.total_steps, run.measured_on)
        record.standings = standings(_measured_steps(run), _saved_files(run))
        record.images_learned = self._earlier_images + run.progress.images
        record.curves = self._keeper.curves()
        record.warnings = list(self._warnings())

    def _find_nearest(self, run: Run) -> None:
        """Fill in the words that each vector is nearest to now."""
        with run.averaged():
            rows = [rows.detach() for rows in run.rows]
            nearest = _nearest(_vocabularies(run), rows)
        for row, words in zip(self.record.rows, nearest, strict=True):
            row.now = words

    def _complain(self, error: Exception) -> None:
        """Log once that the page cannot be written."""
        if not self._complained:
            reason = error if isinstance(error, CoinageError) else reason_of(error)
            log.warning("%s\nthe run continues without its report", reason)
        self._complained = True


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _tool(check: Check) -> Tool:
    return Tool(
        tool=check.tool,
        loads=check.loads,
        same=check.same,
        difference=check.difference,
        write=check.write,
        why=check.why,
    )


def _measured_steps(run: Run) -> list[MeasuredStep]:
    return [
        MeasuredStep(step, measured.loss, measured.angle, measured.norm)
        for step, measured in run.results.measurements.items()
    ]


def _saved_files(run: Run) -> SavedFiles:
    save = run.config.save
    return SavedFiles(
        folder=save.output_dir,
        name=run.config.word.output_name,
        suffix=f".{save.format}",
        steps_per_epoch=run.updates_per_epoch,
        last_step=run.step if run.complete else None,
        best_step=run.results.best.step if run.results.best else None,
    )


def _vocabularies(run: Run) -> list[Vocabulary]:
    """Return the words of each text encoder."""
    pairs = zip(run.parts.embeddings, run.parts.tokenizers, strict=True)
    return [Vocabulary(embedding.table.float(), tokenizer) for embedding, tokenizer in pairs]


def _nearest(vocabularies: Sequence[Vocabulary], rows: Sequence[torch.Tensor]) -> NearestWords:
    """Return the words that each row of each text encoder is nearest to."""
    nearest: NearestWords = []
    for vocabulary, of_encoder in zip(vocabularies, rows, strict=True):
        vectors = of_encoder.to(vocabulary.table.device)
        for words in vocabulary.nearest(vectors, NEAREST_WORDS):
            nearest.append([(word, round(cosine, 4)) for word, cosine in words])
    return nearest
