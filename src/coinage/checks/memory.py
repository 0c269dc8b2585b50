"""Check that a GPU has the memory that a run needs. Imports torch only to ask the GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from coinage.checks.advice import Planned, memory_problem, side_by_side
from coinage.checks.footprint import CONTEXT, Footprint
from coinage.checks.several_words import with_batches
from coinage.config import TrainConfig
from coinage.data.sample import Sample
from coinage.errors import Problem
from coinage.models.sizes import model_sizes
from coinage.settings.low_memory import in_low_memory
from coinage.settings.scripts import Script
from coinage.text.prompts import Prompt

if TYPE_CHECKING:
    import torch

    from coinage.checks.plan import Plan

log = logging.getLogger("coinage")


class Checked(Protocol):
    """A draft or a plan: a run with its images."""

    @property
    def config(self) -> TrainConfig: ...

    @property
    def samples(self) -> Sequence[Sample]: ...

    @property
    def prompts(self) -> Sequence[Prompt]: ...


def joint_run(runs: Sequence[Checked]) -> Planned:
    """Return what the memory of words that train side by side depends on, as one run."""
    leading = with_batches(runs)
    planned = []
    for run in runs:
        samples = run.samples if any(run is one for one in leading) else ()
        planned.append(Planned(run.config, samples, run.prompts))
    tried = max(planned, key=lambda run: run.config.loop.to_try)
    # Settings that --autopilot tries go through the model together, as words do
    more = tried.config.loop.to_try - len(planned)
    return side_by_side([*planned, *[replace(tried, prompts=()) for _ in range(more)]])


def needed_memory(runs: Sequence[Checked]) -> Footprint:
    """Return the GPU memory that words need that train side by side."""
    planned = joint_run(runs)
    return planned.needs(model_sizes(planned.config.model))


def free_memory_problem(runs: Sequence[Checked], device: torch.device) -> Problem | None:
    """Return a problem if a run does not fit into the free memory of a GPU, with what makes it fit.

    Args:
        runs: of words that train side by side.
        device: nothing is found for one that is not a GPU.
    """
    free = free_memory(device)
    if free is None:
        return None
    planned = joint_run(runs)
    return memory_problem(planned, model_sizes(planned.config.model), free)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU that a run may have; None where they are not known, or for a CPU."""
    import torch

    if device.type != "cuda":
        return None
    try:
        # This process has its context by now
        return torch.cuda.mem_get_info(device)[0] + CONTEXT
    except RuntimeError as error:  # the run itself says what is wrong with the GPU
        log.debug("free memory: %s", error)
        return None


def fitted(runs: Sequence[Plan], free: int | None) -> tuple[list[Plan], list[str]]:
    """Return runs with all that saves memory turned on, where they would not fit otherwise.

    `coinage train` decides that by itself, and --low_memory asks for it; the two scripts do what
    sd-scripts does, and a run in float32 has no 8-bit weights.

    Args:
        runs: of words that train side by side.
        free: bytes of the GPU; None where nothing is known of it.

    Returns:
        The runs, and a line for each change.
    """
    plans = list(runs)
    model, values = plans[0].config.model, plans[0].config.values
    asked = model.low_memory or (values is not None and values.script == Script.COINAGE)
    compiles = model.compile_backend is not None
    if free is None or not asked or compiles or model.precision == "no":
        return plans, []
    lines: list[str] = []
    for streamed in (None, False, True):
        if streamed is not None:
            changed = [in_low_memory(plan.config, streamed=streamed) for plan in runs]
            plans = [replace(plan, config=c) for plan, (c, _) in zip(runs, changed, strict=True)]
            lines = changed[0][1]
        if needed_memory(plans).total <= free:
            break
    return plans, lines
