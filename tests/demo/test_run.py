"""`coinage demo` end to end, small."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.cli.main import main
from coinage.demo.worlds import WORLDS, World


def test_export_writes_model_and_dataset_and_prints_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--concept=banded", "--word=wobo", f"--export={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert f"--dataset_config={tmp_path / 'dataset' / 'dataset.toml'}" in out
    assert "--token_string=wobo" in out
    assert "train_textual_inversion.py" in out
    captions = [
        p.read_text(encoding="utf-8")
        for p in sorted((tmp_path / "dataset" / "images").glob("*.txt"))
    ]
    assert len(captions) == 8
    assert all(" wobo " in caption and "banded" not in caption for caption in captions)
    assert (tmp_path / "model" / "model_index.json").is_file()
    assert not list(tmp_path.glob("*.safetensors"))


def test_unknown_concept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--concept=mon"]) == 2
    assert "did you mean `moon`?" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torchvision.*")
def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORLDS, "sd1", World(sampler_steps=4, trials=8))
    assert main(["demo", "--steps=2", "--seed=4", f"--output={tmp_path}"]) == 0
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert {
        "family",
        "concept",
        "steps",
        "seconds",
        "S_before",
        "S_after",
        "E_before",
        "E_after",
    } <= result.keys()
    assert (result["family"], result["concept"], result["steps"], result["pictures"]) == (
        "sd1",
        "moon",
        2,
        8,
    )
    assert (tmp_path / "zibu.safetensors").is_file()
    sheet = np.asarray(Image.open(tmp_path / "previews.png"))
    assert sheet.shape[2] == 3
    assert sheet.std() > 20
