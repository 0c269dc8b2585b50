"""A run that was stopped or killed goes on to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.errors import CoinageError, ConfigError
from coinage.runs.states import SUMMARY, TENSORS, latest_state, read_summary
from coinage.settings.discover import complete
from coinage.system.files import write_bytes
from coinage.training import loop
from coinage.training.observers.saver import outdated_epoch, outdated_step
from coinage.training.run import Run
from coinage.training.state import save_state
from tests.cli.test_bad_input import ROOT
from tests.helpers import HANGS, config_for, flags, rows_of, trained

STEPS = (
    "--max_train_steps=10",
    "--lr_scheduler=cosine",
    "--lr_warmup_steps=2",
    "--train_batch_size=2",
)
SAVING = (*STEPS, "--save_state", "--save_every_n_steps=1")


def journal(out: Path) -> list[str]:
    return (out / "zibu-log.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "optimizer",
    [
        "AdamW",
        pytest.param("Prodigy", marks=pytest.mark.slow),
        pytest.param("AdamWScheduleFree", marks=pytest.mark.slow),
        pytest.param("AdaFactor", marks=pytest.mark.slow),
        pytest.param("DAdaptAdam", marks=pytest.mark.slow),
        pytest.param("Lion", marks=pytest.mark.slow),
        "pytorch_optimizer.CAME",
    ],
)
def test_a_resumed_run_is_the_same_to_the_bit(
    optimizer: str, moon_dataset: Path, tmp_path: Path
) -> None:
    schedule = (
        ("--lr_scheduler=constant", "--lr_warmup_steps=0") if optimizer == "AdaFactor" else ()
    )
    given = (*SAVING, f"--optimizer_type={optimizer}", *schedule)
    _, whole = trained(moon_dataset, tmp_path / "a", *given)
    for step in (3, 8):
        state = tmp_path / "a" / f"zibu-step{step:08d}-state"
        run, again = trained(moon_dataset, tmp_path / f"from{step}", *given, f"--resume={state}")
        assert run.step == 10
        assert torch.equal(rows_of(whole), rows_of(again))
        assert journal(tmp_path / f"from{step}") == journal(tmp_path / "a")[step:]


def test_an_epochs_state_goes_on_with_the_next_epoch(moon_dataset: Path, tmp_path: Path) -> None:
    short = tmp_path / "dataset.toml"  # two steps an epoch
    short.write_text(moon_dataset.read_text().replace("num_repeats = 10", "num_repeats = 2"))
    given = (
        "--max_train_epochs=4",
        "--train_batch_size=3",
        "--gradient_accumulation_steps=2",
        "--save_every_n_epochs=1",
        "--save_state",
    )
    run, whole = trained(short, tmp_path / "a", *given)
    assert run.total_steps == 8
    states = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir())
    assert states == ["zibu-000001-state", "zibu-000002-state", "zibu-000003-state", "zibu-state"]
    summary = read_summary(tmp_path / "a" / "zibu-000002-state")
    assert summary
    assert (summary.step, summary.epoch, summary.done) == (run.total_steps // 2, 3, 0)
    _, again = trained(
        short, tmp_path / "b", *given, f"--resume={tmp_path / 'a' / 'zibu-000002-state'}"
    )
    assert torch.equal(rows_of(whole), rows_of(again))
    assert sorted(path.name for path in (tmp_path / "b").glob("*.safetensors")) == [
        "zibu-000003.safetensors",
        "zibu.safetensors",
    ]
    size = sum(file.stat().st_size for file in (tmp_path / "a" / "zibu-state").iterdir())
    assert size < 300_000


def test_held_out_losses_are_not_measured_again(tmp_path: Path, moon_dataset: Path) -> None:
    given = (*SAVING, "--validation_split=0.2", "--validate_every_n_steps=2")
    run, _ = trained(moon_dataset, tmp_path / "a", *given)
    again, _ = trained(
        moon_dataset,
        tmp_path / "b",
        *given,
        f"--resume={tmp_path / 'a' / 'zibu-step00000004-state'}",
    )
    assert again.results.measurements == run.results.measurements
    assert list(run.results.measurements) == [0, 2, 4, 6, 8, 10]


def test_a_stop_saves_everything_and_the_same_command_goes_on(
    moon_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    _, whole = trained(moon_dataset, tmp_path / "a", *STEPS)

    real = loop.update

    def update(run: Run) -> None:
        real(run)
        run.progress.stop_signal = signal.SIGINT if run.step == 3 else 0

    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", update)
        run, _ = trained(moon_dataset, tmp_path / "b", *STEPS)
    assert run.step == 4
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == [
        "zibu-log.jsonl",
        "zibu-report.html",
        "zibu-step00000004-state",
        "zibu-step00000004.safetensors",
    ]
    assert f"--resume {tmp_path / 'b' / 'zibu-step00000004-state'}" in caplog.text
    _, again = trained(moon_dataset, tmp_path / "b", *STEPS, "--resume=latest")
    assert torch.equal(rows_of(whole), rows_of(again))
    assert journal(tmp_path / "b") == journal(tmp_path / "a")


def test_a_run_that_ends_right_after_its_state_has_its_log(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (*STEPS, "--save_every_n_steps=2", "--save_state")
    trained(moon_dataset, tmp_path / "a", *given)

    def killed(*arguments: Any, **more: Any) -> None:
        save_state(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("coinage.training.observers.saver.save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(moon_dataset, tmp_path / "b", *given)
    trained(moon_dataset, tmp_path / "b", *given, "--resume=latest")
    assert journal(tmp_path / "b") == journal(tmp_path / "a")


def command(dataset: Path, out: Path, *more: str) -> list[str]:
    words = flags(
        dataset,
        out,
        "--max_train_steps=60",
        "--save_every_n_steps=7",
        "--save_state",
        "--cache_latents",
        *more,
    )
    return [sys.executable, str(ROOT / "train_textual_inversion.py"), *words]


def steps_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGTERM, signal.SIGHUP)
        ),
    ],
)
def test_signals_stop_a_command(number: signal.Signals, moon_dataset: Path, tmp_path: Path) -> None:
    # Tests that are started by nohup would hand on that it is ignored
    before = signal.signal(number, signal.SIG_DFL)
    process = subprocess.Popen(
        command(moon_dataset, tmp_path, "--max_train_steps=100000"),
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(number, before)
    deadline = time.monotonic() + HANGS
    while steps_in(tmp_path / "zibu-log.jsonl") < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    error = process.communicate(timeout=HANGS)[1]
    assert process.returncode == 128 + number, error
    assert "nothing is lost" in error
    assert "Traceback" not in error
    state = latest_state(tmp_path, "zibu")
    assert state
    assert str(state) in error
    assert steps_in(tmp_path / "zibu-log.jsonl") == read_summary(state).step  # type: ignore[union-attr]


@pytest.mark.slow
def test_killed_anywhere_and_resumed(moon_dataset: Path, tmp_path: Path) -> None:
    """A run of 60 steps, killed at 30 random moments in all, ends as the one that was never killed."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": "0"}
    subprocess.run(
        command(moon_dataset, tmp_path / "whole"), check=True, capture_output=True, env=environment
    )
    rng, kills, run = random.Random(0), 0, 0  # noqa: S311 - a test
    while kills < 30:
        run += 1
        out = tmp_path / f"run{run}"
        for _ in range(200):
            process = subprocess.Popen(
                command(moon_dataset, out, "--resume=latest"),
                stderr=subprocess.PIPE,
                env=environment,
            )
            done = steps_in(out / "zibu-log.jsonl")
            goal, deadline = min(done + rng.randrange(2, 25), 60), time.monotonic() + HANGS
            while (
                process.poll() is None
                and steps_in(out / "zibu-log.jsonl") < goal
                and time.monotonic() < deadline
            ):
                time.sleep(rng.random() * 0.01)
            if process.poll() is None and kills < 30 and goal < 60:
                process.kill()
                kills += 1
                process.communicate()
                continue
            error = process.communicate()[1]
            assert process.returncode == 0, error
            break
        for name in ("zibu.safetensors", "zibu-log.jsonl", "zibu-step00000056.safetensors"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_drawn_seed_is_that_of_the_state(moon_dataset: Path, tmp_path: Path) -> None:
    words = [
        word
        for word in flags(moon_dataset, tmp_path, "--save_state_on_train_end")
        if not word.startswith("--seed")
    ]
    first = complete(parse("sd", words, "test"))[0]
    trained(moon_dataset, tmp_path, config=first)
    again = complete(parse("sd", [*words, "--resume=latest"], "test"))[0]
    assert again.loop.seed == first.loop.seed
    assert complete(parse("sd", words, "test"))[0].loop.seed != first.loop.seed
    shared = first.loop.seed + 1  # what several processes draw together
    for more, seed in (
        ([], shared),
        (["--resume=latest"], first.loop.seed),
        (["--seed=3"], 3),
        (["--seed=-1"], shared),
    ):
        assert complete(parse("sd", [*words, *more], "test"), shared)[0].loop.seed == seed


# What cannot be gone on from


def state_of(moon_dataset: Path, out: Path) -> Path:
    trained(moon_dataset, out, "--save_state_on_train_end", "--max_train_steps=2")
    return out / "zibu-state"


def test_what_differs_is_told_field_by_field(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(moon_dataset, tmp_path)
    with pytest.raises(ConfigError) as caught:
        make_plans(
            [
                config_for(
                    moon_dataset,
                    tmp_path,
                    f"--resume={state}",
                    "--num_vectors_per_token=2",
                    "--optimizer_type=Lion",
                )
            ]
        )[0]
    for part in ("vectors was 1 and is 2", "optimizer was 'AdamW' and is 'Lion'"):
        assert part in str(caught.value)
    checked = make_plans(
        [
            config_for(
                moon_dataset,
                tmp_path,
                f"--resume={state}",
                "--seed=5",
                "--max_train_steps=9",
                "--flip_aug",
            )
        ]
    )[0]
    told = " ".join(problem.what for problem in checked.warnings)
    assert "seed was 0 and is 5" in told
    assert "max_train_steps was 2 and is 9" in told
    assert "the dataset is another" in told
    assert "learning_rate" not in told
    run, _ = trained(moon_dataset, tmp_path, f"--resume={state}", "--max_train_steps=9")
    assert run.step == 9
    assert not caplog.text.count("Traceback")


def test_states_that_are_not_whole(moon_dataset: Path, tmp_path: Path) -> None:
    state = state_of(moon_dataset, tmp_path)
    data = (state / TENSORS).read_bytes()
    summary = (state / SUMMARY).read_bytes()
    fields = json.loads(summary)
    odd = [
        (SUMMARY, json.dumps(fields | change).encode())
        for change in ({"step": "x"}, {"fingerprint": 3}, {"fingerprint": {}})
    ]
    for name, content in (
        (TENSORS, data[:-1]),
        (SUMMARY, b"{"),
        (SUMMARY, b'{"step": 1}'),
        (SUMMARY, b""),
        *odd,
    ):
        (state / TENSORS).write_bytes(data)
        (state / SUMMARY).write_bytes(summary)
        (state / name).write_bytes(content)
        with pytest.raises(ConfigError, match="the state is incomplete"):
            make_plans([config_for(moon_dataset, tmp_path, f"--resume={state}")])[0]
        assert latest_state(tmp_path, "zibu") is None
    note = check_notes(moon_dataset, tmp_path, "--resume=latest")
    assert "no state in" in note


def check_notes(moon_dataset: Path, out: Path, *more: str) -> str:
    (plan,) = make_plans([config_for(moon_dataset, out, *more)])
    return " ".join(plan.notes)


def test_other_folders_are_refused(moon_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resume: no such folder"):
        make_plans([config_for(moon_dataset, tmp_path / "o", f"--resume={tmp_path / 'none'}")])[0]
    theirs = tmp_path / "theirs-state"
    theirs.mkdir()
    (theirs / "optimizer.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match="a state of another trainer") as caught:
        make_plans([config_for(moon_dataset, tmp_path / "o", f"--resume={theirs}")])[0]
    assert "--weights FILE" in str(caught.value)


def test_a_hostile_state_runs_nothing(moon_dataset: Path, tmp_path: Path) -> None:
    import pickle

    from coinage.runs.states import digest_of

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "hostile",)

    state = state_of(moon_dataset, tmp_path)
    data = pickle.dumps(Hostile())
    write_bytes(state / TENSORS, data)
    summary = json.loads((state / SUMMARY).read_text())
    write_bytes(state / SUMMARY, json.dumps(summary | {"digest": digest_of(data)}).encode())
    with pytest.raises(CoinageError, match="the state cannot be used"):
        trained(moon_dataset, tmp_path, f"--resume={state}", "--max_train_steps=5")
    assert not (tmp_path / "hostile").exists()


def test_a_state_that_could_not_be_read_again_is_told_at_once(
    moon_dataset: Path, tmp_path: Path
) -> None:
    def odd(run: Run) -> None:
        run.optimizer.param_groups[0]["colour"] = Path("red")

    with pytest.raises(CoinageError, match="the state of AdamW cannot be saved"):
        trained(moon_dataset, tmp_path, "--save_state_on_train_end", change=odd)
    assert (tmp_path / "zibu.safetensors").is_file()
    assert not (tmp_path / "zibu-state").exists()


# Which saves stay


def test_retention_as_the_reference() -> None:
    assert [outdated_epoch(epoch, 1, 2) for epoch in (1, 2, 3, 4)] == [None, None, 1, 2]
    assert [outdated_step(step, 10, 30) for step in (30, 40, 50, 60)] == [None, None, 10, 20]
    assert [outdated_step(step, 500, 1000) for step in (1500, 2000, 2500)] == [None, 500, 1000]
    assert [outdated_step(step, 500, 2) for step in (500, 1000, 1500)] == [None, 500, 1000]


def test_older_saves_are_forgotten(moon_dataset: Path, tmp_path: Path) -> None:
    given = (
        "--max_train_steps=8",
        "--save_every_n_steps=2",
        "--save_last_n_steps=2",
        "--save_state",
        "--save_last_n_steps_state=4",
    )
    trained(moon_dataset, tmp_path / "a", *given)
    files, states = (
        {p.name for p in (tmp_path / "a").iterdir() if p.is_dir() is folder}
        for folder in (False, True)
    )
    assert files == {
        "zibu-step00000006.safetensors",
        "zibu-step00000008.safetensors",
        "zibu.safetensors",
        "zibu-log.jsonl",
        "zibu-report.html",
    }
    assert states == {
        "zibu-step00000004-state",
        "zibu-step00000006-state",
        "zibu-step00000008-state",
        "zibu-state",
    }
    short = tmp_path / "short.toml"
    short.write_text(moon_dataset.read_text().replace("num_repeats = 10", "num_repeats = 1"))
    trained(
        short,
        tmp_path / "b",
        "--max_train_epochs=5",
        "--save_every_n_epochs=1",
        "--save_last_n_epochs=2",
        "--train_batch_size=4",
    )
    names = sorted(p.name for p in (tmp_path / "b").glob("*.safetensors"))
    assert names == ["zibu-000003.safetensors", "zibu-000004.safetensors", "zibu.safetensors"]


def test_a_save_on_the_way_that_fails_is_told_and_the_last_one_stops(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "zibu-step00000002.safetensors").mkdir(parents=True)  # where a file should go
    run, _ = trained(moon_dataset, tmp_path, "--save_every_n_steps=2")
    assert run.step == 3
    assert caplog.text.count("cannot write the file") == 1
    assert "the run continues" in caplog.text
    (tmp_path / "zibu.safetensors").unlink()
    (tmp_path / "zibu.safetensors").mkdir()
    with pytest.raises(CoinageError, match="cannot write the file"):
        trained(moon_dataset, tmp_path)


@pytest.mark.slow
def test_a_terminal_that_is_gone_costs_nothing(moon_dataset: Path, tmp_path: Path) -> None:
    """Its process gets a hangup, and from then on nothing can be written to it."""
    import pty

    ours, theirs = pty.openpty()
    words = command(moon_dataset, tmp_path, "--max_train_steps=100000")
    child = (
        "import fcntl, os, sys, termios; "
        "fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    start = [sys.executable, "-c", child, *words]
    process = subprocess.Popen(
        start, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    deadline = time.monotonic() + HANGS
    while steps_in(tmp_path / "zibu-log.jsonl") < 3 and time.monotonic() < deadline:
        os.set_blocking(ours, False)
        try:
            os.read(ours, 65536)
        except BlockingIOError:
            time.sleep(0.02)
    os.close(ours)
    assert process.wait(timeout=HANGS) == 128 + signal.SIGHUP
    state = latest_state(tmp_path, "zibu")
    assert state
    assert steps_in(tmp_path / "zibu-log.jsonl") == read_summary(state).step  # type: ignore[union-attr]
