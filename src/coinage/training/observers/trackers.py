"""Send a run to TensorBoard and Weights & Biases: a point for each update, and the previews."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from coinage.config import LogConfig
from coinage.errors import CoinageError, reason_of
from coinage.training.observers.base import Observer, Picture, Priority
from coinage.training.run import Run

log = logging.getLogger("coinage")


# Parts of the messages of W&B without a connection
NETWORK = ("timed out", "timeout", "dial tcp", "connection", "no such host", "unreachable")
HINTS = {
    "tensorboard": "[tensorboard] of --log_tracker_config is passed to SummaryWriter",
    "wandb": (
        "use wandb login, --wandb_api_key or WANDB_MODE=offline; "
        "[wandb] of --log_tracker_config is passed to wandb.init"
    ),
}


class Writer(Protocol):
    """Where points and pictures go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, picture: Picture, step: int) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path, config: LogConfig) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        arguments = dict(config.arguments.get("tensorboard", {}))
        self._writer: Any = SummaryWriter(str(folder), **arguments)
        if config.settings:
            lines = [f"    {name} = {value}" for name, value in config.settings]
            self._writer.add_text("settings", "\n".join(lines), 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def picture(self, picture: Picture, step: int) -> None:
        self._writer.add_image(f"sample_{picture.index}", picture.pixels, step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - TensorBoard has no place for it
        self._writer.close()


class WandB:
    """A run on Weights & Biases; without a connection it is kept in a folder, to be sent later."""

    def __init__(self, folder: Path, config: LogConfig, word: str = "") -> None:
        import wandb

        given: dict[str, Any] = dict(config.arguments.get("wandb", {}))
        # W&B would send the command line, with its paths and keys, the console and the source code.
        own: dict[str, Any] = {
            "x_disable_meta": True,
            "save_code": False,
            "disable_git": True,
            "console": "off",
            "init_timeout": 30,
        }
        key = {"api_key": config.wandb_key} if config.wandb_key else {}
        settings = wandb.Settings(**{**own, **key, **given.pop("settings", {})})
        beside = {"reinit": "create_new"} if word else {}
        name = "-".join(filter(None, (config.run_name, word))) or None
        place = {} if "WANDB_DIR" in os.environ else {"dir": str(folder)}
        folder.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, Any] = {
            "project": config.name,
            "name": name,
            "config": dict(config.settings),
            **place,
            **beside,
            **given,
        }
        self._wandb: Any = wandb
        try:
            self._run: Any = wandb.init(settings=settings, **arguments)
        except wandb.errors.CommError as error:
            # A refused key comes as the same class
            if not any(word in str(error).lower() for word in NETWORK):
                raise
            text = "W&B cannot be reached; the run is stored and can be sent later: %s"
            log.warning(text, reason_of(error))
            self._run = wandb.init(settings=settings, **{**arguments, "mode": "offline"})
            log.info("to send it later: wandb sync %s", self._run.settings.sync_dir)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, picture: Picture, step: int) -> None:
        image = self._wandb.Image(picture.pixels, caption=picture.prompt.text)
        self._run.log({f"sample_{picture.index}": image}, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def open_writers(
    config: LogConfig, output_dir: Path, word: str = "", begun: datetime | None = None
) -> list[Writer]:
    """Open the trackers that are asked for, in a new folder for this run.

    Without `--logging_dir`, W&B writes into the output folder.

    Args:
        config: what is asked for.
        output_dir: of the run.
        word: its name, if several words are trained together; part of the names of its logs.
        begun: names the folder; None: now.

    Raises:
        CoinageError: one does not start.
    """
    stamp = (begun or datetime.now().astimezone()).strftime("%Y%m%d%H%M%S")
    folder = config.dir / f"{config.prefix}{stamp}" if config.dir else output_dir
    writers: list[Writer] = []
    for name in config.trackers:
        try:
            if name == "tensorboard":
                writers.append(TensorBoard(folder / config.name / word, config))
            else:
                writers.append(WandB(folder, config, word))
        except Exception as error:
            what = f"--log_with {name}: {reason_of(error)}"
            raise CoinageError(what, hint=HINTS[name]) from error
    return writers


class Tracker(Observer):
    """Sends what a run measures to its trackers; one that fails is logged and dropped."""

    priority = Priority.TRACKING

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = list(writers)
        self._epoch: list[float] = []  # losses since it began
        self._whole = True  # whether it began in this process
        self._failed = True

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Send previews."""

        def send(writer: Writer) -> None:
            for picture in pictures:
                writer.picture(picture, step)

        self._each(send)

    def started(self, run: Run) -> None:
        self._whole = run.progress.done == 0

    def stepped(self, run: Run) -> None:
        self._epoch.append(run.last.loss)
        if self._writers:
            self._send(measures(run), run.step)

    def measured(self, run: Run) -> None:
        self._send({"loss/validation": run.results.measurements[run.step].loss}, run.step)

    def epoch_ended(self, run: Run) -> None:
        if self._whole:
            self._send({"loss/epoch": sum(self._epoch) / max(len(self._epoch), 1)}, run.step)
        self._epoch, self._whole = [], True

    def finished(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._failed = False

    def stopped(self, run: Run) -> None:
        self.finished(run)

    def close(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._each(lambda writer: writer.close(failed=self._failed))

    def _send(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda writer: writer.scalars(values, step))

    def _each(self, act: Callable[[Writer], None]) -> None:
        for writer in tuple(self._writers):
            try:
                act(writer)
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run matters more
                self._writers.remove(writer)
                text = "%s failed and gets no more data; training continues: %s"
                log.warning(text, type(writer).__name__, error)


def measures(run: Run) -> dict[str, float]:
    """Return the point of an update: loss, rates, gradient, and how far the rows have moved."""
    values = {"loss": run.last.loss, "lr": run.last.rate, "epoch": float(run.progress.epoch)}
    if math.isfinite(run.last.grad_norm):  # an update that overflowed was skipped
        values["grad_norm"] = run.last.grad_norm
    group = run.optimizer.param_groups[0]
    if "d" in group:  # D-Adaptation and Prodigy multiply the rate by their own estimate
        values["lr/d*lr"] = float(group["d"]) * float(group["lr"])
    if run.scaler.is_enabled():
        values["loss_scale"] = run.scaler.get_scale()
    count = run.placeholder.num_vectors
    for number, key in enumerate(run.parts.keys):
        rows = slice(number * count, (number + 1) * count)
        values[f"row_norm/{key}"] = fmean(run.last.norms[rows])
        values[f"movement/{key}"] = fmean(run.last.angles[rows])
    return values
