"""A run that ends when its loss has settled, and the best word on the way."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import torch

from coinage.cli.kohya import train_command
from coinage.embeddings.reading import read
from coinage.preflight import check
from coinage.report.page import read as report
from coinage.training import convergence
from coinage.training.evaluation import DRAWS, Evaluator
from coinage.training.loop import train_together
from coinage.training.observers import Observer
from coinage.training.setup import prepare_all
from tests.helpers import config_for, flags, prepared, rows_of, trained

EARLY = ("--early_stop", "--validate_every_n_steps=4", "--max_train_steps=200", "--cache_latents")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short window, so that the demo's word settles within a few steps."""
    monkeypatch.setattr(convergence, "WINDOW", 4)


@pytest.mark.usefixtures("soon")
def test_a_run_that_settles_ends_as_a_finished_one(moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (*EARLY, "--save_every_n_steps=8", "--save_state")
    assert train_command("sd", flags(moon_dataset, tmp_path / "a", *given)) == 0
    told = capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if "ended early, after step" in line]
    step = int(line.split("after step ")[1].split()[0])
    assert step < 200
    assert "checked: the same conditioning" in told
    assert "is best: its loss on training images is the lowest" in told
    assert read(tmp_path / "a" / "zibu.safetensors").step in (0, step)
    with safetensors.safe_open(tmp_path / "a" / "zibu-best.safetensors", framework="pt") as file:
        header = file.metadata()
    assert 0 < int(header["ti.step"]) <= step
    assert 0 < float(header["ti.evaluation_loss"]) < 0.025
    page = tmp_path / "a" / "zibu-report.html"
    record = report(page)
    assert "Best steps" in page.read_text(encoding="utf-8")
    assert record.standings[0].step == int(header["ti.step"])
    assert "zibu-best.safetensors" in record.standings[0].file
    assert {one.step: one.file for one in record.standings}[step].startswith("zibu.safetensors")
    assert record.ended_early

    run, again = trained(moon_dataset, tmp_path / "b", *given, f"--resume={tmp_path / 'a' / 'zibu-step00000008-state'}")
    assert (run.step, run.best and run.best.step) == (step, int(header["ti.step"]))
    assert torch.equal(rows_of(again), rows_of(read(tmp_path / "a" / "zibu.safetensors")))
    best = [rows_of(read(tmp_path / name / "zibu-best.safetensors")) for name in "ab"]
    assert torch.equal(best[0], best[1])
    ended, _ = trained(moon_dataset, tmp_path / "c", *given, f"--resume={tmp_path / 'a' / 'zibu-state'}")
    assert ended.step == step, "it is at its end already"


@pytest.mark.usefixtures("soon")
def test_a_word_may_end_while_another_goes_on(moon_dataset: Path, tmp_path: Path) -> None:
    first = config_for(moon_dataset, tmp_path, *EARLY, "--max_train_steps=60")
    second = replace(first, word=replace(first.word, token="wopo"), loop=replace(first.loop, early_stop=False, max_steps=56))
    samples = check(first).samples
    others = [replace(sample, caption=sample.caption.replace("zibu", "wopo")) for sample in samples]
    runs = prepare_all([first, second], [samples, others], torch.device("cpu"), [None, None])
    train_together(runs, [Observer(), Observer()])
    assert runs[0].settled
    assert runs[0].settled.step == runs[0].step < runs[1].step == 56


def test_the_best_is_kept_without_stopping(moon_dataset: Path, tmp_path: Path) -> None:
    run, _ = trained(moon_dataset, tmp_path, "--keep_best", "--validate_every_n_steps=2", "--max_train_steps=5", "--learning_rate=0.5")
    assert list(run.measured) == [0, 2, 4, 5]
    assert run.best
    assert run.best.step == min(run.measured, key=lambda step: run.measured[step].loss)
    assert torch.equal(rows_of(read(tmp_path / "zibu-best.safetensors")), run.best.rows[0])
    assert run.settled is None


@pytest.mark.parametrize(("more", "every"), [((), 20), (("--gradient_accumulation_steps=4",), 5)])
def test_measuring_takes_a_twentieth_of_the_passes(more: tuple[str, ...], every: int, moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path, "--early_stop", *more)
    run.total_steps = 1000
    evaluator = Evaluator(run)
    due = []
    for run.step in range(100):
        due += [run.step] if evaluator.due(run) else []
    assert due == list(range(0, 100, every))
    assert DRAWS / (2 * run.images_per_step * every) <= 0.05


def test_with_one_image_a_step_it_is_measured_often_enough_to_end_early(moon_dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "one.toml"
    config.write_text(moon_dataset.read_text(encoding="utf-8").replace("batch_size = 4", "batch_size = 1"), encoding="utf-8")
    run = prepared(config, tmp_path, "--early_stop")
    run.total_steps = 1000
    evaluator = Evaluator(run)
    due = []
    for run.step in range(1, 121):
        due += [run.step] if evaluator.due(run) else []
    assert due == [40, 80, 120], "every 40 steps: a tenth of the passes"
