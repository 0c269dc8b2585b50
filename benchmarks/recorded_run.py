"""The training command with a clock beside it; what `throughput.py` and `gpu_matrix.py` start.

`python benchmarks/recorded_run.py RECORD MODE FLAGS` trains as `coinage train FLAGS` and writes to
RECORD, as JSON, what was measured. Modes: `plain` (seconds a step, memory), `profile` (the parts of
each step too), `floor` (between the steps, a bare loop over the same parts). The product's code
runs as it is: an observer is added, functions are wrapped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from coinage.cli.train import train_command
from coinage.models.sdxl import StableDiffusionXL
from coinage.models.stable_diffusion import StableDiffusion
from coinage.text.placeholder import WordEncoder
from coinage.training import loop, session
from coinage.training.observers.base import Observer
from coinage.training.observers.standard import observers_for as standard_observers
from coinage.training.run import Run, StepInput


@dataclass
class Record:
    """What was measured; times in seconds, memory in bytes.

    Attributes:
        steps: each optimizer update, with all that the loop does between two of them.
        first_done: time of day when the first one was done.
        sections: the parts of each step, with `profile`.
        floor: steps of the bare loop, with `floor`.
        gpu: `allocated` and `reserved` at most in the whole run, `training` allocated at most once
            steps began.
        device: a GPU's name, or cpu.
        threads: of the CPU.
        dtype: what is computed with.
    """

    steps: list[float] = field(default_factory=list)
    first_done: float = 0.0
    sections: list[dict[str, float]] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    gpu: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 0
    dtype: str = ""


def synchronise() -> None:
    """Wait for the GPU, if there is one: a clock on the CPU says nothing before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Recorder(Observer):
    """Times the steps. It comes last, and what it does itself between two steps is in neither."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._last = 0.0
        self._before = 0.0

    def started(self, run: Run) -> None:
        device, record = run.parts.device, self.record
        record.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        record.threads, record.dtype = (
            torch.get_num_threads(),
            str(run.dtype).removeprefix("torch."),
        )
        if device.type == "cuda":
            self._before = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()  # loading may take more than training
        synchronise()
        self._last = time.perf_counter()

    def stepped(self, run: Run) -> None:
        synchronise()
        self.record.steps.append(time.perf_counter() - self._last)
        self.record.first_done = self.record.first_done or time.time()
        self.between(run)
        self._last = time.perf_counter()

    def between(self, run: Run) -> None:
        """What else is done after a step, off the clock."""

    def finished(self, run: Run) -> None:
        if run.parts.device.type == "cuda":
            training = torch.cuda.max_memory_allocated()
            whole, reserved = max(training, self._before), torch.cuda.max_memory_reserved()
            self.record.gpu = {"allocated": whole, "reserved": reserved, "training": training}


class Sections:
    """Clocks around functions. Time in a clock within another one counts for the inner one alone."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A section of a step."""
        synchronise()
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            synchronise()
            took = time.perf_counter() - start
            self.now[name] += took - self._inner.pop()
            self._inner[-1] += took

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, timed as a section."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.timed(name):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have clocks around the parts of a step."""
        original = Run.epoch_inputs

        def epoch_inputs(run: Run, *args: Any) -> Iterator[StepInput]:
            with closing(original(run, *args)) as found:  # type: ignore[type-var]
                while True:
                    with self.timed("data"):
                        step_input = next(found, None)
                    if step_input is None:
                        return
                    yield step_input

        wrapped: list[tuple[Any, str, str]] = [
            (WordEncoder, "rows", "captions to ids"),
            *(
                (kind, "encode_ids", "text encoder forward")
                for kind in (StableDiffusion, StableDiffusionXL)
            ),
            *((kind, "predict", "UNet forward") for kind in (StableDiffusion, StableDiffusionXL)),
            (torch.Tensor, "backward", "backward"),
            (loop, "update", "optimizer"),
        ]
        with ExitStack() as stack:
            stack.enter_context(patch.object(Run, "epoch_inputs", epoch_inputs))
            for owner, attribute, name in wrapped:
                stack.enter_context(
                    patch.object(owner, attribute, self.around(getattr(owner, attribute), name))
                )
            yield


class Profiler(Recorder):
    """Keeps the sections of each step."""

    def __init__(self, record: Record, sections: Sections) -> None:
        super().__init__(record)
        self._sections = sections

    def started(self, run: Run) -> None:
        self._sections.now.clear()
        super().started(run)

    def between(self, run: Run) -> None:  # noqa: ARG002 - an observer's
        self.record.sections.append(dict(self._sections.now))
        self._sections.now.clear()


class Floor(Recorder):
    """After each step of the engine, take a bare one.

    It goes forward through stock text encoders and UNet, takes the MSE, and goes backward.
    """

    def started(self, run: Run) -> None:
        batch = next(run.epoch_inputs(0)).batches[0]
        latents = batch.moments[:, 0].to(run.parts.device, run.parts.dtype)
        self._noise, self._latents = torch.randn_like(latents), latents
        self._ids = [
            torch.tensor(
                [row for caption in batch.captions for row in words.rows(caption, run.parts.chunks)]
            ).to(run.parts.device)
            for words in run.parts.word_encoders
        ]
        self._sizes = batch.sizes.to(run.parts.device)
        self._timesteps = torch.randint(0, 1000, (len(latents),), device=run.parts.device)
        super().started(run)

    def between(self, run: Run) -> None:
        start = time.perf_counter()
        self._bare(run)
        synchronise()
        self.record.floor.append(time.perf_counter() - start)
        for row in run.parts.rows():
            row.grad = None

    def _bare(self, run: Run) -> None:
        encoders, unet, dtype = run.parts.text_encoders, run.parts.denoiser, run.parts.dtype
        with run.autocast():
            if len(encoders) == 1:
                hidden, added = encoders[0](self._ids[0]).last_hidden_state, None
            else:
                outputs = [
                    encoder(ids, output_hidden_states=True)
                    for encoder, ids in zip(encoders, self._ids, strict=True)
                ]
                hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
                added = {"text_embeds": outputs[1].text_embeds.to(dtype), "time_ids": self._sizes}
            answer = unet(
                self._latents, self._timesteps, hidden.to(dtype), added_cond_kwargs=added
            ).sample
            loss = F.mse_loss(answer.float(), self._noise.float())
        loss.backward()


@contextmanager
def recording(record: Record, mode: str = "plain") -> Iterator[None]:
    """Have every training in this process measured."""
    sections = Sections()
    recorder = (
        {"plain": Recorder, "floor": Floor}[mode](record)
        if mode != "profile"
        else Profiler(record, sections)
    )
    original = standard_observers

    def observers_for(*args: Any) -> list[Observer]:
        return [*original(*args), recorder]

    with ExitStack() as stack:
        stack.enter_context(patch.object(session, "observers_for", observers_for))
        if mode == "profile":
            stack.enter_context(sections.installed())
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Train and write the record; returns the training's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path)
    parser.add_argument("mode", choices=["plain", "profile", "floor"])
    parser.add_argument("flags", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    record = Record()
    with recording(record, args.mode):
        code = train_command("coinage", args.flags, prog="coinage train")
    args.record.write_text(json.dumps(asdict(record)), encoding="utf-8")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
