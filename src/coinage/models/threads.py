"""How many threads a model computes with on a CPU."""

from __future__ import annotations

import os

import torch

from coinage.models.base import Components

# Parameters of a UNet; that of the demo has 3.5 million, that of SD 1.5 has 860 million
SMALL = 50_000_000


def fit_threads(parts: Components) -> None:
    """Compute a small model on one thread, unless OMP_NUM_THREADS says how many.

    Its layers take microseconds, in which several threads mostly wait for each other. It goes by the model's size rather
    than by a measurement, so that a run that goes on computes as it did before. It is for programs: the setting is that
    of the whole process.
    """
    parameters = sum(parameter.numel() for parameter in parts.denoiser.parameters())
    if parts.device.type == "cpu" and parameters < SMALL and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
