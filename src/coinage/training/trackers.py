"""Trackers of a run: TensorBoard and Weights & Biases. One point per optimizer update, and the pictures."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from coinage.config import LogConfig
from coinage.errors import CoinageError
from coinage.training.observers import Observer, Picture
from coinage.training.setup import Run

log = logging.getLogger("coinage")


class Writer(Protocol):
    """Where points and pictures go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, picture: Picture, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path, config: LogConfig) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), **dict(config.arguments.get("tensorboard", {})))
        if config.settings:
            self._writer.add_text("settings", "\n".join(f"    {name} = {value}" for name, value in config.settings), 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def picture(self, picture: Picture, step: int) -> None:
        self._writer.add_image(f"sample_{picture.index}", picture.pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run on Weights & Biases; without a connection it is kept in a folder, to be sent later."""

    def __init__(self, folder: Path, config: LogConfig) -> None:
        import wandb

        given: dict[str, Any] = dict(config.arguments.get("wandb", {}))
        # W&B would send the command line, with its paths and keys, the console and the source code.
        settings: dict[str, Any] = {"x_disable_meta": True, "save_code": False, "disable_git": True, "console": "off", "init_timeout": 30}
        settings |= {"api_key": config.wandb_key} if config.wandb_key else {}
        settings |= given.pop("settings", {})
        arguments: dict[str, Any] = {"project": config.name, "name": config.run_name, "config": dict(config.settings)}
        if "WANDB_DIR" not in os.environ:
            folder.mkdir(parents=True, exist_ok=True)
            arguments["dir"] = str(folder)
        arguments |= given
        self._wandb: Any = wandb
        try:
            self._run: Any = wandb.init(settings=wandb.Settings(**settings), **arguments)
        except wandb.errors.CommError as error:
            log.warning("W&B is out of reach, so the run is kept to be sent later: %s", str(error).splitlines()[0])
            self._run = wandb.init(settings=wandb.Settings(**settings), **{**arguments, "mode": "offline"})
            log.info("to send it later: wandb sync %s", self._run.settings.sync_dir)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, picture: Picture, step: int) -> None:
        self._run.log({f"sample_{picture.index}": self._wandb.Image(picture.pixels, caption=picture.prompt)}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_writers(config: LogConfig, output_dir: Path) -> list[Writer]:
    """The trackers that are asked for, in a new folder for this run; W&B without `--logging_dir` in the output folder.

    Raises:
        CoinageError: one does not start.
    """
    stamp = datetime.now().astimezone().strftime("%Y%m%d%H%M%S")
    folder = config.dir / f"{config.prefix}{stamp}" if config.dir else output_dir
    openers: dict[str, Callable[[], Writer]] = {
        "tensorboard": lambda: TensorBoard(folder / config.name, config),
        "wandb": lambda: WandB(folder, config),
    }
    writers = []
    for name in config.trackers:
        try:
            writers.append(openers[name]())
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            hints = {"wandb": "wandb login, --wandb_api_key or WANDB_MODE=offline; [wandb] of --log_tracker_config goes to wandb.init"}
            hint = hints.get(name, "[tensorboard] of --log_tracker_config goes to SummaryWriter")
            raise CoinageError(f"--log_with {name}: {reason}", hint=hint) from error
    return writers


class Tracker(Observer):
    """Sends what a run measures to its trackers; one that fails is told and left, and the run goes on."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = list(writers)
        self._written = set[int]()
        self._epoch: list[float] = []  # losses since it began

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Send previews."""
        for picture in pictures:
            self._each(partial(_show, picture, step))

    def stepped(self, run: Run) -> None:
        self._epoch.append(run.loss)
        values = measures(run)
        self._each(partial(_tell, values, run.step))
        self._validated(run)

    def epoch_ended(self, run: Run) -> None:
        values = {"loss/epoch": sum(self._epoch) / max(len(self._epoch), 1)}
        self._epoch = []
        self._each(partial(_tell, values, run.step))
        self._validated(run)

    def finished(self, run: Run) -> None:
        self._validated(run)

    def close(self) -> None:
        self._each(lambda writer: writer.close())

    def _validated(self, run: Run) -> None:
        for step in sorted(run.measured.keys() - self._written):
            values = {"loss/validation": run.measured[step]}
            self._each(partial(_tell, values, step))
            self._written.add(step)

    def _each(self, act: Callable[[Writer], None]) -> None:
        for writer in tuple(self._writers):
            try:
                act(writer)
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run matters more
                self._writers.remove(writer)
                log.warning("tracking by %s has ended, training goes on: %s", type(writer).__name__, error)


def _tell(values: Mapping[str, float], step: int, writer: Writer) -> None:
    writer.scalars(values, step)


def _show(picture: Picture, step: int, writer: Writer) -> None:
    writer.picture(picture, step)


def measures(run: Run) -> dict[str, float]:
    """What is told of one update: loss, rates, gradient, and how far the rows are from their start."""
    values = {"loss": run.loss, "lr": run.rate, "epoch": float(run.epoch)}
    if math.isfinite(run.grad_norm):  # an update that overflowed was skipped
        values["grad_norm"] = run.grad_norm
    group = run.optimizer.param_groups[0]
    if "d" in group:  # D-Adaptation and Prodigy multiply the rate by their own estimate
        values["lr/d*lr"] = float(group["d"]) * float(group["lr"])
    if run.scaler.is_enabled():
        values["loss_scale"] = run.scaler.get_scale()
    for key, rows, start in zip(run.family.embedding_keys, run.parts.rows(), run.start, strict=True):
        values[f"row_norm/{key}"] = float(rows.detach().norm(dim=1).mean())
        values[f"movement/{key}"] = angle(rows.detach(), start.to(rows.device))
    return values


def angle(rows: Tensor, start: Tensor) -> float:
    """Mean angle between [N, D] rows and where they started, degrees, 0..180."""
    cosine = torch.nn.functional.cosine_similarity(rows.double(), start.double(), dim=1)
    return float(cosine.clamp(-1, 1).acos().rad2deg().mean())
