"""Bytes of activations in the released models, counted by `benchmarks/memory.py`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from coinage.config import ModelConfig

Arithmetic = Literal["float32", "half", "8 bits"]  # "8 bits": weights of the UNet, computed in half


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of activations at most in a training step, the first two for each picture of the batch.

    Attributes:
        pixel: of the UNet, for each pixel of the latents.
        chunk: of the text encoders, for each chunk of 75 tokens.
        fixed: whatever the batch is, such as a weight that is brought from 8 bits to what is computed with.
    """

    pixel: int
    chunk: int
    fixed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a model takes in each kind of pass.

    Attributes:
        kept: of a training step that keeps all activations.
        checkpointed: of a training step with --gradient_checkpointing.
        measured: of a pass without gradient: bytes for each pixel of the latents of each picture.
        first_look: of the first look at a model, in bytes: kept, and with --gradient_checkpointing.
        text: of a prompt that is encoded without gradient, in bytes.
    """

    kept: Cost
    checkpointed: Cost
    measured: int
    first_look: tuple[int, int]
    text: int


# Written by `python benchmarks/memory_costs.py`, up to the next function
COSTS: Mapping[str, Mapping[Arithmetic, Costs]] = {
    "sd1": {
        "float32": Costs(
            kept=Cost(pixel=370674, chunk=47750962, fixed=696),
            checkpointed=Cost(pixel=110104, chunk=3519517, fixed=40),
            measured=33355,
            first_look=(596754597, 178883273),
            text=3785320,
        ),
        "half": Costs(
            kept=Cost(pixel=243714, chunk=27221669, fixed=541192),
            checkpointed=Cost(pixel=62816, chunk=3300125, fixed=66616),
            measured=17391,
            first_look=(362871877, 97653961),
            text=2366056,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=208794, chunk=27221669, fixed=1360392),
            checkpointed=Cost(pixel=41085, chunk=37912285, fixed=66616),
            measured=17391,
            first_look=(326458437, 84055241),
            text=2366056,
        ),
    },
    "sd2": {
        "float32": Costs(
            kept=Cost(pixel=350628, chunk=80750967, fixed=872),
            checkpointed=Cost(pixel=90080, chunk=8092701, fixed=40),
            measured=33331,
            first_look=(536508437, 125306569),
            text=3785320,
        ),
        "half": Costs(
            kept=Cost(pixel=233658, chunk=48317205, fixed=541456),
            checkpointed=Cost(pixel=52792, chunk=7833885, fixed=66616),
            measured=17356,
            first_look=(361216117, 89013577),
            text=2523752,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=208738, chunk=48317205, fixed=1360656),
            checkpointed=Cost(pixel=49512, chunk=7833885, fixed=66616),
            measured=17356,
            first_look=(335698037, 87946441),
            text=2523752,
        ),
    },
    "sdxl": {
        "float32": Costs(
            kept=Cost(pixel=648646, chunk=215246602, fixed=2928),
            checkpointed=Cost(pixel=74282, chunk=16657634, fixed=40),
            measured=20216,
            first_look=(906421146, 94832178),
            text=19873384,
        ),
        "half": Costs(
            kept=Cost(pixel=404822, chunk=123791194, fixed=2177832),
            checkpointed=Cost(pixel=48008, chunk=15940578, fixed=57608),
            measured=12882,
            first_look=(571792482, 65197618),
            text=18296424,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=380494, chunk=123791578, fixed=4019752),
            checkpointed=Cost(pixel=44808, chunk=15940578, fixed=5587208),
            measured=12882,
            first_look=(549908578, 98759730),
            text=18296424,
        ),
    },
}


def costs_of(model: ModelConfig) -> Costs:
    """Return the costs of a model's family, in what it is computed with."""
    arithmetic: Arithmetic = "8 bits" if model.fp8_unet else "half"
    return COSTS[model.family]["float32" if model.precision == "no" else arithmetic]
