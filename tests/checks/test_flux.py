"""Checks of a run for FLUX.1: long captions, which T5 reads, and choices that it does not have."""

from pathlib import Path

import pytest

from coinage.cli.train import train_command
from coinage.models.facts import FLUX, SD1, SD3, SDXL, FamilyFacts


@pytest.mark.parametrize(
    ("facts", "asked", "read"),
    [(SD1, 1, 1), (SD1, 3, 3), (SDXL, 2, 2), (SD3, 3, 1), (FLUX, 1, 6), (FLUX, 3, 6)],
)
def test_how_much_of_a_caption_is_read(facts: FamilyFacts, asked: int, read: int) -> None:
    assert facts.chunks_read(asked) == read


@pytest.mark.parametrize(
    ("before", "words", "code"), [(0, 3, 0), (120, 3, 0), (500, 3, 2)], ids=["short", "long", "cut"]
)
def test_a_word_late_in_a_long_caption_is_read(
    before: int,
    words: int,
    code: int,
    flux: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    for number in range(words):
        Image.new("RGB", (64, 64), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a " * before + "zibu on red")
    done = train_command("coinage", [
        f"--pretrained_model_name_or_path={flux}", f"--train_data_dir={tmp_path}",
        f"--output_dir={tmp_path / 'out'}", "--token_string=zibu", "--init_word=circle",
        "--resolution=64", "--dry_run",
    ])  # fmt: skip
    told = "".join(capsys.readouterr())
    assert done == code
    assert ("is cut off" in told) == bool(code)
    assert "--max_token_length" not in told


def test_bigg_is_none_of_its_text_encoders(
    flux: Path, moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = train_command("coinage", [
        f"--pretrained_model_name_or_path={flux}", f"--dataset_config={moon_dataset}",
        f"--output_dir={tmp_path}", "--token_string=zibu", "--init_word=circle",
        "--train_encoders=g", "--dry_run",
    ])  # fmt: skip
    assert done != 0
    told = "".join(capsys.readouterr())
    assert "--train_encoders g: FLUX.1 has no such text encoder" in told
    assert "one of l, clip, t5, both" in told
