"""Drawing with models of flow matching: flags that mean nothing to them are told once, and change nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.cli.main import main
from coinage.embeddings.word import Word
from tests.tiny_models import T5_WIDTH

SMALL = ["--steps=2", "--width=64", "--height=64", "--seed=1"]
NO_EFFECT = "no effect: FLUX.1 is trained by flow matching"


def draw(
    model: Path, output: Path, *more: str
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    assert main(["generate", str(model), "a red zibu", *SMALL, f"--output={output}", *more]) == 0
    (path,) = output.glob("*.png")
    with Image.open(path) as image:
        return np.asarray(image)


def flux_word(path: Path) -> str:
    import torch

    vectors = {"clip_l": torch.ones(1, 32), "t5xxl": torch.ones(1, T5_WIDTH)}
    Word(vectors=vectors, token="zibu").save(path)
    return f"--embedding={path}"


@pytest.mark.parametrize(
    ("flags", "notes"),
    [
        ([], []),
        (["--sampler=euler"], []),
        (["--sampler=k_euler"], []),
        (["--sampler=euler_a"], [f"note: --sampler has {NO_EFFECT}"]),
        (
            ["--sampler=dpmsolver++", "--v_parameterization", "--zero_terminal_snr"],
            [f"note: --sampler, --v_parameterization, --zero_terminal_snr have {NO_EFFECT}"],
        ),
        (
            ["--show-word"],
            ["note: --show-word has no effect: FLUX.1 does not show where a word acts"],
        ),
        (
            ["--negative=blurry"],
            ["note: --negative has no effect: this model reads the guidance scale"],
        ),
    ],
)
def test_a_flag_without_meaning_is_told_once(
    flags: list[str],
    notes: list[str],
    flux: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    word = flux_word(tmp_path / "zibu.safetensors")
    plain = draw(flux, tmp_path / "plain", word)
    capsys.readouterr()
    assert np.array_equal(draw(flux, tmp_path / "out", word, *flags), plain)
    told = capsys.readouterr().err
    assert told.count("no effect") == len(notes)
    assert [note for note in notes if note not in told] == []
    assert "--show-word draws nothing" not in told


@pytest.mark.parametrize(
    ("family", "side", "becomes"),
    [("flux", 72, 64), ("flux", 64, None), ("sd1", 72, None), ("sd1", 79, 72)],
)
def test_a_side_that_does_not_fit_is_told(
    family: str,
    side: int,
    becomes: int | None,
    flux: Path,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = flux if family == "flux" else models / family
    assert draw(model, tmp_path, f"--width={side}").shape == (64, becomes or side, 3)
    told = capsys.readouterr().err
    assert (f"note: --width {side} becomes {becomes}" in told) == (becomes is not None)
    assert told.count("becomes") == int(becomes is not None)


def test_a_negative_prompt_is_read_without_a_guidance_embedding(
    flux_without_guidance: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = draw(flux_without_guidance, tmp_path / "a", "--cfg=4")
    other = draw(flux_without_guidance, tmp_path / "b", "--cfg=4", "--negative=blue")
    assert not np.array_equal(usual, other)
    assert "no effect" not in capsys.readouterr().err
