"""How far a learning rate lets a word go, known before the first step. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coinage.config import OptimConfig
from coinage.errors import Problem
from coinage.optimizer_table import find_optimizer

LEAST_TURN = 20  # degrees; less teaches next to nothing
BETAS = (0.9, 0.999)  # AdamW's own
LEAST_SHARE = 0.25  # of a random walk's length; healthy runs go 1.2 to 3 times as far in 20 steps
MOST_LENGTH = 20  # times a word's length; from there on a prompt obeys nothing else


def rate_problem(optim: OptimConfig, steps: int, width: int, norm: float) -> Problem | None:
    """What is wrong with a learning rate, and one that would work.

    AdamW moves a coordinate by at most about the learning rate a step (Kingma and Ba 2015, section 2.1): a row then travels
    `rate * steps * sqrt(width)` at most, and `rate * sqrt(steps * width)` where the gradient's signs are noise.

    Args:
        optim: the optimizer's settings; only those of AdamW are judged.
        steps: of the run.
        width: of the token embeddings.
        norm: mean length of the model's words.
    """
    if find_optimizer(optim.name).path != "torch.optim.AdamW" or not norm or not optim.learning_rate:
        return None
    travel = optim.learning_rate * steps * math.sqrt(width) / norm
    drift = optim.learning_rate * math.sqrt(steps * width) / norm
    good = f"--learning_rate {float(f'{norm / math.sqrt(steps * width):.0e}'):g} lets it turn freely, and no further"
    turn = math.degrees(math.asin(min(travel, 1)))
    given = f"--learning_rate {optim.learning_rate:g}: in {steps} steps the word"
    if turn < LEAST_TURN:
        return Problem(f"{given} can turn by at most {turn:.0f} degrees, which teaches little", hint=good)
    if drift > MOST_LENGTH:
        what = f"{given} may become {drift:.0f} times as long as the model's words, and a prompt then obeys nothing else"
        return Problem(what, hint=good)
    return None


def movement_band(optim: OptimConfig, rates: Sequence[float], touched: int, width: int) -> tuple[float, float] | None:
    """How far AdamW moves a row in its first steps, at least and at most; None for other optimizers and settings.

    A step moves a coordinate by at most the rate times max(1, (1 - b1) / sqrt(1 - b2)) (Kingma and Ba 2015, section 2.1), and
    by about the rate where gradients are noise, which then makes a random walk.

    Args:
        optim: the optimizer's settings.
        rates: learning rate of each step.
        touched: steps in which the row had a gradient.
        width: of the token embeddings.
    """
    if find_optimizer(optim.name).path != "torch.optim.AdamW" or optim.arguments or not any(rates):
        return None
    furthest = (1 - BETAS[0]) / math.sqrt(1 - BETAS[1])
    least = LEAST_SHARE * min(rate for rate in rates if rate) * math.sqrt(width * max(touched, 1))
    return least, 1.1 * furthest * sum(rates) * math.sqrt(width)
