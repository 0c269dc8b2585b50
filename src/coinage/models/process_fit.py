"""Choose the threads and the memory that a process computes with on a CPU."""

from __future__ import annotations

import os

import torch

from coinage.models.base import Components
from coinage.models.relaid import parameter_count
from coinage.system.heap import keep_freed_memory

# Parameters of a UNet; that of the demo has 3.5 million, that of SD 1.5 has 860 million
MOST_SMALL_PARAMETERS = 50_000_000


def fit_process(parts: Components) -> None:
    """Compute a small model on one thread, unless OMP_NUM_THREADS is set. For programs.

    With a large model, the memory that a step frees is kept for the next one. The settings are those
    of the whole process. A small model's layers take microseconds, in which several threads mostly
    wait for each other. The choice depends on the model's size rather than on a measurement, so that
    a resumed run computes as it did before.
    """
    if parts.device.type != "cpu":
        return
    if parameter_count(parts.denoiser) >= MOST_SMALL_PARAMETERS:
        keep_freed_memory()
    elif not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
