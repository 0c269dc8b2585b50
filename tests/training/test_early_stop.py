"""A run that ends when its loss has settled, and the best word on the way."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import torch

from coinage.checks import make_plans
from coinage.cli.train import train_command
from coinage.embeddings.reading import read
from coinage.report.page import read_report
from coinage.training import convergence
from coinage.training.evaluation import DRAWS, Evaluator
from coinage.training.loop import train_together
from coinage.training.observers.saver import best_sentence, file_to_use
from coinage.training.results import Best
from coinage.training.rows import holding
from coinage.training.setup import prepare_all
from tests.helpers import TAUGHT, config_for, flags, prepared, rows_of, trained

EARLY = ("--early_stop", "--validate_every_n_steps=4", "--max_train_steps=200", "--cache_latents")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short window, so that the demo's word settles within a few steps."""
    monkeypatch.setattr(convergence, "RULE", replace(convergence.RULE, window=4))


@pytest.mark.usefixtures("soon")
def test_a_run_that_settles_ends_as_a_finished_one(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (TAUGHT, *EARLY, "--save_every_n_steps=8", "--save_state")
    assert train_command("sd", flags(moon_dataset, tmp_path / "a", *given)) == 0
    told = capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if "ended early, after step" in line]
    step = int(line.split("after step ")[1].split()[0])
    assert step < 200
    assert "(prompts encode exactly as in training)" in told
    best = re.search(
        r"^lowest loss at step (\d+) \(0\.\d{4}\), saved as zibu-best.safetensors: try this file first$",
        told,
        re.MULTILINE,
    )
    assert best
    assert 0 < int(best[1]) < step
    assert "AUTOMATIC1111: put it into embeddings/; write zibu-best\n" in told
    assert f'pipe.load_textual_inversion("{tmp_path / "a" / "zibu-best.safetensors"}"' in told
    assert "run     at most 200 steps, 10 epochs" in told
    assert read(tmp_path / "a" / "zibu.safetensors").step in (0, step)
    with safetensors.safe_open(tmp_path / "a" / "zibu-best.safetensors", framework="pt") as file:
        header = file.metadata()
    assert 0 < int(header["ti.step"]) <= step
    assert 0 < float(header["ti.evaluation_loss"]) < 0.025
    page = tmp_path / "a" / "zibu-report.html"
    record = read_report(page)
    assert "Best steps" in page.read_text(encoding="utf-8")
    assert record.standings[0].step == int(header["ti.step"])
    assert "zibu-best.safetensors" in record.standings[0].file
    assert {one.step: one.file for one in record.standings}[step].startswith("zibu.safetensors")
    assert record.ended_early
    assert record.file == str(tmp_path / "a" / "zibu-best.safetensors")

    run, again = trained(
        moon_dataset,
        tmp_path / "b",
        *given,
        f"--resume={tmp_path / 'a' / 'zibu-step00000008-state'}",
    )
    assert (run.step, run.results.best and run.results.best.step) == (step, int(header["ti.step"]))
    assert torch.equal(rows_of(again), rows_of(read(tmp_path / "a" / "zibu.safetensors")))
    best = [rows_of(read(tmp_path / name / "zibu-best.safetensors")) for name in "ab"]
    assert torch.equal(best[0], best[1])
    ended, _ = trained(
        moon_dataset, tmp_path / "c", *given, f"--resume={tmp_path / 'a' / 'zibu-state'}"
    )
    assert ended.step == step, "it is at its end already"


@pytest.mark.usefixtures("soon")
def test_a_word_may_end_while_another_goes_on(moon_dataset: Path, tmp_path: Path) -> None:
    first = config_for(moon_dataset, tmp_path, *EARLY, "--max_train_steps=60")
    second = replace(
        first,
        word=replace(first.word, token="wopo"),
        loop=replace(first.loop, early_stop=False, max_steps=56),
    )
    samples = make_plans([first])[0].samples
    others = [replace(sample, caption=sample.caption.replace("zibu", "wopo")) for sample in samples]
    runs = prepare_all([first, second], [samples, others], torch.device("cpu"), [None, None])
    train_together(runs, [[], []])
    assert runs[0].results.settled
    assert runs[0].results.settled.step == runs[0].step < runs[1].step == 56


