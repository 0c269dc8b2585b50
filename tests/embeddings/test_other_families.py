"""A word of one family given to a model of another: refused with a hint that helps, or taken as it is."""

from pathlib import Path

import pytest
import torch

from coinage.cli.main import main
from coinage.embeddings.word import Word
from tests.tiny_models import T5_WIDTH

WIDTHS = {"emb_params": 32, "clip_l": 32, "clip_g": 64, "t5xxl": T5_WIDTH}
WORDS = {
    "sd1": ("emb_params",),
    "sdxl": ("clip_l", "clip_g"),
    "sd3": ("clip_l", "clip_g", "t5xxl"),
    "flux": ("clip_l", "t5xxl"),
    "half": ("clip_l",),
}
JOIN, OTHER = "--second OTHER joins them", "made for this kind of model"
WITHOUT_T5 = "the word was made without T5: give the model without it"
# What is told of each word with each model; "" where it is taken
TOLD = {
    "sd3": {"sd1": OTHER, "sdxl": WITHOUT_T5, "sd3": "", "flux": OTHER, "half": OTHER},
    "sd3_without_t5": {"sd1": JOIN, "sdxl": "", "sd3": "", "flux": OTHER, "half": JOIN},
    "flux": {"sd1": JOIN, "sdxl": OTHER, "sd3": "", "flux": "", "half": JOIN},
}


@pytest.mark.parametrize("model", TOLD)
def test_a_word_of_another_family_is_one_clear_error(
    model: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = request.getfixturevalue(model)
    draw = ["generate", str(folder), "a zibu", "--steps=1", "--width=64", "--height=64", "--seed=1"]
    for name, keys in WORDS.items():
        vectors = {key: torch.ones(1, WIDTHS[key]) for key in keys}
        (file,) = Word(vectors, "zibu").save(tmp_path / f"{name}.safetensors")
        code = main([*draw, f"--output={tmp_path / 'out'}", f"--embedding={file}"])
        error = capsys.readouterr().err
        told = TOLD[model][name]
        assert (code, error.count("error:")) == ((1, 1) if told else (0, 0)), (name, error)
        assert told in error, (name, error)
