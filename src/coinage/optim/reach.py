"""How far a learning rate lets a word go, known before the first step. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coinage.config import OptimConfig
from coinage.errors import Problem
from coinage.optim.table import find_optimizer
from coinage.wording import counted

LEAST_TURN = 20  # degrees; less teaches next to nothing
DIRECTIONAL = "coinage.optim.directional.Directional"
USUAL_ANGLE, MOST_ANGLE = 0.5, 1.5  # radians in the first step
BETAS = (0.9, 0.999)  # AdamW's own
# Of one step; in 20 steps gradients that change sign each time still come to 1.7, noise to 5, a steady one to 20
LEAST_SHARE = 0.25
MOST_LENGTH = 20  # times a word's length; from there on the rest of a prompt is ignored


def rate_problem(optim: OptimConfig, steps: int, width: int, norm: float) -> Problem | None:
    """What is wrong with a learning rate, and one that would work.

    AdamW moves a coordinate by at most about the learning rate a step (Kingma and Ba 2015, section 2.1): a row then travels
    `rate * steps * sqrt(width)` at most, and `rate * sqrt(steps * width)` where the gradient's signs are noise.

    Args:
        optim: the optimizer's settings; only those of AdamW and Directional are judged.
        steps: of the run.
        width: of the token embeddings.
        norm: mean length of the model's words.
    """
    path = find_optimizer(optim.name).path
    if path == DIRECTIONAL:
        return _angle_problem(optim.learning_rate, steps)
    if path != "torch.optim.AdamW" or not norm or not optim.learning_rate:
        return None
    travel = optim.learning_rate * steps * math.sqrt(width) / norm
    drift = optim.learning_rate * math.sqrt(steps * width) / norm
    good = f"try --learning_rate {float(f'{norm / math.sqrt(steps * width):.0e}'):g}"
    turn = math.degrees(math.asin(min(travel, 1)))
    given, within = f"--learning_rate {optim.learning_rate:g}", counted(steps, "step")
    if turn < LEAST_TURN:
        what = f"{given} is too low: in {within} the word can hardly change (at most {_rounded(turn, 1)} degrees)"
        return Problem(what, hint=good)
    if drift > MOST_LENGTH and optim.norm_mode == "none":
        grown = (
            f"in {within} a vector could grow to {drift:.0f} times the length of the model's words"
        )
        what = f"{given} is too high: {grown}, and the rest of a prompt would be ignored"
        return Problem(what, hint=good)
    return None


def _rounded(degrees: float, digits: int) -> str:
    """A number of so many digits that count, written out: 10, not 1e+01."""
    return f"{float(f'{degrees:.{digits}g}'):g}"


def _angle_problem(rate: float, steps: int) -> Problem | None:
    """What is wrong with a rate in radians a step."""
    turn = math.degrees(rate * steps)
    given = f"--learning_rate {rate:g}, which is an angle in radians with Directional, is too"
    hint = f"--learning_rate {USUAL_ANGLE:g} is usual, with --lr_scheduler inverse_sqrt --lr_scheduler_timescale 5"
    if 0 < turn < LEAST_TURN:
        what = f"{given} low: in {counted(steps, 'step')} the word can hardly change (at most {_rounded(turn, 2)} degrees)"
        return Problem(what, hint=hint)
    if rate > MOST_ANGLE:
        return Problem(
            f"{given} high: {math.degrees(rate):.0f} degrees in one step are too many to learn anything",
            hint=hint,
        )
    return None


def movement_band(
    optim: OptimConfig, rates: Sequence[float], before: int, width: int
) -> tuple[float, float] | None:
    """How far AdamW moves a row that has a gradient, at least once and at most; None for other optimizers and settings.

    The first gradient is divided by its own size and moves a coordinate by half the rate or more within 20 steps. Later ones
    are divided by the largest of hundreds of steps and may move it by next to nothing, so that there is no least then.

    Args:
        optim: the optimizer's settings.
        rates: learning rate of each step.
        before: steps of the run that were done before these.
        width: of the token embeddings.
    """
    if (
        find_optimizer(optim.name).path != "torch.optim.AdamW"
        or optim.arguments
        or optim.norm_mode != "none"
        or not any(rates)
    ):
        return None
    least = 0.0 if before else LEAST_SHARE * min(rate for rate in rates if rate) * math.sqrt(width)
    most = sum(
        rate * longest_step(before + number) for number, rate in enumerate(rates, 1)
    ) * math.sqrt(width)
    return least, 1.1 * most  # the decay of weights, and roundings


def longest_step(step: int) -> float:
    """How far AdamW's n-th step may move a coordinate at most, in units of its rate, whatever the gradients were: 1 to 7.3.

    The mean of the gradients over the root of their mean square (Kingma and Ba 2015, algorithm 1) is largest where
    each gradient is b2 / b1 times as large as the one before, by the inequality of Cauchy and Schwarz.
    """
    first, second = BETAS
    mean, square = (1 - first) / (1 - first**step), (1 - second) / (1 - second**step)
    ratio = first**2 / second
    return mean * math.sqrt((1 - ratio**step) / (1 - ratio) / square)