def test_the_best_is_kept_without_stopping(moon_dataset: Path, tmp_path: Path) -> None:
    run, _ = trained(
        moon_dataset,
        tmp_path,
        "--keep_best",
        "--validate_every_n_steps=2",
        "--max_train_steps=5",
        "--learning_rate=0.5",
    )
    assert list(run.results.measurements) == [0, 2, 4, 5]
    assert run.results.best
    measurements = run.results.measurements
    assert run.results.best.step == min(measurements, key=lambda step: measurements[step].loss)
    assert torch.equal(rows_of(read(tmp_path / "zibu-best.safetensors")), run.results.best.rows[0])
    assert run.results.settled is None


@pytest.mark.parametrize(("more", "every"), [((), 20), (("--gradient_accumulation_steps=4",), 5)])
def test_measuring_takes_a_twentieth_of_the_passes(
    more: tuple[str, ...], every: int, moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, "--early_stop", *more)
    run.total_steps = 1000
    evaluator = Evaluator(run)
    due = []
    for run.progress.step in range(100):
        due += [run.step] if evaluator.due(run) else []
    assert due == list(range(0, 100, every))
    assert DRAWS / (2 * run.images_per_step * every) <= 0.05


def test_with_one_image_a_step_it_is_measured_often_enough_to_end_early(
    moon_dataset: Path, tmp_path: Path
) -> None:
    config = tmp_path / "one.toml"
    config.write_text(
        moon_dataset.read_text(encoding="utf-8").replace("batch_size = 4", "batch_size = 1"),
        encoding="utf-8",
    )
    run = prepared(config, tmp_path, "--early_stop")
    run.total_steps = 1000
    evaluator = Evaluator(run)
    due = []
    for run.progress.step in range(1, 121):
        due += [run.step] if evaluator.due(run) else []
    assert due == [40, 80, 120], "every 40 steps: a tenth of the passes"


@pytest.mark.usefixtures("soon")
def test_a_run_that_ends_early_shows_its_end_and_its_best(
    moon_dataset: Path, tmp_path: Path
) -> None:
    given = (
        TAUGHT,
        *EARLY,
        "--sample_every_n_steps=100",
        "--sample_at_first",
        f"--sample_prompts={tmp_path / 'prompts.txt'}",
    )
    (tmp_path / "prompts.txt").write_text("zibu --w 64 --h 64 --s 2 --d 1\n")
    run, word = trained(moon_dataset, tmp_path, *given)
    assert run.results.best
    assert 0 < run.results.best.step < run.step < 100
    steps = {path.name.split("_")[1] for path in (tmp_path / "sample").glob("*.png")}
    assert steps == {"e000000", f"{run.step:06d}", f"{run.results.best.step:06d}-best"}
    record = read_report(tmp_path / "zibu-report.html")
    assert [shot.step for shot in record.shots] == [0, run.results.best.step, run.step]
    assert len({shot.pictures[0] for shot in record.shots}) == 3
    assert torch.equal(rows_of(word), rows_of(read(tmp_path / "zibu.safetensors"))), (
        "which was saved before they were drawn"
    )


def test_rows_that_are_put_in_for_a_preview_come_back_to_the_bit() -> None:
    rows, best = (
        [torch.nn.Parameter(torch.tensor([[0.1, -0.0, 1e-45]]))],
        [torch.tensor([[3.0, 4.0, 5.0]])],
    )
    before = rows[0].detach().view(torch.int32).clone()
    with holding(rows, best):
        assert torch.equal(rows[0], best[0])
    assert torch.equal(rows[0].detach().view(torch.int32), before)


BEST = Best(step=680, epoch=1, loss=0.16304, rows=())


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (
            960,
            "lowest loss at step 680 (0.1630), saved as zibu-best.safetensors: try this file first",
        ),
        (680, "lowest loss at the last step, 680 (0.1630): use zibu.safetensors"),
    ],
)
def test_the_closing_line_says_which_file_to_use(
    last: int, told: str, moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, "--keep_best")
    run.results.best, run.progress.step = BEST, last
    (tmp_path / "zibu-best.safetensors").touch()
    assert best_sentence(BEST, last, file_to_use(run).name) == told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), ["3 steps", "1 embedding in"]),
        (("--early_stop",), ["at most 3 steps", "2 embeddings in"]),
        (("--keep_best",), [" 3 steps", "2 embeddings in"]),
        (
            ("--early_stop", "--save_every_n_steps=1"),
            ["at most 3 steps", "at most 5 embeddings in"],
        ),
    ],
)
def test_a_plan_counts_what_may_be_written(
    more: tuple[str, ...],
    told: list[str],
    moon_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_command("sd", flags(moon_dataset, tmp_path, "--dry_run", *more)) == 0
    text = capsys.readouterr().err
    assert [one for one in told if one not in text] == []
    assert ("at most" in text) == ("--early_stop" in more)
