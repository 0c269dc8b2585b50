"""Measure how much a word helps with each training image: the image that does not belong gains least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from coinage.seeding import generator_for, rng_for
from coinage.training.batches import FixedUse, final_caption, fixed_batches
from coinage.training.evaluation import losses_of
from coinage.training.rows import holding
from coinage.training.run import Run

MOST_DRAWS = 16  # timesteps of each image, evenly spread
LEAST_DRAWS = 4  # fewer would tell more about the noise than about the image
SHARE = 0.05  # of a run's passes through the UNet that this takes at most
FEWEST_IMAGES = 4  # among which one can stand out
SPREADS = 3.5  # from the median: farther out is not chance (Iglewicz and Hoaglin 1993)
SPREAD = 1.4826  # standard deviation of a normal distribution, in median absolute deviations


@dataclass(frozen=True, slots=True)
class ImageLoss:
    """The loss of an image, with its caption.

    Attributes:
        sample: its number among the run's samples.
        before: mean squared error with the word as it was before the first step, > 0.
        after: with the word as it is.
        gain: mean over the timesteps of log(before / after): above 0 where the word helps.
    """

    sample: int
    before: float
    after: float
    gain: float

    @property
    def percent(self) -> float:
        """How much lower the loss has become, per cent."""
        return 100 * -math.expm1(-self.gain)


def draws_for(run: Run) -> int:
    """Return the timesteps at which each image is measured; 0 where it takes too long or tells little."""
    count = len(measured_samples(run))
    if count < FEWEST_IMAGES:
        return 0
    passes = 2 * run.step * run.images_per_step  # forward and backward
    passes /= max(1, len(run.together))  # each word measures
    draws = min(MOST_DRAWS, int(SHARE * passes / (2 * count)))
    return draws if draws >= LEAST_DRAWS else 0


def measured_samples(run: Run) -> list[int]:
    """Return the numbers of the images that teach the word."""
    numbers = []
    for number, sample in enumerate(run.samples):
        # Images of the other words alone gain nothing from this one
        apart = run.together and not run.placeholder.is_in(sample.caption)
        if sample.trains and not apart:
            numbers.append(number)
    return numbers


@torch.no_grad()
def image_losses(run: Run, draws: int) -> list[ImageLoss]:
    """Measure every image that teaches the word, with the word before the first step and as it is.

    Noise and timesteps are the same for all images, whatever the run's seed; the rows are as before
    afterwards, to the bit.

    Args:
        run: of all processes; each measures its share.
        draws: timesteps of each image, >= 1.

    Returns:
        One for each image, in the order of the samples, the same in all processes.
    """
    with run.averaged():
        after = _losses(run, draws)
        with holding(run.rows, run.start_on_device):
            before = _losses(run, draws)
    found = []
    for number in measured_samples(run):
        old, new = before[number].double(), after[number].double()
        gain = float((old / new).log().mean())
        found.append(ImageLoss(number, float(old.mean()), float(new.mean()), gain))
    return found


def _losses(run: Run, draws: int) -> Tensor:
    """Return the loss of every sample at every timestep, [samples, draws] float32 on the CPU."""
    timesteps = run.parts.schedule.spread_times(run.config.noise, draws)
    shared = run.processes.share(measured_samples(run))
    uses = [
        FixedUse(
            sample=number,
            caption=final_caption(run, number, rng_for("image", number)),
            timesteps=timesteps,
            generators=[generator_for("image", draw) for draw in range(draws)],
        )
        for number in shared
    ]
    losses = torch.zeros(len(run.samples), draws, device=run.parts.device)
    for number, batch in zip(shared, fixed_batches(run, uses), strict=True):
        losses[number] = torch.cat(list(losses_of(run, batch)))
    run.processes.sum_([losses])
    return losses.cpu()


def foreign(losses: Sequence[ImageLoss]) -> list[ImageLoss]:
    """Return the images that gain far less than the others, the one that gains least first.

    Far less is less than half of what the image in the middle gains, and farther from it than chance
    explains.
    """
    if len(losses) < FEWEST_IMAGES:
        return []
    middle = median(one.gain for one in losses)
    spread = SPREAD * median(abs(one.gain - middle) for one in losses)
    limit = min(middle / 2, middle - SPREADS * spread)
    far = [one for one in losses if middle > 0 and one.gain < limit]
    return sorted(far, key=lambda one: one.gain)
