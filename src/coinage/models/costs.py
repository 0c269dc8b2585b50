"""Bytes of activations in the released models, counted by `benchmarks/memory.py`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from coinage.config import ModelConfig

Arithmetic = Literal["float32", "half", "8 bits"]  # "8 bits": weights of the UNet, computed in half


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of activations at most, for each picture that goes through the model.

    Attributes:
        pixel: of the UNet, for each pixel of the latents.
        chunk: of the text encoders, for each chunk of 75 tokens.
    """

    pixel: int
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a model takes in each kind of pass.

    Attributes:
        kept: of a training step that keeps all activations.
        checkpointed: of a training step with --gradient_checkpointing.
        measured: of a pass without gradient.
    """

    kept: Cost
    checkpointed: Cost
    measured: Cost


COSTS: Mapping[str, Mapping[Arithmetic, Costs]] = {
    "sd1": {
        "float32": Costs(
            kept=Cost(370_700, 47_605_350),
            checkpointed=Cost(110_100, 3_460_301),
            measured=Cost(33_355, 0),
        ),
        "half": Costs(
            kept=Cost(243_700, 27_367_834),
            checkpointed=Cost(62_800, 3_355_443),
            measured=Cost(17_391, 0),
        ),
        "8 bits": Costs(
            kept=Cost(208_800, 27_053_261),
            checkpointed=Cost(47_600, 3_774_874),
            measured=Cost(17_391, 0),
        ),
    },
    "sd2": {
        "float32": Costs(
            kept=Cost(350_600, 80_635_494),
            checkpointed=Cost(90_100, 8_074_035),
            measured=Cost(33_355, 0),
        ),
        "half": Costs(
            kept=Cost(233_700, 48_444_211),
            checkpointed=Cost(52_800, 7_864_320),
            measured=Cost(17_391, 0),
        ),
        "8 bits": Costs(
            kept=Cost(208_700, 48_234_496),
            checkpointed=Cost(47_700, 8_283_750),
            measured=Cost(17_391, 0),
        ),
    },
    "sdxl": {
        "float32": Costs(
            kept=Cost(648_700, 214_433_792),
            checkpointed=Cost(74_200, 16_986_931),
            measured=Cost(20_216, 0),
        ),
        "half": Costs(
            kept=Cost(404_900, 124_151_398),
            checkpointed=Cost(48_000, 15_938_355),
            measured=Cost(12_882, 0),
        ),
        "8 bits": Costs(
            kept=Cost(380_400, 123_207_680),
            checkpointed=Cost(42_400, 16_672_358),
            measured=Cost(12_882, 0),
        ),
    },
}


def costs_of(model: ModelConfig) -> Costs:
    """Return the costs of a model's family, in what it is computed with."""
    arithmetic: Arithmetic = "8 bits" if model.fp8_unet else "half"
    return COSTS[model.family]["float32" if model.precision == "no" else arithmetic]
