"""What watches a run, such as what draws previews. They read the run and never steer it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coinage.config import PreviewConfig
from coinage.errors import CoinageError, ConfigError, TrainingError
from coinage.files import save_image
from coinage.generate import draw
from coinage.preview_set import steps_for, times_within_share
from coinage.prompts import Prompt, read_prompts
from coinage.terminal import speaking_of
from coinage.training.setup import Run

log = logging.getLogger("coinage")


class Observer:
    """Called by the loop; each method does nothing until a watcher overrides it."""

    def started(self, run: Run) -> None:
        """Before the first step."""

    def stepped(self, run: Run) -> None:
        """After each optimizer update."""

    def measured(self, run: Run) -> None:
        """After the evaluation loss was measured: after `started`, or after `stepped`."""

    def epoch_ended(self, run: Run) -> None:
        """After each epoch, the last one included."""

    def finished(self, run: Run) -> None:
        """After the last step."""

    def stopped(self, run: Run) -> None:
        """In place of `finished`, where the run was asked to stop earlier."""

    def failed(self, run: Run, error: Exception) -> None:
        """In place of `finished`, where the run cannot go on; `run.step` may be 0."""

    def close(self) -> None:
        """When the run is over, failed or not."""


class Together(Observer):
    """Several watchers as one, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def started(self, run: Run) -> None:
        for observer in self._observers:
            observer.started(run)

    def stepped(self, run: Run) -> None:
        for observer in self._observers:
            observer.stepped(run)

    def measured(self, run: Run) -> None:
        for observer in self._observers:
            observer.measured(run)

    def epoch_ended(self, run: Run) -> None:
        for observer in self._observers:
            observer.epoch_ended(run)

    def finished(self, run: Run) -> None:
        for observer in self._observers:
            observer.finished(run)

    def stopped(self, run: Run) -> None:
        for observer in self._observers:
            observer.stopped(run)

    def failed(self, run: Run, error: Exception) -> None:
        for observer in self._observers:
            try:
                observer.failed(run, error)
            except Exception as another:  # noqa: BLE001 - what ended the run matters more, and so do the other observers
                log.warning("%s", another if isinstance(another, CoinageError) else f"{type(another).__name__}: {another}")

    def close(self) -> None:
        for observer in self._observers:
            observer.close()


class Named(Observer):
    """Has what a watcher warns of, and what it ends a run with, name the word, where several learn side by side."""

    def __init__(self, observer: Observer, token: str) -> None:
        self._observer, self._token = observer, token

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            with speaking_of(self._token):
                yield
        except TrainingError as error:
            (problem,) = error.problems
            raise TrainingError(f"{self._token}: {problem.what}", problem.where, problem.hint) from error

    def started(self, run: Run) -> None:
        with self._naming():
            self._observer.started(run)

    def stepped(self, run: Run) -> None:
        with self._naming():
            self._observer.stepped(run)

    def measured(self, run: Run) -> None:
        with self._naming():
            self._observer.measured(run)

    def epoch_ended(self, run: Run) -> None:
        with self._naming():
            self._observer.epoch_ended(run)

    def finished(self, run: Run) -> None:
        with self._naming():
            self._observer.finished(run)

    def stopped(self, run: Run) -> None:
        with self._naming():
            self._observer.stopped(run)

    def failed(self, run: Run, error: Exception) -> None:
        with self._naming():
            self._observer.failed(run, error)

    def close(self) -> None:
        with self._naming():
            self._observer.close()


class Evaluations(Observer):
    """Tells what was measured."""

    def measured(self, run: Run) -> None:
        level = logging.INFO if any(sample.held_out for sample in run.samples) else logging.DEBUG
        log.log(level, "step %d: loss %.4f on %s", run.step, run.measured[run.step].loss, run.measured_on)

    def finished(self, run: Run) -> None:
        if run.settled:
            log.info("%s", run.settled.told(run.total_steps, run.measured_on))


@dataclass(frozen=True, slots=True)
class Picture:
    """A preview: [H, W, 3] pixels, the prompt's number and what it says."""

    index: int
    prompt: Prompt
    pixels: NDArray[np.uint8]


def _changed(path: Path | None) -> int | None:
    """When a file was changed last, in nanoseconds."""
    return path.stat().st_mtime_ns if path and path.is_file() else None


