"""What a learning rate can do, and what a run would be, known before the model is loaded."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coinage.cli.train import train_command
from coinage.config import OptimConfig
from coinage.optim.reach import USUAL_ANGLE, longest_step, movement_band, rate_problem
from tests.helpers import flags


def told(
    rate: float, steps: int = 1600, width: int = 768, norm: float = 0.4, name: str = "AdamW"
) -> str:
    return str(rate_problem(OptimConfig(name=name, learning_rate=rate), steps, width, norm) or "")


def test_the_guides_own_rate_turns_a_word_by_six_degrees() -> None:
    text = told(1e-6)
    assert f"at most {math.degrees(math.asin(1e-6 * 1600 * 768**0.5 / 0.4)):.0f} degrees" in text
    assert "at most 6 degrees" in text
    assert "hint: try --learning_rate 0.0004" in text
    assert told(4e-4) == "", "and the advice is good"


@pytest.mark.parametrize(
    ("rate", "name", "degrees"),
    [(2e-6, "AdamW", "10"), (1.2e-4, "Directional", "11"), (1e-7, "AdamW", "0.6")],
)
def test_degrees_are_written_out(rate: float, name: str, degrees: str) -> None:
    assert f"at most {degrees} degrees" in told(rate, name=name)


def test_a_rate_that_makes_a_word_drown_the_prompt() -> None:
    assert (
        "times the length of the model's words, and the rest of a prompt would be ignored"
        in told(10)
    )
    assert told(5e-3) == ""


@pytest.mark.parametrize(
    ("width", "norm", "steps"), [(768, 0.4, 100), (1280, 0.6, 10_000), (128, 0.25, 300)]
)
def test_the_advice_is_never_warned_of(width: int, norm: float, steps: int) -> None:
    for rate in (1e-9, 1e3):
        text = told(rate, steps, width, norm)
        advised = float(text.split("hint: try --learning_rate ")[1].split()[0])
        assert told(advised, steps, width, norm) == ""


def test_other_optimizers_are_not_judged() -> None:
    assert told(1.0, name="Prodigy") == ""
    assert told(1e-9, name="Lion") == ""
    assert told(0.0) == ""
    assert "at most" in told(1e-6, name="AdamW8bit")


def test_an_angle_is_judged_as_one() -> None:
    assert "in 1,600 steps the word can hardly change (at most 0.092 degrees)" in told(
        1e-6, name="Directional"
    )
    assert "115 degrees in one step are too many" in told(2.0, name="Directional")
    assert told(USUAL_ANGLE, name="Directional") == ""
    assert told(0.0, name="Directional") == ""


STEPS = 20
# Of noise [steps, width] and the step [steps, 1]
KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "steady": lambda noise, at: noise[:1].sign() * (1 + noise[:, :1].sigmoid()),
    "noise": lambda noise, at: noise,
    "alternating": lambda noise, at: (1 - 2 * (at % 2)) * torch.ones_like(noise),
    "waves": lambda noise, at: torch.cos(noise[0, 0] * at) * torch.ones_like(noise),
    "growing": lambda noise, at: noise * 1.11**at,
    "falling": lambda noise, at: noise * 0.8**at,
    "rare": lambda noise, at: noise * ((noise[:, :1] > 1) | (at == len(at) - 1)),
    "one number far ahead": lambda noise, at: (
        noise * torch.tensor([1e4] + [1.0] * (noise.shape[1] - 1))
    ),
}


def gradients(kind: str, steps: int, width: int, seed: int) -> torch.Tensor:
    """[steps, width] of about the size 1."""
    noise = torch.randn(steps, width, generator=torch.Generator().manual_seed(seed))
    return KINDS[kind](noise, torch.arange(steps).unsqueeze(1))


def moved(rates: list[float], gradient: torch.Tensor, before: int = 0) -> float:
    """How far torch's AdamW brings a row from step `before` on."""
    row = torch.nn.Parameter(
        torch.randn(gradient.shape[1], generator=torch.Generator().manual_seed(0)) * 0.02
    )
    optimizer = torch.optim.AdamW([row], lr=rates[0])
    begin, furthest = row.detach().clone(), 0.0
    for step, values in enumerate(gradient):
        if step == before:
            begin = row.detach().clone()
        optimizer.param_groups[0]["lr"] = rates[max(step - before, 0)]
        row.grad = values.clone()
        optimizer.step()
        furthest = max(furthest, float((row.detach() - begin).norm())) if step >= before else 0.0
    return furthest


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 2**31),
    width=st.sampled_from([32, 128, 768]),
    rate=st.sampled_from([1e-5, 1e-3, 3e-2]),
    size=st.sampled_from([1e-6, 1e-3, 10.0]),
    schedule=st.sampled_from(["constant", "from 0", "to 0"]),
    before=st.sampled_from([0, 0, 1, 40, 300]),
)
def test_adamw_stays_in_the_band(
    kind: str, seed: int, width: int, rate: float, size: float, schedule: str, before: int
) -> None:
    rises, falls = (
        [i / 100 for i in range(STEPS)],
        [math.cos(math.pi / 2 * i / STEPS) for i in range(STEPS)],
    )
    rates = [
        rate * share for share in {"from 0": rises, "to 0": falls}.get(schedule, [1.0] * STEPS)
    ]
    band = movement_band(OptimConfig(learning_rate=rate), rates, before, width)
    assert band
    distance = moved(rates, gradients(kind, before + STEPS, width, seed) * size, before)
    assert band[0] <= distance <= band[1]


