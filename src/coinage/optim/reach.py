"""Judge before the first step how far a learning rate lets a word go. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coinage.config import OptimConfig
from coinage.errors import Problem
from coinage.optim.table import find_optimizer
from coinage.wording import counted

LEAST_TURN = 20  # degrees; less teaches next to nothing
USUAL_ANGLE, LARGEST_ANGLE = 0.5, 1.5  # radians in the first step
BETAS = (0.9, 0.999)  # AdamW's own
# Of one step; in 20 steps gradients that change sign each time still come to 1.7, noise to 5, a
# steady one to 20
LEAST_SHARE = 0.25
LONGEST = 20  # times a word's length; from there on the rest of a prompt is ignored
TOLERANCE = 1.1  # factor for the decay of weights, and roundings


def rate_problem(optim: OptimConfig, steps: int, width: int, norm: float) -> Problem | None:
    """Find a learning rate that is far too low or too high, and suggest one that works.

    AdamW moves a coordinate by at most about the learning rate a step (Kingma and Ba 2015, section
    2.1): a row then travels `rate * steps * sqrt(width)` at most, and `rate * sqrt(steps * width)`
    where the gradient's signs are noise.

    Args:
        optim: the optimizer's settings; only those of AdamW and Directional are judged.
        steps: of the run.
        width: of the token embeddings.
        norm: mean length of the model's words.
    """
    optimizer, rate = find_optimizer(optim.name), optim.learning_rate
    if optimizer.turns:
        return _angle_problem(rate, steps)
    if not optimizer.judged_as_adamw or not norm or not rate:
        return None
    travel = rate * steps * math.sqrt(width) / norm
    drift = rate * math.sqrt(steps * width) / norm
    good_rate = float(f"{norm / math.sqrt(steps * width):.0e}")
    hint = f"try --learning_rate {good_rate:g}"
    turn = math.degrees(math.asin(min(travel, 1)))
    in_steps = f"in {counted(steps, 'step')}"
    if turn < LEAST_TURN:
        what = (
            f"--learning_rate {rate:g} is too low: {in_steps} the word can hardly change "
            f"(at most {_rounded(turn, 1)} degrees)"
        )
        return Problem(what, hint=hint)
    if drift > LONGEST and optim.norm_mode == "none":
        what = (
            f"--learning_rate {rate:g} is too high: {in_steps} a vector could grow to {drift:.0f} "
            "times the length of the model's words, and the rest of a prompt would be ignored"
        )
        return Problem(what, hint=hint)
    return None


def _rounded(degrees: float, digits: int) -> str:
    """Return a number with so many significant digits, written out: 10, not 1e+01."""
    return f"{float(f'{degrees:.{digits}g}'):g}"


def _angle_problem(rate: float, steps: int) -> Problem | None:
    """Find a rate in radians a step that is far too low or too high."""
    turn = math.degrees(rate * steps)
    given = f"--learning_rate {rate:g}, which is an angle in radians with Directional, is too"
    hint = (
        f"--learning_rate {USUAL_ANGLE:g} is usual, "
        "with --lr_scheduler inverse_sqrt --lr_scheduler_timescale 5"
    )
    if 0 < turn < LEAST_TURN:
        what = (
            f"{given} low: in {counted(steps, 'step')} the word can hardly change "
            f"(at most {_rounded(turn, 2)} degrees)"
        )
        return Problem(what, hint=hint)
    if rate > LARGEST_ANGLE:
        degrees = f"{math.degrees(rate):.0f} degrees in one step"
        return Problem(f"{given} high: {degrees} are too many to learn anything", hint=hint)
    return None


def movement_band(
    optim: OptimConfig, rates: Sequence[float], before: int, width: int
) -> tuple[float, float] | None:
    """Return how far AdamW moves a row that has a gradient, at least once and at most.

    The first gradient is divided by its own size and moves a coordinate by half the rate or more
    within 20 steps. Later ones are divided by the largest of hundreds of steps and may move it by
    next to nothing, so that there is no least then.

    Args:
        optim: the optimizer's settings.
        rates: learning rate of each step.
        before: steps of the run that were done before these.
        width: of the token embeddings.

    Returns:
        Least and greatest distance; None for other optimizers, and where settings change what AdamW does.
    """
    plain = not optim.arguments and optim.norm_mode == "none"
    if not find_optimizer(optim.name).judged_as_adamw or not plain or not any(rates):
        return None
    least = 0.0
    if not before:
        least = LEAST_SHARE * min(rate for rate in rates if rate) * math.sqrt(width)
    most = 0.0
    for step, rate in enumerate(rates, before + 1):
        most += rate * longest_step(step)
    return least, TOLERANCE * (most * math.sqrt(width))


def longest_step(step: int) -> float:
    """Return how far AdamW's n-th step may move a coordinate, in units of its rate: 1 to 7.3.

    The mean of the gradients over the root of their mean square (Kingma and Ba 2015, algorithm 1)
    is largest where each gradient is b2 / b1 times as large as the one before, by the inequality of
    Cauchy and Schwarz.
    """
    first, second = BETAS
    mean, square = (1 - first) / (1 - first**step), (1 - second) / (1 - second**step)
    ratio = first**2 / second
    return mean * math.sqrt((1 - ratio**step) / (1 - ratio) / square)
