"""Previews that nobody asked for: what they show, and that they cost little."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.checks import make_plans
from coinage.config import PreviewConfig
from coinage.data.default_prompts import (
    PASSES_OF_PICTURE,
    PASSES_OF_STEP,
    PREVIEW_SHARE,
    steps_for,
    times_within_share,
    without_word,
)
from coinage.text.prompts import Prompt
from tests.helpers import config_for, prepared, trained

PROMPTS = [Prompt(text="zibu"), Prompt(text="zibu on a beach"), Prompt(text="on a beach", of=1)]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("zibu", ""),
        ("a zibu", ""),
        ("zibu on a beach", "on a beach"),
        ("a photo of a red zibu on a blue background", "a photo of a red on a blue background"),
        ("a photo of the zibu on a table", "a photo on a table"),
        ("zibu, smiling, red hat", "smiling, red hat"),
        ("1girl, zibu, smiling", "1girl, smiling"),
        ("a beach in the style of zibu", "a beach"),
        ("zibus on zibu's beach", "zibus on 's beach"),
    ],
)
@pytest.mark.parametrize("token", ["zibu", "<zibu>", "$zibu", "z*"])
def test_a_prompt_without_the_word(text: str, rest: str, token: str) -> None:
    if token == "zibu" or "zibus" not in text:
        assert without_word(text.replace("zibu", token), token) == rest


def test_the_set_is_made_from_the_captions(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path)
    assert config.preview == PreviewConfig(automatic=True)
    prompts = make_plans([config])[0].prompts
    alone, caption, plain_caption, edited, plain = prompts
    assert alone.text == "zibu"
    assert caption.text in {
        file.read_text().strip() for file in (moon_dataset.parent / "images").glob("*.txt")
    }
    assert plain_caption.text == without_word(caption.text, "zibu")
    assert (plain_caption.of, plain.of) == (1, 3)
    assert edited.text == "zibu on a blue background", "the demo model knows no beach"
    assert {(p.width, p.height, p.seed) for p in prompts} == {(64, 64, 1)}


@given(st.integers(1, 100_000), st.floats(1, 64))
def test_they_take_a_tenth_of_a_run_at_most(steps: int, images: float) -> None:
    times = times_within_share(PROMPTS, steps, images)
    passes = (times * 2 + (times > 0)) * PASSES_OF_PICTURE
    assert passes <= PREVIEW_SHARE * steps * images * PASSES_OF_STEP
    assert times in (0, *range(2, 11))
    drawn = steps_for(times, steps)
    assert len(drawn) <= times
    assert not drawn or {0, steps} <= drawn


def test_they_are_drawn_and_what_has_no_word_is_drawn_once(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.data.default_prompts.PREVIEW_SHARE", 50.0)
    trained(moon_dataset, tmp_path, "--max_train_steps=2")
    found = sorted(path.name[5:15] for path in (tmp_path / "sample").iterdir())
    assert found == [
        *(f"000000_0{i}_" for i in range(5)),
        *(f"{step:06d}_0{i}_" for step in (1, 2) for i in (0, 1, 3)),
    ]
    trained(moon_dataset, tmp_path / "off", "--max_train_steps=2", "--sample_every_n_steps=0")
    assert not (tmp_path / "off" / "sample").exists()


def test_long_epochs_do_not_make_more_of_them(moon_dataset: Path, tmp_path: Path) -> None:
    """Images per step are those of a step, however few of an epoch's are reached."""
    run = prepared(moon_dataset, tmp_path, "--max_train_steps=3")
    assert run.images_per_step == 4
    assert prepared(
        moon_dataset, tmp_path, "--max_train_steps=3", "--gradient_accumulation_steps=3"
    ).images_per_step == pytest.approx(80 / 7)


def test_short_runs_draw_none(moon_dataset: Path, tmp_path: Path) -> None:
    trained(moon_dataset, tmp_path, "--max_train_steps=3")
    assert not (tmp_path / "sample").exists()


def test_an_interval_without_prompts_draws_the_set(moon_dataset: Path, tmp_path: Path) -> None:
    trained(moon_dataset, tmp_path, "--max_train_steps=2", "--sample_every_n_steps=2")
    assert len(list((tmp_path / "sample").iterdir())) == 5
