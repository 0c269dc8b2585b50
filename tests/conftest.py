"""Shared fixtures: one thread, no network, tiny real models and datasets."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest

from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset


@pytest.fixture(scope="session")
def moon_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset.toml of eight pictures of a moon, called zibu."""
    return write_dataset(tmp_path_factory.mktemp("moon"), CONCEPTS["moon"], "zibu", seed=0)
