"""A small model computes on one thread, unless the user says otherwise."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from coinage.config import ModelConfig
from coinage.demo.run import MODEL
from coinage.models.families import FAMILIES, Components
from coinage.models.process_fit import fit_process


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demo_model() -> Components:
    return FAMILIES["sd1"].load(ModelConfig(source=str(MODEL), family="sd1"), torch.float32)


@pytest.mark.parametrize(("given", "threads"), [("", 1), ("2", 2)])
@pytest.mark.usefixtures("two_threads")
def test_the_demo_model_takes_one_thread(
    demo_model: Components, monkeypatch: pytest.MonkeyPatch, given: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    fit_process(demo_model)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("two_threads")
def test_a_released_model_takes_all_threads(
    demo_model: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    fit_process(replace(demo_model, denoiser=torch.nn.Linear(10_000, 10_000, device="meta")))
    assert torch.get_num_threads() == 2
