"""Tiny models of every family, once a session."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coinage.demo.run import MODEL
from tests.models import FAMILY_NAMES, original_tensors, write_folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models: `sd1/` and `sd1.safetensors`, and so on; settings for the files in `configs/`."""
    root = tmp_path_factory.mktemp("models")
    for name in FAMILY_NAMES:
        write_folder(root / name, name)
        write_folder(root / "configs" / name, name)
        save_file(original_tensors(name), root / f"{name}.safetensors")
        torch.save({"state_dict": original_tensors(name), "epoch": 3}, root / f"{name}.ckpt")
    shutil.copytree(MODEL / "tokenizer", root / "tokenizers" / "any")
    return root


@pytest.fixture
def small_configs(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single files are read with the tiny models' settings instead of the released models'."""
    monkeypatch.setattr("coinage.families.loading.CONFIGS", models / "configs")
