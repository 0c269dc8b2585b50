"""The demo worlds by family: how each model draws, and what it was shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

MODELS = Path(__file__).parent / "models"  # one folder a family


@dataclass(frozen=True, slots=True)
class World:
    """The demo world of one family of models.

    Attributes:
        sampler: of scored pictures.
        sampler_steps: of scored pictures.
        guidance: of scored pictures.
        spread: of places, sizes, tilts and phases in its pictures, 0..1; see `world.place`.
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
# mean of all places says nothing of a shape, and that of all phases nothing of a pattern. Pictures and
# steps take several times as long as a UNet's, so there are fewer.
FLOW = World(
    sampler="euler", sampler_steps=12, guidance=2.5, spread=0.25, trials=24, training_steps=100
)
WORLDS = {
    "sd1": World(),
    # A schedule that ends in pure noise overexposes under more guidance: blue is drawn as cyan
    "sd2": World(guidance=2.0),
    "sdxl": World(),
    "sd3": replace(FLOW, guidance=2.0),  # with more, learned words are drawn worse
    "flux": FLOW,
}
