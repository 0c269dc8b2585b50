"""What tells one demo world from another: how its model draws, and what it was shown."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coinage.models.detect import read_config
from coinage.models.facts import FACTS

MODELS = Path(__file__).parent / "models"  # one folder a family


@dataclass(frozen=True, slots=True)
class World:
    """The demo world of one family of models.

    Attributes:
        sampler: of scored pictures.
        sampler_steps: of scored pictures.
        guidance: of scored pictures.
        spread: of places, sizes and tilts in its pictures, 0..1; see `world.place`.
        trials: scored pictures, before training and after it.
        training_steps: that are enough for a word.
    """

    sampler: str = "ddim"
    sampler_steps: int = 25
    guidance: float = 4.0
    spread: float = 1.0
    trials: int = 48
    training_steps: int = 300


# Where things lie anywhere, a transformer learns colours at once and shapes hardly: at much noise the
# mean of all places says nothing of a shape. Pictures and steps take several times as long as
# a UNet's, so there are fewer.
FLOW = World(
    sampler="euler", sampler_steps=12, guidance=2.5, spread=0.25, trials=24, training_steps=100
)
# A schedule that ends in pure noise overexposes under more guidance: blue is drawn as cyan
ENDS_IN_NOISE = World(guidance=2.0)


@cache
def world_of(family: str) -> World:
    """Return the demo world of a family."""
    if FACTS[family].is_flow:
        return FLOW
    settings = read_config(MODELS / family / "scheduler" / "scheduler_config.json")
    return ENDS_IN_NOISE if settings["rescale_betas_zero_snr"] else World()
