"""Shared fixtures: one thread, no network, tiny real models and datasets."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import atexit
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.run import MODEL

# What the user's own runs remember is not touched, nor taken from there
os.environ["COINAGE_CACHE"] = tempfile.mkdtemp()
atexit.register(shutil.rmtree, os.environ["COINAGE_CACHE"], ignore_errors=True)

# The tests of `make gpu-check` do without it
with suppress(ModuleNotFoundError):
    import hypothesis

    # A busy machine is not a fault
    hypothesis.settings.register_profile("no-deadline", deadline=None)
    hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A command sets up the log; the next test finds it as it was."""
    log = logging.getLogger("coinage")
    kept = list(log.handlers), log.level, log.propagate
    yield
    for handler in log.handlers:
        if handler not in kept[0]:
            handler.close()
    log.handlers, log.level, log.propagate = kept


@pytest.fixture(scope="session")
def moon_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset.toml of eight pictures of a moon, called zibu."""
    return write_dataset(tmp_path_factory.mktemp("moon"), CONCEPTS["moon"], "zibu", seed=0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models: `sd1/` and `sd1.safetensors`, and so on.

    Settings for the files in `configs/`.
    """
    import torch
    from safetensors.torch import save_file

    from tests.tiny_models import FAMILY_NAMES, original_tensors, write_folder

    root = tmp_path_factory.mktemp("models")
    for name in FAMILY_NAMES:
        write_folder(root / name, name)
        write_folder(root / "configs" / name, name)
        save_file(original_tensors(name), root / f"{name}.safetensors")
        torch.save({"state_dict": original_tensors(name), "epoch": 3}, root / f"{name}.ckpt")
    shutil.copytree(MODEL / "tokenizer", root / "tokenizers" / "any")
    return root


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD 3.5 as a diffusers folder, with T5."""
    from tests.tiny_models import write_sd3

    return write_sd3(tmp_path_factory.mktemp("sd3") / "whole")


@pytest.fixture(scope="session")
def sd3_without_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without T5."""
    from tests.tiny_models import write_sd3

    return write_sd3(tmp_path_factory.mktemp("sd3") / "without", t5=False)


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX.1 as a diffusers folder, with a guidance embedding."""
    from tests.tiny_models import write_flux

    return write_flux(tmp_path_factory.mktemp("flux") / "dev")


@pytest.fixture(scope="session")
def flux_without_guidance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without it."""
    from tests.tiny_models import write_flux

    return write_flux(tmp_path_factory.mktemp("flux") / "without", guidance=False)


@pytest.fixture
def small_configs(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single files are read with the tiny models' settings instead of the released models'."""
    monkeypatch.setattr("coinage.models.loading.CONFIGS", models / "configs")
