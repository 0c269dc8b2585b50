"""What a learning rate can do, and what a run would be, known before the model is loaded."""

import math
from pathlib import Path

import pytest

from coinage.cli.kohya import train_command
from coinage.config import OptimConfig
from coinage.reach import rate_problem
from tests.helpers import flags


def told(rate: float, steps: int = 1600, width: int = 768, norm: float = 0.4, name: str = "AdamW") -> str:
    return str(rate_problem(OptimConfig(name=name, learning_rate=rate), steps, width, norm) or "")


def test_the_guides_own_rate_turns_a_word_by_six_degrees() -> None:
    text = told(1e-6)
    assert f"at most {math.degrees(math.asin(1e-6 * 1600 * 768**0.5 / 0.4)):.0f} degrees" in text
    assert "at most 6 degrees" in text
    assert "hint: --learning_rate 0.0004" in text
    assert told(4e-4) == "", "and the advice is good"


def test_a_rate_that_makes_a_word_drown_the_prompt() -> None:
    assert "times as long as the model's words, and a prompt then obeys nothing else" in told(10)
    assert told(5e-3) == ""


@pytest.mark.parametrize(("width", "norm", "steps"), [(768, 0.4, 100), (1280, 0.6, 10_000), (128, 0.25, 300)])
def test_the_advice_is_never_warned_of(width: int, norm: float, steps: int) -> None:
    for rate in (1e-9, 1e3):
        text = told(rate, steps, width, norm)
        advised = float(text.split("hint: --learning_rate ")[1].split()[0])
        assert told(advised, steps, width, norm) == ""


def test_other_optimizers_are_not_judged() -> None:
    assert told(1.0, name="Prodigy") == ""
    assert told(1e-9, name="Lion") == ""
    assert told(0.0) == ""
    assert "at most" in told(1e-6, name="AdamW8bit")


def test_a_dry_run_tells_the_plan_and_loads_nothing(moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "8 images, 60 steps, 3 epochs" in text
    assert "6 embeddings with their states" in text
    assert f"{8 * 64 * 64 / 64 * 32 / 2**20:.1f} MB of latents in memory" in text
    assert "which teaches little" in text
    assert "loading" not in text
    assert not list((tmp_path / "o").iterdir())


def test_the_plan_is_what_happens(moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--max_train_epochs=2", "--save_every_n_epochs=1", "--save_every_n_steps=15"]
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", *given, "--dry_run")) == 0
    count = int(capsys.readouterr().err.split(" embeddings")[0].split()[-1])
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", *given)) == 0
    assert len(list((tmp_path / "o").glob("*.safetensors"))) == count


def test_a_dry_run_fails_as_the_run_would(moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_command("sd", flags(moon_dataset, tmp_path / "o", "--token_string=wobo", "--dry_run")) == 2
    assert "no caption contains the word wobo" in capsys.readouterr().err
