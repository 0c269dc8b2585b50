"""Save embeddings and states during a run and at its end, under sd-scripts' names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.config import TrainConfig
from coinage.embeddings.saving import write_checked
from coinage.embeddings.word import Word
from coinage.errors import CoinageError
from coinage.hub import Uploader
from coinage.runs.files import BEST, STATE
from coinage.runs.states import LATEST, content_digests
from coinage.training.metadata import describe
from coinage.training.observers.base import Observer, Priority
from coinage.training.rescue import bring_to_safety
from coinage.training.results import Best
from coinage.training.state import remove, save_state

if TYPE_CHECKING:
    from coinage.training.run import Run

log = logging.getLogger("coinage")


def outdated_epoch(epoch: int, every: int, keep: int) -> int | None:
    """Return the epoch whose save is deleted after that of `epoch`, so that `keep` remain."""
    old = epoch - every * keep
    return old if 0 < old < epoch else None


def outdated_step(step: int, every: int, window: int) -> int | None:
    """Return the step whose save is deleted after that of `step`; never `step` itself.

    Args:
        step: of the save that was just written.
        every: steps from one save to the next.
        window: saves of so many last steps stay.
    """
    old = step - window - 1
    old -= old % every
    return old if 0 < old < step else None


class Saver(Observer):
    """Writes the embedding and, if asked, the state, and deletes old ones as asked.

    It does so at intervals, at the end, and when the run is stopped or fails. If a save during the
    run fails, this is logged and the run continues, since nothing is lost yet; the last save must
    succeed.
    """

    priority = Priority.SAVING

    def __init__(self, config: TrainConfig, uploader: Uploader | None = None) -> None:
        self._config, self._state = config.save, config.state
        self._name = config.word.output_name
        self._uploader = uploader
        self._ended = False  # the last save has been tried
        # Digests of what the run learns from, as it was when it began
        self._files: Mapping[str, str] = {}

    def path(self, suffix: str = "") -> Path:
        """Return an embedding's path: `name.ext`, `name-000003.ext` or `name-step00000500.ext`."""
        return self._config.output_dir / f"{self._name}{suffix}.{self._config.format}"

    def state_path(self, suffix: str = "") -> Path:
        """Return a state's folder: the same name, and `-state`."""
        return self._config.output_dir / f"{self._name}{suffix}{STATE}"

    def started(self, run: Run) -> None:
        self._files = content_digests(run.config, run.samples)
        if run.step:  # a kill may have come between the state's save and what follows it
            self._forget_steps(run.step)
            if not run.progress.done:
                self._forget_epochs(run.progress.epoch - 1, run.total_epochs)

    def stepped(self, run: Run) -> None:
        every = self._config.every_n_steps
        if (
            every
            and run.step % every == 0
            and self._saved_on_the_way(run, _at_step(run.step), state=self._state.save)
        ):
            self._forget_steps(run.step)

    def save_now(self, run: Run) -> bool:
        """Save the word and its state after the step that was just done.

        Returns:
            Whether that worked; if not, a warning says why, and the run continues.
        """
        return self._saved_on_the_way(run, _at_step(run.step), state=True)

    def epoch_ended(self, run: Run) -> None:
        every = self._config.epochs_between(run.total_epochs)
        if not every or run.progress.epoch % every or run.over:
            return
        suffix, state = _at_epoch(run.progress.epoch), self._state.save
        if self._saved_on_the_way(run, suffix, state=state, epoch_ended=True):
            self._forget_epochs(run.progress.epoch, run.total_epochs)

    def _forget_steps(self, step: int) -> None:
        """Delete the embedding and the state that are too old after those of a step."""
        every = self._config.every_n_steps
        if not every or step % every:
            return
        for keep, path in (
            (self._config.keep_steps, self.path),
            (self._state.keep_steps, self.state_path),
        ):
            old = outdated_step(step, every, keep) if keep else None
            if old:
                _forget(path(_at_step(old)))

    def _forget_epochs(self, epoch: int, total: int) -> None:
        """Delete the embedding and the state that are too old after those of an epoch."""
        every = self._config.epochs_between(total)
        if not every or epoch % every:
            return
        for keep, path in (
            (self._config.keep_epochs, self.path),
            (self._state.keep_epochs, self.state_path),
        ):
            old = outdated_epoch(epoch, every, keep) if keep else None
            if old:
                _forget(path(_at_epoch(old)))

    def finished(self, run: Run) -> None:
        self._ended = True
        self._save(run, "", state=self._state.at_end, last=True)
        if run.results.best and self.path(BEST).is_file():
            log.info("%s", best_sentence(run.results.best, run.step, file_to_use(run).name))

    def stopped(self, run: Run) -> None:
        self._ended = True
        suffix = _at_step(run.step)
        self._save(run, suffix, state=True, last=True)
        if run.word_index < run.word_count - 1:
            return  # the last one logs it for all
        state = self.state_path(suffix) if run.word_count == 1 else LATEST
        text = (
            "stopped after step %d of %d; nothing is lost. "
            "To continue, run the same command with --resume %s"
        )
        log.info(text, run.step, run.total_steps, state)

    def failed(self, run: Run, error: Exception) -> None:  # noqa: ARG002 - whatever it was
        if run.step and not self._ended:
            self.stopped(run)  # what was learned before is as good

    def close(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        if self._uploader:
            self._uploader.close()

    def _saved_on_the_way(
        self, run: Run, suffix: str, *, state: bool, epoch_ended: bool = False
    ) -> bool:
        try:
            self._save(run, suffix, state=state, epoch_ended=epoch_ended)
            log.debug("saved %s; tools know its word by that name", self.path(suffix))
        except CoinageError as error:
            log.warning("%s\nthe run continues; earlier files are unchanged", error)
            return False
        return True

    def _save(
        self, run: Run, suffix: str, *, state: bool, last: bool = False, epoch_ended: bool = False
    ) -> None:
        """Write the embedding, then the state, and have both uploaded."""
        word, path = run.embedding(), self.path(suffix)
        file = replace(word, metadata=describe(run, path.stem))
        try:
            write_checked(path, file, self._config.precision)
        except Exception as error:
            if not last:
                raise
            safe = bring_to_safety(path, file, error)
            self._save_best(run, last=True)
            raise safe from error
        written = [path]
        try:
            if run.results.best:
                self._save_best(run, last=last)
                written.append(self.path(BEST))
            if state:
                save_state(run, self.state_path(suffix), self._files, epoch_ended=epoch_ended)
                written.append(self.state_path(suffix))
        finally:
            if self._uploader:
                self._uploader.send(written, last=last)

    def _save_best(self, run: Run, *, last: bool) -> None:
        """Write the best word so far, if there is one, with its own step in its header."""
        best, path = run.results.best, self.path(BEST)
        if best is None:
            return
        fields = {"ti.step": str(best.step), "ti.epoch": str(best.epoch)}
        if best.score is None:
            fields["ti.evaluation_loss"] = f"{best.loss:.6g}"
        else:
            fields["ti.score"] = f"{best.score:.6g}"
        vectors = dict(zip(run.family.embedding_keys, best.rows, strict=True))
        metadata = describe(run, path.stem) | fields
        file = Word(vectors, run.placeholder.token, best.step, metadata)
        try:
            write_checked(path, file, self._config.precision)
        except Exception as error:
            if not last:
                raise
            log.warning("%s", bring_to_safety(path, file, error))


def best_sentence(best: Best, last: int, file: str) -> str:
    """Return a sentence on which file of a finished run to use, and why."""
    what, value = ("lowest loss", best.loss)
    if best.score is not None:
        what, value = "highest score", best.score
    if best.step == last:
        return f"{what} at the last step, {best.step} ({value:.4f}): use {file}"
    return f"{what} at step {best.step} ({value:.4f}), saved as {file}: try this file first"


def file_to_use(run: Run) -> Path:
    """Return the file of a finished run to try first: that of the best step, if there is one."""
    path = run.config.output_file
    best = path.with_name(f"{run.config.word.output_name}{BEST}{path.suffix}")
    is_earlier = run.results.best is not None and run.results.best.step != run.step
    return best if is_earlier and best.is_file() else path


def _at_step(step: int) -> str:
    return f"-step{step:08d}"


def _at_epoch(epoch: int) -> str:
    return f"-{epoch:06d}"


def _forget(path: Path) -> None:
    """Delete an older save; one that stays, such as a file that a viewer has open, stops no run."""
    try:
        remove(path)
    except CoinageError as error:
        log.warning("%s", error)
