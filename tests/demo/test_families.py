"""Each shipped demo world is what it says: a family of its own that obeys its words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coinage.cli.main import main
from coinage.config import ModelConfig
from coinage.demo.score import base_accuracy, base_prompts
from coinage.demo.worlds import MODELS
from coinage.generate import draw
from coinage.models.families import FAMILIES
from coinage.models.hub_files import detect_family
from coinage.text.prompts import Prompt

NAMES = sorted(path.name for path in MODELS.iterdir() if path.is_dir())


def test_the_shipped_worlds_are_told_apart() -> None:
    assert set(NAMES) == {*FAMILIES}
    assert [detect_family(str(MODELS / name)) for name in NAMES] == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_draws_what_it_is_told(name: str) -> None:
    parts = FAMILIES[name].load(ModelConfig(source=str(MODELS / name), family=name), torch.float32)
    parts.install([], [])
    pairs = base_prompts(12, seed=5, family=name)
    found = base_accuracy(
        [scene for _, scene in pairs],
        list(draw(FAMILIES[name], parts, [prompt for prompt, _ in pairs], 12)),
    )
    assert found["all"] >= 0.75, found


@pytest.mark.parametrize("name", [name for name in NAMES if FAMILIES[name].facts.is_flow])
def test_its_pictures_have_its_size(name: str) -> None:
    """A latent of a demo world stands for 4 pixels along a side, and of released models for 8."""
    parts = FAMILIES[name].load(ModelConfig(source=str(MODELS / name), family=name), torch.float32)
    parts.install([], [])
    prompt = Prompt(text="a red circle", width=64, height=64, steps=1, seed=0)
    (picture,) = draw(FAMILIES[name], parts, [prompt])
    assert picture.shape == (64, 64, 3)


def test_what_makes_the_sdxl_world_one() -> None:
    xl = FAMILIES["sdxl"].load(
        ModelConfig(source=str(MODELS / "sdxl"), family="sdxl"), torch.float32
    )
    assert len(xl.text_encoders) == len(xl.tokenizers) == 2
    assert xl.denoiser.config.addition_embed_type == "text_time"


def test_what_makes_the_sd2_world_one() -> None:
    parts = FAMILIES["sd2"].load(
        ModelConfig(source=str(MODELS / "sd2"), family="sd2"), torch.float32
    )
    assert parts.schedule.prediction_type == "v_prediction"
    assert parts.schedule.snr(torch.tensor([999])).item() == 0
    assert parts.text_encoders[0].config.hidden_act == "gelu"


@pytest.mark.parametrize("name", NAMES)
def test_the_demo_names_the_right_command(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", f"--family={name}", f"--export={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert ("sdxl_train_textual_inversion.py" in out, "--v2" in out) == (
        name == "sdxl",
        name == "sd2",
    )


def test_the_demo_shows_a_model_what_its_world_is_like(tmp_path: Path) -> None:
    """A model that has only seen things near the middle is not taught from others."""
    furthest = {}
    for family in NAMES:
        main(["demo", f"--family={family}", f"--export={tmp_path / family}"])
        apart = []
        for path in (tmp_path / family / "dataset" / "images").glob("*.png"):
            pixels = np.asarray(Image.open(path)).astype(int)
            rows, columns = np.nonzero(np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60)
            apart += [abs(np.ptp(at) / 2 + at.min() - 31.5) for at in (rows, columns)]
        furthest[family] = max(apart)
    near = {family for family, distance in furthest.items() if distance < 5}
    assert near == {family for family in NAMES if FAMILIES[family].facts.is_flow}, furthest
