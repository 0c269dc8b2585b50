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
            kept=Cost(pixel=185618, chunk=26856349, fixed=1040),
            checkpointed=Cost(pixel=55096, chunk=3297949, fixed=56),
            measured=16751,
            first_look=(304821701, 90995785),
            text=2366056,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=157978, chunk=26856349, fixed=1040),
            checkpointed=Cost(pixel=32025, chunk=43398237, fixed=56),
            measured=16751,
            first_look=(276518341, 77397065),
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
            kept=Cost(pixel=175562, chunk=47833613, fixed=1304),
            checkpointed=Cost(pixel=45072, chunk=7831709, fixed=56),
            measured=16716,
            first_look=(423113973, 99222601),
            text=2523752,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=157922, chunk=47833613, fixed=1304),
            checkpointed=Cost(pixel=41792, chunk=7831709, fixed=56),
            measured=16716,
            first_look=(405050613, 95863881),
            text=2523752,
        ),
    },
    "sdxl": {
        "float32": Costs(
            kept=Cost(pixel=648646, chunk=215246602, fixed=2928),
            checkpointed=Cost(pixel=74282, chunk=16657634, fixed=40),
            measured=20216,
            first_look=(906421146, 94832178),
            text=19874048,
        ),
        "half": Costs(
            kept=Cost(pixel=324814, chunk=123785946, fixed=4392),
            checkpointed=Cost(pixel=37154, chunk=16135778, fixed=56),
            measured=10162,
            first_look=(487685602, 55249842),
            text=18297088,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=307534, chunk=123785946, fixed=4392),
            checkpointed=Cost(pixel=35234, chunk=16135778, fixed=56),
            measured=10162,
            first_look=(471710434, 94944178),
            text=18297088,
        ),
    },
    "sd3": {
        "float32": Costs(
            kept=Cost(pixel=743174, chunk=3061030450, fixed=402654872),
            checkpointed=Cost(pixel=72045, chunk=189242722, fixed=16777240),
            measured=22282,
            first_look=(4129648338, 297771850),
            text=89154768,
        ),
        "half": Costs(
            kept=Cost(pixel=486032, chunk=1759166759, fixed=201328928),
            checkpointed=Cost(pixel=39566, chunk=157746242, fixed=16777272),
            measured=11538,
            first_look=(2829188122, 225098802),
            text=76565216,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=485926, chunk=1759602306, fixed=220203288),
            checkpointed=Cost(pixel=39566, chunk=157746242, fixed=35651640),
            measured=11538,
            first_look=(2848062490, 243973170),
            text=76565216,
        ),
    },
    "flux": {
        "float32": Costs(
            kept=Cost(pixel=2489892, chunk=9394055425, fixed=1615443408),
            checkpointed=Cost(pixel=249226, chunk=718449453, fixed=71827480),
            measured=52557,
            first_look=(13355196625, 1045442537),
            text=192945784,
        ),
        "half": Costs(
            kept=Cost(pixel=1423454, chunk=5271900077, fixed=810026984),
            checkpointed=Cost(pixel=130874, chunk=476074797, fixed=71827464),
            measured=30315,
            first_look=(9053438645, 681908185),
            text=209723000,
        ),
        "8 bits": Costs(
            kept=Cost(pixel=1420801, chunk=5289206045, fixed=888523544),
            checkpointed=Cost(pixel=127850, chunk=506297121, fixed=129796140),
            measured=30315,
            first_look=(9143091893, 767002609),
            text=209723000,
        ),
    },
}


def costs_of(model: ModelConfig) -> Costs:
    """Return the costs of a model's family, in what it is computed with."""
    arithmetic: Arithmetic = "8 bits" if model.fp8_unet else "half"
    return COSTS[model.family]["float32" if model.precision == "no" else arithmetic]