@contextmanager
def holding(rows: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Have rows hold other numbers for a while; their own come back to the bit."""
    kept = [row.detach().clone() for row in rows]
    try:
        _fill(rows, others)
        yield
    finally:
        _fill(rows, kept)


@torch.no_grad()
def _fill(rows: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for row, values in zip(rows, others, strict=True):
        row.copy_(values)


class Previewer(Observer):
    """Draws the prompts at intervals into `OUTPUT/sample`; a preview that fails is told and skipped.

    A run whose previews are drawn at all also has them of its end, wherever that is, and of its best step, where one is kept:
    they are what tells which of the two files to use. A run that is stopped is to go on, and has no end yet.
    """

    def __init__(
        self,
        config: PreviewConfig,
        prompts: Sequence[Prompt],
        folder: Path,
        name: str,
        show: Callable[[Sequence[Picture], int, bool], None],
    ) -> None:
        """Take what to draw, where to write it, and what is called with the pictures, their step, and whether it is an earlier one."""
        self._config, self._prompts, self._folder, self._name, self._show = config, prompts, folder, name, show
        self._changed = _changed(config.prompts)
        self._steps = frozenset[int]()  # where they are drawn by default
        self._first = True
        self._drawn: set[int] = set()  # steps, by this process
        self._begun = 0  # the step that this process went on from: one that begins at the end has nothing to show

    @property
    def _draws(self) -> bool:
        """Whether there are previews at all."""
        config = self._config
        return bool(self._steps or config.at_first or config.every_n_steps or config.every_n_epochs)

    def started(self, run: Run) -> None:
        self._begun = run.step
        if self._config.automatic:
            self._steps = steps_for(times_within_share(self._prompts, run.total_steps, run.images_per_step), run.total_steps)
        if not run.step and (self._config.at_first or 0 in self._steps):  # a run that goes on has drawn it
            # sd-scripts counts what --sample_at_first draws as that of epoch 0.
            self._draw(run, "e000000" if self._config.at_first else "000000")

    def stepped(self, run: Run) -> None:
        every = self._config.every_n_steps
        if run.step in self._steps or (every and not self._config.every_n_epochs and run.step % every == 0):
            self._draw(run, f"{run.step:06d}")

    def epoch_ended(self, run: Run) -> None:
        every = self._config.every_n_epochs
        if every and run.epoch % every == 0:
            self._draw(run, f"e{run.epoch:06d}")

    def finished(self, run: Run) -> None:
        if not self._draws or run.step == self._begun:
            return
        if run.step not in self._drawn:
            self._draw(run, f"{run.step:06d}")
        if run.best and run.best.step not in self._drawn:
            with holding(run.rows, run.best.rows):
                self._draw(run, f"{run.best.step:06d}-best", earlier=run.best.step)

    def _read_again(self) -> None:
        """Take what the file holds now, if it was changed; a file that cannot be used is told, and the prompts stay."""
        before, self._changed = self._changed, _changed(self._config.prompts)
        if self._config.prompts is None or self._changed in (None, before):
            return
        try:
            self._prompts = read_prompts(self._config.prompts, self._config.sampler) or self._prompts
        except ConfigError as error:
            log.warning("%s", error)

    def _draw(self, run: Run, when: str, *, earlier: int | None = None) -> None:
        """Draw all prompts; `earlier` is the step that the rows are of, where they are put in for the time."""
        self._read_again()
        step = run.step if earlier is None else earlier
        self._drawn.add(step)
        stamp = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
        drawn = []
        due = [(index, prompt) for index, prompt in enumerate(self._prompts) if self._first or prompt.of is None]
        self._first = False
        for index, prompt in run.processes.share(due):
            seed = "" if prompt.seed is None else f"_{prompt.seed}"
            path = self._folder / f"{self._name}_{when}_{index:02d}_{stamp}{seed}.png"
            try:
                with run.averaged() if earlier is None else nullcontext():  # kept rows are averaged already
                    (image,) = draw(run.family, run.parts, [prompt], autocast=run.autocast())
                drawn.append(Picture(index, prompt, image))
                save_image(path, image)
                log.debug("drew %s", path)
            except Exception as error:  # noqa: BLE001 - whatever a sampler raises, the run matters more
                log.warning("preview %d failed, training goes on: %s", index, error)
        everyones = [picture for pictures in run.processes.gather(drawn) for picture in pictures]
        self._show(sorted(everyones, key=lambda picture: picture.index), step, earlier is not None)
