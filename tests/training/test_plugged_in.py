"""A user's own loss and optimizer in place of the configured ones."""

from pathlib import Path

import pytest
import torch

from coinage.checks import make_plans
from coinage.errors import CoinageError, TrainingError
from coinage.optim.factory import OptimizerFactory
from coinage.training.gradients import accumulate
from coinage.training.loop import train
from coinage.training.losses import Loss, LossInputs
from coinage.training.metadata import describe
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.training.setup import prepare, prepare_all
from coinage.training.state import load_state, save_state
from tests.helpers import config_for, rows_of


def squared_error(inputs: LossInputs) -> torch.Tensor:
    return (inputs.prediction.float() - inputs.target).square().mean(dim=(1, 2, 3))


def absolute_error(inputs: LossInputs) -> torch.Tensor:
    return (inputs.prediction.float() - inputs.target).abs().mean(dim=(1, 2, 3))


def adamw(rows: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(rows, lr=5e-3)


def adagrad(rows: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(rows, lr=1e-2)


def run_with(
    dataset: Path,
    out: Path,
    *more: str,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
) -> Run:
    config = config_for(dataset, out, *more)
    samples = make_plans([config])[0].samples
    return prepare(config, samples, torch.device("cpu"), loss=loss, optimizer=optimizer)


def test_the_built_in_ones_can_be_written_anew(moon_dataset: Path, tmp_path: Path) -> None:
    plain = train(run_with(moon_dataset, tmp_path, "--lr_scheduler=cosine"), [])
    own = run_with(
        moon_dataset, tmp_path, "--lr_scheduler=cosine", loss=squared_error, optimizer=adamw
    )
    assert torch.equal(rows_of(train(own, [])), rows_of(plain))


def test_a_loss_of_ones_own_is_what_is_learned_from(moon_dataset: Path, tmp_path: Path) -> None:
    l1 = train(run_with(moon_dataset, tmp_path, "--loss_type=l1"), [])
    own = train(run_with(moon_dataset, tmp_path, loss=absolute_error), [])
    assert torch.equal(rows_of(own), rows_of(l1))
    assert not torch.equal(rows_of(own), rows_of(train(run_with(moon_dataset, tmp_path), [])))


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda inputs: squared_error(inputs).mean(), r"returned a tensor of shape \[\]"),
        (lambda _: 1.0, "returned float, not a tensor"),
    ],
)
def test_a_loss_that_returns_something_else_is_named(
    loss: Loss, told: str, moon_dataset: Path, tmp_path: Path
) -> None:
    run = run_with(moon_dataset, tmp_path, loss=loss)
    with pytest.raises(TrainingError, match=told) as caught:
        train(run, [])
    assert "one loss per sample, shape [4]" in caught.value.problems[0].hint


def test_an_optimizer_of_ones_own_follows_the_schedule_and_is_named(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = run_with(moon_dataset, tmp_path, "--lr_scheduler=linear", optimizer=adagrad)
    rates: list[float] = []

    class Rates(Observer):
        def stepped(self, run: Run) -> None:
            rates.append(run.last.rate)

    train(run, [Rates()])
    assert rates == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    header = describe(run, "zibu")
    assert header["ti.optimizer"] == "torch.optim.adagrad.Adagrad"
    assert header["ti.learning_rate"] == "0.01"


def test_a_state_goes_on_with_both_and_not_with_another_optimizer(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run_with(moon_dataset, tmp_path, loss=absolute_error, optimizer=adagrad)
    state = tmp_path / "zibu-state"

    class SavesAtOne(Observer):
        def stepped(self, run: Run) -> None:
            if run.step == 1:
                save_state(run, state)

    word = train(whole, [SavesAtOne()])
    again = run_with(moon_dataset, tmp_path, loss=absolute_error, optimizer=adagrad)
    load_state(again, state)
    assert again.step == 1
    assert torch.equal(rows_of(train(again, [])), rows_of(word))
    with pytest.raises(
        CoinageError, match=r"optimizer torch\.optim\.adagrad\.Adagrad, and this run uses AdamW"
    ):
        load_state(run_with(moon_dataset, tmp_path, loss=absolute_error), state)
    assert "the loss was" not in caplog.text
    load_state(run_with(moon_dataset, tmp_path, optimizer=adagrad), state)
    assert "absolute_error and is now the configured one" in caplog.text


def test_words_are_put_together_only_where_they_have_the_same_loss(
    moon_dataset: Path, tmp_path: Path
) -> None:
    """Each call of a loss gets the samples of a whole batch."""
    sizes: list[int] = []

    def counting(inputs: LossInputs) -> torch.Tensor:
        sizes.append(len(inputs.times))
        return squared_error(inputs)

    config = config_for(moon_dataset, tmp_path)
    samples = make_plans([config])[0].samples
    configs = [config, config_for(moon_dataset, tmp_path, "--token_string=wopo")]
    runs = prepare_all(
        configs, [samples, samples], torch.device("cpu"), [None, None], loss=counting
    )
    inputs = [next(run.step_inputs()) for run in runs]
    accumulate(runs, inputs)
    assert sizes == [8]
    sizes.clear()
    runs[1].loss = squared_error
    for step_input in inputs:
        for batch in step_input.batches:
            batch.rewind()
    accumulate(runs, inputs)
    assert sizes == [4]
