"""The evaluation loss: the same draws each time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.checks.footprint import MOST_AT_ONCE, evaluated_at_once
from coinage.config import ModelConfig
from coinage.training.evaluation import DRAWS, LEVELS, evaluation_loss, evaluation_set
from coinage.training.processes import Processes
from coinage.training.run import Run
from tests.helpers import TAUGHT, prepared
from tests.training.test_data_in_training import dataset


def loss_of(run: Run) -> float:
    return evaluation_loss(run, evaluation_set(run))


def test_held_out_images_are_measured_on_fixed_draws(tmp_path: Path) -> None:
    file = dataset(tmp_path, "validation_split = 0.25").rename(tmp_path / "data" / "v.toml")
    file.write_text(
        file.read_text(encoding="utf-8").replace(
            "resolution = 64", "resolution = 64\nvalidation_seed = 3"
        ),
        encoding="utf-8",
    )
    runs = [
        prepared(file, tmp_path / "o", TAUGHT, f"--seed={seed}", *more)
        for seed, more in ((0, ()), (1, ("--min_snr_gamma=5", "--flip_aug")))
    ]
    batches = evaluation_set(runs[0])
    assert [batch.timesteps.tolist() for batch in batches if batch.timesteps is not None] == 2 * [
        [125, 375, 625, 875]
    ]
    assert LEVELS == 4
    first, second = evaluation_loss(runs[0], batches), loss_of(runs[1])
    assert first == pytest.approx(0.0205580, abs=1e-6), (
        "as when each image went through the model alone"
    )
    assert first == evaluation_loss(runs[0], batches) == pytest.approx(second, rel=1e-6), (
        "neither the seed nor the loss weights count"
    )
    with torch.no_grad():
        for rows in runs[0].parts.rows():
            rows[:, 0] += 3
    assert evaluation_loss(runs[0], batches) != pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_training_images_share_the_timesteps(count: int, tmp_path: Path) -> None:
    run = prepared(dataset(tmp_path), tmp_path / "o")
    run.samples = run.samples[:count]
    batches = evaluation_set(run)
    assert len(batches) == count
    timesteps = [
        t for batch in batches if batch.timesteps is not None for t in batch.timesteps.tolist()
    ]
    assert sorted(timesteps) == [1000 * (2 * k + 1) // (2 * DRAWS) for k in range(DRAWS)]


def test_of_many_training_images_some_are_measured(tmp_path: Path) -> None:
    run = prepared(dataset(tmp_path), tmp_path / "o")
    run.samples = [
        replace(sample, caption=f"zibu {number}") for number, sample in enumerate(run.samples)
    ]
    captions = [batch.captions for batch in evaluation_set(run, 3)]
    assert captions == [["zibu 0"], ["zibu 2"], ["zibu 5"]]


def test_sizes_and_processes_change_nothing(tmp_path: Path) -> None:
    """Images of two sizes do not share a batch, and what processes measure adds up."""
    file = dataset(tmp_path)
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text + text[text.index("[[datasets]]") :].replace("resolution = 64", "resolution = 48"),
        encoding="utf-8",
    )
    run = prepared(file, tmp_path / "o", TAUGHT)
    batches = evaluation_set(run)
    assert {tuple(batch.moments.shape[-2:]) for batch in batches} == {(16, 16), (12, 12)}
    alone = [evaluation_loss(run, [batch]) for batch in batches]
    assert evaluation_loss(run, batches) == pytest.approx(sum(alone) / len(alone), rel=1e-6)
    shares = []
    for rank in (0, 1):
        run.processes = Processes(rank, 2)
        shares.append(evaluation_set(run))
    assert [caption for batch in (*shares[0], *shares[1]) for caption in batch.captions] == [
        caption for batch in (*batches[::2], *batches[1::2]) for caption in batch.captions
    ]


def test_what_memory_does_not_take_together_is_measured_in_parts(tmp_path: Path) -> None:
    """The draws are the same, and so is the loss; what did not fit is not tried again."""
    run = prepared(dataset(tmp_path), tmp_path / "o", TAUGHT)
    batches, whole = evaluation_set(run), loss_of(run)
    tried: list[int] = []

    def see(_: object, given: Sequence[torch.Tensor]) -> None:
        tried.append(len(given[0]))
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with run.parts.denoiser.register_forward_pre_hook(see):
        assert evaluation_loss(run, batches) == pytest.approx(whole, rel=1e-6)
        assert tried == [8, 4, 2, 2, 2, 2]
        assert evaluation_loss(run, batches) == pytest.approx(whole, rel=1e-6)
    assert tried[6:] == [2, 2, 2, 2]
    assert run.parts.at_once == 2


def test_one_that_does_not_fit_alone_is_an_error(tmp_path: Path) -> None:
    run = prepared(dataset(tmp_path), tmp_path / "o", TAUGHT)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        run.parts.denoiser.register_forward_pre_hook(fail),
        pytest.raises(torch.OutOfMemoryError),
    ):
        loss_of(run)


def test_a_gpu_measures_as_many_together_as_a_step_takes() -> None:
    """SDXL at 1024: a step with checkpointing takes 0.75 GB, and a draw without gradient 0.2 GB."""
    model = ModelConfig(source="", family="sdxl", precision="bf16")
    assert evaluated_at_once(model, 1024**2, 1) == MOST_AT_ONCE
    assert 2 <= evaluated_at_once(replace(model, gradient_checkpointing=True), 1024**2, 1) <= 4
    assert evaluated_at_once(replace(model, gradient_checkpointing=True), 1024**2, 8) > 8
