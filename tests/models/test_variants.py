"""Weights in half precision, under names of their own or not."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download

from coinage.config import ModelConfig
from coinage.models.families import FAMILIES
from coinage.models.pretrained import _variants, files_of
from tests.fake_hub import Repo, fake_hub
from tests.helpers import libraries_told

WHOLE = ["config.json", "diffusion_pytorch_model.safetensors"]
HALF = ["config.json", "diffusion_pytorch_model.fp16.safetensors"]
PARTS = [f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.mark.parametrize(
    ("files", "half", "asked"),
    [
        (WHOLE, True, [None]),
        (WHOLE, False, [None]),
        (HALF, True, ["fp16"]),
        (HALF, False, ["fp16"]),
        (WHOLE + HALF, True, ["fp16", None]),
        (WHOLE + HALF, False, [None, "fp16"]),
        (PARTS, True, ["fp16"]),
        (["pytorch_model.bin", "model.fp16.bin"], True, ["fp16", None]),
        (["pytorch_model.bin"], True, [None]),
        ([], True, [None]),
        ([], False, [None]),
    ],
)
def test_only_what_is_there_is_asked_for(
    files: Sequence[str], half: bool, asked: Sequence[str | None]
) -> None:
    assert list(_variants(files, half=half)) == asked


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("kept", ["whole", "half", "both"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["fp16", "fp32"])
def test_a_folder_loads_without_a_word(
    name: str, kept: str, dtype: torch.dtype, models: Path, tmp_path: Path
) -> None:
    """A variant that is not there would be told, and pickles, as if something were wrong."""
    folder = shutil.copytree(models / name, tmp_path / "model")
    for file in folder.rglob("*.safetensors") if kept != "whole" else ():
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
        if kept == "half":
            file.unlink()
    with libraries_told() as told:
        parts = FAMILIES[name].load(ModelConfig(source=str(folder), family=name), dtype)
    assert parts.dtype == dtype
    assert not told


def test_files_on_the_hub_and_in_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = {f"unet/{name}": b"{}" for name in WHOLE + HALF}
    with fake_hub(monkeypatch, str(tmp_path)) as hub:
        hub.repos["models/me/model"] = Repo(files={**own, "vae/config.json": b"{}", "top.bin": b""})
        assert set(files_of("me/model", "unet")) == {*WHOLE, *HALF}
        assert files_of("me/model", "") == ["top.bin"]
        assert files_of("me/missing", "unet") == []
        for name in WHOLE:
            hf_hub_download("me/model", f"unet/{name}", cache_dir=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert set(files_of("me/model", "unet")) == set(WHOLE)
    assert files_of("no hub id", "unet") == []
