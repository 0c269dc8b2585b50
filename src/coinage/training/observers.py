"""What watches a run: progress, saving, previews, tracking. They read the run and never steer it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from coinage import __version__
from coinage.config import PreviewConfig, SaveConfig
from coinage.embedding_file import EmbeddingFile, utc_now, write
from coinage.errors import ConfigError
from coinage.files import save_image
from coinage.generate import draw
from coinage.prompts import Prompt, read_prompts
from coinage.training.setup import Run

log = logging.getLogger("coinage")


class Observer:
    """Called by the loop; each method does nothing until a watcher overrides it."""

    def started(self, run: Run) -> None:
        """Before the first step."""

    def stepped(self, run: Run) -> None:
        """After each optimizer update."""

    def epoch_ended(self, run: Run) -> None:
        """After each epoch, the last one included."""

    def finished(self, run: Run) -> None:
        """After the last step."""

    def close(self) -> None:
        """When the run is over, failed or not."""


class Progress(Observer):
    """A progress bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, interval: float = 5.0) -> None:
        self._interval = interval
        self._bar: Any = None
        self._task: Any = None
        self._start = self._last = 0.0
        self._smooth: float | None = None

    def started(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._start = self._last = time.monotonic()
        console = Console(stderr=True)
        if console.is_terminal:
            note = TextColumn("{task.fields[note]}")
            self._bar = Bar("training", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note, console=console)
            self._task = self._bar.add_task("training", total=run.total_steps, note="")
            self._bar.start()

    def stepped(self, run: Run) -> None:
        self._smooth = run.loss if self._smooth is None else 0.95 * self._smooth + 0.05 * run.loss
        elapsed = time.monotonic() - self._start
        speed = run.step / max(elapsed, 1e-9)
        if self._bar is not None:
            note = f"epoch {run.epoch}/{run.total_epochs}  loss {self._smooth:.4f}  {speed:.2f} steps/s"
            self._bar.update(self._task, completed=run.step, note=note)
        elif time.monotonic() - self._last >= self._interval or run.step == run.total_steps:
            self._last = time.monotonic()
            left = (run.total_steps - run.step) / speed
            text = f"step {run.step}/{run.total_steps}  epoch {run.epoch}/{run.total_epochs}"
            log.info("%s  loss %.4f  %.2f steps/s  %.0f s left", text, self._smooth, speed, left)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Saver(Observer):
    """Writes the embedding: at intervals under the reference's names, and at the end."""

    def __init__(self, config: SaveConfig, name: str) -> None:
        self._config, self._name = config, name

    def path(self, suffix: str = "") -> Path:
        """Where a save goes: `name.ext`, `name-000003.ext` or `name-step00000500.ext`."""
        return self._config.output_dir / f"{self._name}{suffix}.{self._config.format}"

    def stepped(self, run: Run) -> None:
        every = self._config.every_n_steps
        if every and run.step % every == 0:
            self._save(run, self.path(f"-step{run.step:08d}"))

    def epoch_ended(self, run: Run) -> None:
        every = self._config.every_n_epochs
        if self._config.n_epoch_ratio:
            every = max(1, run.total_epochs // self._config.n_epoch_ratio)
        if every and run.epoch % every == 0 and run.epoch < run.total_epochs:
            self._save(run, self.path(f"-{run.epoch:06d}"))

    def finished(self, run: Run) -> None:
        self._save(run, self.path())

    def _save(self, run: Run, path: Path) -> None:
        word = run.embedding()
        file = EmbeddingFile(word.vectors, word.token, word.step, describe(run, path.stem))
        write(path, file, self._config.precision)


def describe(run: Run, stem: str) -> dict[str, str]:
    """The header of a safetensors embedding: ModelSpec 1.0.1 and what the run was."""
    config = run.config
    width, height = config.data.datasets[0].resolution_wh
    predicts_v = run.parts.schedule.prediction_type == "v_prediction"
    architecture = "stable-diffusion-v2-768-v" if predicts_v and run.family.name == "sd2" else run.family.architecture
    fields = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.implementation_version": f"coinage/{__version__}",
        "modelspec.title": stem,
        "modelspec.date": utc_now(),
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if predicts_v else "epsilon",
        "modelspec.trigger_phrase": stem,
        "ti.token_string": run.placeholder.token,
        "ti.num_vectors": str(run.placeholder.num_vectors),
        "ti.init_word": config.words[0].init_word or "",
        "ti.step": str(run.step),
        "ti.epoch": str(run.epoch),
        "ti.seed": str(config.loop.seed),
        "ti.learning_rate": repr(config.optim.learning_rate),
        "ti.optimizer": config.optim.name,
        "ti.num_images": str(sum(s.trains for s in run.samples)),
        "ti.base_model": Path(config.model.source).name,
    }
    if config.model.clip_skip and run.family.name != "sdxl":
        fields["modelspec.encoder_layer"] = str(config.model.clip_skip)
    if (config.noise.min_timestep, config.noise.max_timestep) != (0, 1000):
        fields["modelspec.timestep_range"] = f"{config.noise.min_timestep},{config.noise.max_timestep}"
    return fields | {f"modelspec.{key}": value for key, value in config.save.metadata}


def _changed(path: Path | None) -> int | None:
    """When a file was changed last, in nanoseconds."""
    return path.stat().st_mtime_ns if path and path.is_file() else None


class Previewer(Observer):
    """Draws the prompts at intervals into `OUTPUT/sample`; a preview that fails is told and skipped."""

    def __init__(self, config: PreviewConfig, prompts: Sequence[Prompt], folder: Path, name: str) -> None:
        self._config, self._prompts, self._folder, self._name = config, prompts, folder, name
        self._changed = _changed(config.prompts)

    def started(self, run: Run) -> None:
        if self._config.at_first:
            self._draw(run, f"{0:06d}")

    def stepped(self, run: Run) -> None:
        every = self._config.every_n_steps
        if every and not self._config.every_n_epochs and run.step % every == 0:
            self._draw(run, f"{run.step:06d}")

    def epoch_ended(self, run: Run) -> None:
        every = self._config.every_n_epochs
        if every and run.epoch % every == 0:
            self._draw(run, f"e{run.epoch:06d}")

    def _read_again(self) -> None:
        """Take what the file holds now, if it was changed; a file that cannot be used is told, and the prompts stay."""
        before, self._changed = self._changed, _changed(self._config.prompts)
        if self._config.prompts is None or self._changed in (None, before):
            return
        try:
            self._prompts = read_prompts(self._config.prompts, self._config.sampler)
        except ConfigError as error:
            log.warning("%s", error)

    def _draw(self, run: Run, when: str) -> None:
        self._read_again()
        stamp = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
        for index, prompt in enumerate(self._prompts):
            seed = "" if prompt.seed is None else f"_{prompt.seed}"
            path = self._folder / f"{self._name}_{when}_{index:02d}_{stamp}{seed}.png"
            try:
                with run.averaged():
                    (image,) = draw(run.family, run.parts, [prompt], autocast=run.autocast())
                save_image(path, image)
            except Exception as error:  # noqa: BLE001 - whatever a sampler raises, the run matters more
                log.warning("preview %d failed, training goes on: %s", index, error)


class Tracker(Observer):
    """TensorBoard: one point per optimizer update, and the losses on held-out images as they come in."""

    def __init__(self, folder: Path, validation: Mapping[int, float]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))
        self._validation, self._written = validation, set[int]()

    def stepped(self, run: Run) -> None:
        self._writer.add_scalar("loss", run.loss, run.step)
        self._writer.add_scalar("lr", run.schedule.get_last_lr()[0], run.step)
        for key, rows in zip(run.family.embedding_keys, run.parts.rows(), strict=True):
            self._writer.add_scalar(f"row_norm/{key}", float(rows.detach().norm(dim=1).mean()), run.step)
        self._write_validation()

    def finished(self, run: Run) -> None:  # noqa: ARG002 - the validator has measured by now
        self._write_validation()

    def _write_validation(self) -> None:
        for step in self._validation.keys() - self._written:
            self._writer.add_scalar("loss/validation", self._validation[step], step)
            self._written.add(step)

    def close(self) -> None:
        self._writer.close()
