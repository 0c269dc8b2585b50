"""Kernels that were right are not tried again; anything else that may be wrong is."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from coinage.models.attention import plain_attention
from coinage.training import model_check
from coinage.training.kernel_memory import kernel_facts, remember, were_right
from coinage.training.model_check import check_model, image_with_word
from coinage.training.run import Run
from tests.helpers import prepared


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COINAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs whose gradient was computed, in turn."""
    computed: list[Run] = []
    original = model_check.gradient

    def noted(run: Run, batch: object) -> torch.Tensor:
        computed.append(run)
        return original(run, batch)

    monkeypatch.setattr(model_check, "gradient", noted)
    return computed


@pytest.fixture
def run(moon_dataset: Path, tmp_path: Path) -> Run:
    return prepared(moon_dataset, tmp_path / "out")


def test_right_kernels_are_tried_once(
    run: Run, cache: Path, gradients: list[Run], moon_dataset: Path, tmp_path: Path
) -> None:
    check_model(run)
    assert len(gradients) == 2
    check_model(run)
    check_model(prepared(moon_dataset, tmp_path / "again"))
    assert len(gradients) == 2
    (file,) = cache.rglob("*.json")
    assert torch.__version__ in file.read_text()


def test_what_may_change_a_kernel_has_it_tried_again(
    run: Run,
    cache: Path,
    gradients: list[Run],
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_model(run)
    check_model(prepared(moon_dataset, tmp_path / "bf16", "--mixed_precision=bf16"))
    assert len(gradients) == 4
    check_model(prepared(moon_dataset, tmp_path / "saving", "--gradient_checkpointing"))
    assert len(gradients) == 6
    with monkeypatch.context() as changed:
        changed.setattr(torch, "__version__", "99.1")
        check_model(run)
    assert len(gradients) == 8
    with monkeypatch.context() as changed:
        changed.setattr(torch.backends.cuda, "flash_sdp_enabled", lambda: False)
        check_model(run)
    assert len(gradients) == 10
    with plain_attention(run.parts):
        check_model(run)
    assert len(gradients) == 12
    assert len(list(cache.rglob("*.json"))) == 6


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"torch": "1"}', "[" * 5000, "\x00"])
def test_a_damaged_file_is_written_anew(
    damage: str, run: Run, cache: Path, gradients: list[Run]
) -> None:
    check_model(run)
    (file,) = cache.rglob("*.json")
    whole = file.read_text()
    file.write_text(damage)
    check_model(run)
    assert len(gradients) == 4
    assert file.read_text() == whole
    facts = json.loads(whole)
    file.write_text(json.dumps({**facts, "device": "another"}))
    assert not were_right(facts)


def test_without_a_folder_nothing_is_remembered(
    run: Run, tmp_path: Path, gradients: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COINAGE_CACHE", str(tmp_path / "file"))
    check_model(run)
    check_model(run)
    assert len(gradients) == 4


def deaf(query, key, value, *arguments: object, **more: object) -> torch.Tensor:
    return torch._C._nn.scaled_dot_product_attention(query, key.detach(), value.detach())


def test_wrong_kernels_are_found_whatever_was_right_before(
    run: Run,
    cache: Path,
    gradients: list[Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_model(run)
    with monkeypatch.context() as changed:
        changed.setattr(F, "scaled_dot_product_attention", deaf)
        check_model(run)
    assert "the attention kernels give a wrong gradient" in caplog.text
    assert len(gradients) == 4
    assert len(list(cache.rglob("*.json"))) == 1, "and they are not remembered"


def test_wrong_kernels_of_torch_are_not_remembered(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_check, "LEAST_COSINE", 1.1)
    check_model(run)
    assert "the attention kernels give a wrong gradient" in caplog.text
    assert not list(cache.rglob("*.json"))


def test_a_gradient_of_nothing_proves_nothing(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_check, "gradient", lambda run, batch: torch.zeros(4))
    check_model(run)
    assert not list(cache.rglob("*.json"))


def test_attention_of_strangers_is_never_remembered(run: Run, cache: Path) -> None:
    class Processor:
        def __call__(self, *arguments: object) -> None: ...

    batch = image_with_word(run)
    assert batch
    assert kernel_facts(run, batch)
    run.parts.denoiser.set_attn_processor(Processor())
    assert kernel_facts(run, batch) is None
    remember(None)
    assert not cache.exists()
    assert not were_right(None)