def test_what_lies_outside_of_the_band() -> None:
    rates, noise = [1e-3] * STEPS, gradients("noise", STEPS, 128, 0)
    low, high = movement_band(OptimConfig(), rates, 0, 128) or (0, 0)
    assert moved(rates, noise * 1e-6) == pytest.approx(moved(rates, noise), rel=0.1), (
        "AdamW does not care how large gradients are,"
    )
    assert moved(rates, noise * 1e-10) < low, "down to its epsilon, 1e-8"
    assert moved(rates, noise * 1e-12) < low
    assert moved([rate * 10 for rate in rates], gradients("steady", STEPS, 128, 0)) > high
    for settled in (OptimConfig(name="Lion"), OptimConfig(arguments=(("eps", 1e-6),))):
        assert movement_band(settled, rates, 0, 128) is None
    assert movement_band(OptimConfig(), [0.0] * STEPS, 0, 128) is None


def test_the_longest_step_is_reached() -> None:
    """By gradients that grow as much from step to step as the bound says."""
    for steps in (1, 5, STEPS, 100):
        grown = (0.999 / 0.9) ** torch.arange(1.0 - steps, 1.0).unsqueeze(1).expand(-1, 4)
        assert moved([1e-3], grown, steps - 1) / 2e-3 == pytest.approx(
            longest_step(steps), rel=0.01
        )
    assert longest_step(1) == pytest.approx(1)
    assert longest_step(100_000) == pytest.approx(7.27, abs=0.01)


def test_a_dry_run_tells_the_plan_and_loads_nothing(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "--max_train_epochs=3",
        "--save_every_n_epochs=1",
        "--save_every_n_steps=20",
        "--save_state",
        "--cache_latents",
        "--learning_rate=1e-6",
    ]
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", *given, "--dry_run")) == 0
    text = capsys.readouterr().err
    assert "60 steps, 3 epochs" in text
    assert "6 embeddings with their states" in text
    assert f"{8 * 64 * 64 // 64 * 32 // 2**10} kB of latents in memory" in text
    assert "the word can hardly change" in text
    assert "loading" not in text
    assert not (tmp_path / "o").exists()


def test_the_plan_is_what_happens(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--max_train_epochs=2", "--save_every_n_epochs=1", "--save_every_n_steps=15"]
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", *given, "--dry_run")) == 0
    count = int(capsys.readouterr().err.split(" embeddings")[0].split()[-1])
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", *given)) == 0
    assert len(list((tmp_path / "o").glob("*.safetensors"))) == count


def test_a_dry_run_fails_as_the_run_would(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train_command("sd", flags(moon_dataset, tmp_path / "o", "--token_string=wobo", "--dry_run"))
        == 2
    )
    assert "no caption contains the word wobo" in capsys.readouterr().err
