"""When a loss has settled, on curves whose answer is known."""

import math
import random
from collections.abc import Callable

import pytest

from coinage.training.convergence import RULE, judge, settled
from coinage.training.results import Measurement

STEPS = range(0, 1620, 20)


def noisy(curve: Callable[[float], float], deviation: float) -> list[float]:
    rng = random.Random(0)  # noqa: S311 - a test
    return [curve(step) + rng.gauss(0, deviation) for step in STEPS]


def stop(losses: list[float], rates: Callable[[float], float] = lambda _: 1.0) -> int | None:
    """The step at which a run with these losses ends."""
    for count in range(1, len(losses) + 1):
        known_rates = [rates(step) for step in STEPS[:count]]
        found = settled(STEPS[:count], losses[:count], known_rates, RULE)
        if found:
            assert found.step == STEPS[count - 1]
            return found.step
    return None


def falling(time: float) -> Callable[[float], float]:
    return lambda step: 0.02 + 0.01 * math.exp(-step / time)


@pytest.mark.parametrize(
    ("losses", "first", "last"),
    [
        (noisy(falling(30), 1e-4), 20 * (RULE.window + 1), 300),
        (noisy(falling(100), 1e-4), 240, 500),
        (noisy(falling(60), 8e-4), 20 * (RULE.window + 1), 600),
        # A plateau before the fall is none to stop at
        (noisy(lambda step: 0.02 if step > 200 else 0.03, 1e-4), 380, 460),
    ],
)
def test_a_loss_that_has_settled_ends_the_run(losses: list[float], first: int, last: int) -> None:
    found = stop(losses)
    assert found is not None
    assert first <= found <= last


@pytest.mark.parametrize(
    "losses",
    [
        noisy(lambda _: 0.03, 0.0),
        noisy(lambda _: 0.03, 1e-3),
        # A line has less than the rule's share of its variance in 10 of 26 measurements
        noisy(lambda step: 0.03 - 1e-6 * step, 0.0),
        noisy(lambda step: 0.03 - 5e-6 * step, 1e-4),
        noisy(falling(3000), 1e-4),
        noisy(lambda step: 0.02 + 1e-5 * step, 1e-4),
        # It settles above its start
        noisy(lambda step: 0.03 + 0.01 * (1 - math.exp(-step / 50)), 1e-4),
        noisy(falling(30), 5e-3),
        [math.nan] * len(STEPS),
    ],
    ids=[
        "flat",
        "flat, noisy",
        "line",
        "line, noisy",
        "slow",
        "diverging",
        "worse",
        "too noisy",
        "not finite",
    ],
)
def test_other_losses_let_it_go_on(losses: list[float]) -> None:
    assert stop(losses) is None


def test_a_rate_that_rises_or_has_decayed_is_not_judged() -> None:
    losses = noisy(falling(30), 1e-4)
    early, warm = stop(losses), stop(losses, lambda step: min(1.0, step / 400))
    assert early is not None
    assert warm is not None
    assert warm >= 400 + 20 * (RULE.window - 1)
    assert stop(losses, lambda _: 0.0) is None
    assert stop(noisy(falling(300), 0.0), lambda step: max(0.0, 1 - step / 800)) is None, (
        "a decay calms any loss"
    )
    assert stop(losses, lambda step: 1 - step / 1600) is not None, "before half of it has decayed"


def test_the_share_is_that_of_the_paper() -> None:
    losses = noisy(falling(30), 1e-4)
    found = settled(STEPS, losses, [1.0] * len(losses), RULE)
    assert found is not None
    assert 0 < found.share < RULE.variance_share
    assert found.first == losses[0]
    fell = f"fell from {losses[0]:.4f} to {found.last:.4f} and no longer improves"
    text = f"ended early, after step 1600 of 2000: the loss on moons {fell}"
    assert found.sentence(2000, "moons") == text


def test_a_word_that_has_not_moved_has_not_learned() -> None:
    losses = noisy(falling(30), 1e-4)
    for angle, settles in ((0.0, False), (math.nan, False), (40.0, True)):
        pairs = zip(STEPS, losses, strict=True)
        measurements = {step: Measurement(loss, 1.0, angle, 1.0) for step, loss in pairs}
        assert bool(judge(measurements, RULE)) == settles
    assert judge({}, RULE) is None
