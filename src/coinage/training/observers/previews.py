"""Draw pictures of the word during a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from itertools import chain
from pathlib import Path

from coinage.config import PreviewConfig
from coinage.data.default_prompts import steps_for, times_within_share
from coinage.errors import ConfigError
from coinage.generate import draw_with_maps
from coinage.models.guidance import idle_negative
from coinage.system.files import save_image
from coinage.text.prompts import Prompt, read_prompts
from coinage.training.observers.base import Observer, Picture, Priority
from coinage.training.run import Run

log = logging.getLogger("coinage")


def do_nothing() -> None:
    """Stand for what is called before pictures are drawn."""


def _changed(path: Path | None) -> int | None:
    """Return when a file was changed last, in nanoseconds; None if it is not there."""
    return path.stat().st_mtime_ns if path and path.is_file() else None


class Previewer(Observer):
    """Draws the prompts at intervals into `OUTPUT/sample`; a preview that fails is logged and skipped.

    If previews are drawn at all, they are also drawn at the end of the run and for its best step,
    if that is kept: they show which of the two files to use. A run that is stopped is to continue,
    and has no end yet.

    Args:
        config: when to draw.
        prompts: what to draw.
        folder: for the pictures.
        name: of the run.
        show: called with the pictures, their step, and whether that is an earlier one.

    Attributes:
        before_drawing: called each time before pictures are drawn.
    """

    priority = Priority.PREVIEWS

    def __init__(
        self,
        config: PreviewConfig,
        prompts: Sequence[Prompt],
        folder: Path,
        name: str,
        show: Callable[[Sequence[Picture], int, bool], None],
    ) -> None:
        self._config, self._prompts = config, prompts
        self._folder, self._name, self._show = folder, name, show
        self._changed = _changed(config.prompts)
        self._steps = frozenset[int]()  # where they are drawn by default
        self._first = True
        self._drawn: set[int] = set()  # steps, by this process
        # The step that this process went on from: one that begins at the end has nothing to show
        self._begun = 0
        self.before_drawing: Callable[[], None] = do_nothing

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What is drawn, in the order of the numbers in the files' names."""
        return self._prompts

    @property
    def _draws(self) -> bool:
        """True if there are previews at all."""
        config = self._config
        return bool(self._steps or config.at_first or config.every_n_steps or config.every_n_epochs)

    def started(self, run: Run) -> None:
        self._begun = run.step
        if self._config.automatic:
            images = run.images_per_step / max(1, len(run.together))  # each word draws its own
            times = times_within_share(self._prompts, run.total_steps, images)
            self._steps = steps_for(times, run.total_steps)
        if self._draws:
            self._note_idle_negatives(run)
        # A run that goes on has drawn it
        if not run.step and (self._config.at_first or 0 in self._steps):
            # sd-scripts counts what --sample_at_first draws as that of epoch 0.
            self._draw(run, "e000000" if self._config.at_first else "000000")

    def _note_idle_negatives(self, run: Run) -> None:
        """Log once why negative prompts have no effect, where none has."""
        negative = [prompt for prompt in self._prompts if prompt.negative]
        facts, parts = run.family.facts, run.parts
        reasons = {idle_negative(facts, parts, prompt.scale) for prompt in negative}
        for reason in reasons - {None}:
            log.info("note: negative prompts of previews have no effect: %s", reason)

    def stepped(self, run: Run) -> None:
        every = self._config.every_n_steps
        at_interval = every and not self._config.every_n_epochs and run.step % every == 0
        if at_interval or run.step in self._steps:
            self._draw(run, f"{run.step:06d}")

    def epoch_ended(self, run: Run) -> None:
        every = self._config.every_n_epochs
        if every and run.progress.epoch % every == 0:
            self._draw(run, f"e{run.progress.epoch:06d}")

    def finished(self, run: Run) -> None:
        if not self._draws or run.step == self._begun:
            return
        if run.step not in self._drawn:
            self._draw(run, f"{run.step:06d}")
        if run.results.best and run.results.best.step not in self._drawn:
            with run.holding_best():
                self._draw(run, f"{run.results.best.step:06d}-best", earlier=run.results.best.step)

    def draw_now(self, run: Run) -> None:
        """Draw the previews of the step that was just done, unless they are drawn already."""
        if run.step not in self._drawn:
            self._draw(run, f"{run.step:06d}")

    def _read_again(self) -> None:
        """Take over the prompt file if it was changed; if it cannot be used, the prompts stay."""
        before, self._changed = self._changed, _changed(self._config.prompts)
        if self._config.prompts is None or self._changed in (None, before):
            return
        try:
            prompts = read_prompts(self._config.prompts, self._config.sampler)
            self._prompts = prompts or self._prompts
        except ConfigError as error:
            log.warning("%s", error)

    def _draw(self, run: Run, when: str, *, earlier: int | None = None) -> None:
        """Draw all prompts.

        Args:
            run: draws them.
            when: in the names of the files.
            earlier: the step of the rows, if they are not those of this step.
        """
        self.before_drawing()
        self._read_again()
        step = run.step if earlier is None else earlier
        self._drawn.add(step)
        stamp = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
        drawn = []
        due = list(enumerate(self._prompts))
        if not self._first:  # training does not change prompts without the word
            due = [(index, prompt) for index, prompt in due if prompt.of is None]
        self._first = False
        for index, prompt in run.processes.share(due):
            seed = "" if prompt.seed is None else f"_{prompt.seed}"
            path = self._folder / f"{self._name}_{when}_{index:02d}_{stamp}{seed}.png"
            try:
                # Kept rows are averaged already
                with run.averaged() if earlier is None else nullcontext():
                    (one,) = draw_with_maps(
                        run.family,
                        run.parts,
                        [prompt],
                        autocast=run.autocast(),
                        show_words=self._config.show_word,
                    )
                drawn.append(Picture(index, prompt, one.pixels, one.word_maps))
                save_image(path, one.pixels)
                log.debug("drew %s", path)
            except Exception as error:  # noqa: BLE001 - whatever a sampler raises, the run matters more
                log.warning("preview %d failed; training continues: %s", index, error)
        of_all = list(chain.from_iterable(run.processes.gather(drawn)))
        of_all.sort(key=lambda picture: picture.index)
        self._show(of_all, step, earlier is not None)
