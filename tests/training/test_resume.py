"""What a state can be gone on from when the run around it has changed, and what is told where it cannot."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from coinage.checks import make_plans
from coinage.cli.signals import stopping
from coinage.demo.run import MODEL
from coinage.errors import CoinageError, ConfigError, Problem, TrainingError
from coinage.runs.states import SUMMARY, TENSORS, digest_of, latest_state, read_summary
from coinage.training.observers import saver as saving
from coinage.training.observers.saver import outdated_epoch, outdated_step
from coinage.training.run import Run
from coinage.training.state import load_state
from tests.helpers import config_for, prepared, trained

LIMIT = 90.0  # seconds of the processor: a run that goes round without a step is ended
SAVED = "zibu-step00000006-state"


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """No run may go on for ever."""

    def ended(*_: object) -> None:
        raise TimeoutError("the run does not end")

    before = signal.signal(signal.SIGPROF, ended)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.fixture(scope="module")
def dataset(moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight updates an epoch: eight images, each used twice, in batches of two."""
    folder = shutil.copytree(moon_dataset.parent, tmp_path_factory.mktemp("eight") / "dataset")
    return rewritten(folder / "dataset.toml", repeats=2, batch=2)


def rewritten(file: Path, repeats: int, batch: int) -> Path:
    text = re.sub(r"num_repeats = \d+", f"num_repeats = {repeats}", file.read_text())
    text = re.sub(r"batch_size = \d+", f"batch_size = {batch}", text)
    file.write_text(re.sub(r'image_dir = ".*"', f'image_dir = "{file.parent / "images"}"', text))
    return file


@pytest.fixture(scope="module")
def out(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with its states."""
    folder = tmp_path_factory.mktemp("six")
    trained(
        dataset,
        folder,
        "--max_train_steps=6",
        "--save_state",
        "--save_every_n_steps=3",
        "--validation_split=0.2",
    )
    return folder


# An epoch that has become shorter


def without_images(folder: Path) -> Path:
    for path in sorted((folder / "images").iterdir())[:-4]:
        path.unlink()
    return rewritten(folder / "dataset.toml", repeats=2, batch=2)


CHANGES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "images deleted": (without_images, []),
    "larger batches": (lambda folder: rewritten(folder / "dataset.toml", repeats=2, batch=8), []),
    "fewer repeats": (lambda folder: rewritten(folder / "dataset.toml", repeats=1, batch=2), []),
    "accumulation": (
        lambda folder: rewritten(folder / "dataset.toml", repeats=2, batch=2),
        ["--gradient_accumulation_steps=4"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_the_next_epoch_where_its_place_is_gone(
    change: str, dataset: Path, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alter, flags = CHANGES[change]
    other = alter(shutil.copytree(dataset.parent, tmp_path / "dataset"))
    run, _ = trained(
        other,
        tmp_path / "out",
        *flags,
        f"--resume={out / SAVED}",
        "--max_train_steps=7",
        "--learning_rate=5e-2",
    )
    assert (run.step, run.progress.epoch, run.progress.done) == (7, 2, 1)
    assert "the state is of step 6 of epoch 1, and an epoch has" in caplog.text
    assert "the run goes on with epoch 2" in caplog.text


def test_more_processes_make_an_epoch_shorter_too(dataset: Path, tmp_path: Path) -> None:
    run = prepared(dataset, tmp_path)
    run.updates_per_epoch = 4
    for done, place in ((3, (1, 3)), (4, (1, 4)), (5, (2, 0)), (10**9, (2, 0))):
        run.restore(done, 1, done)
        assert (run.progress.epoch, run.progress.done) == place


def test_an_epoch_without_an_update_is_an_error(dataset: Path, tmp_path: Path) -> None:
    run = prepared(dataset, tmp_path)
    run.progress.done = run.updates_per_epoch
    with pytest.raises(TrainingError, match="epoch 1 has no steps left after the first 8"):
        next(run.step_inputs())
    run.samples, run.progress.done = (), 0
    with pytest.raises(TrainingError, match="epoch 1 has no step"):
        next(run.step_inputs())


# A state at the end of its run


@pytest.mark.parametrize(
    ("length", "flag"),
    [
        ("--max_train_steps=6", "--max_train_steps"),
        ("--max_train_steps=2", "--max_train_steps"),
        ("--max_train_epochs=0", None),
        ("--max_train_epochs=1", None),
    ],
)
def test_a_state_at_the_end_says_so(
    length: str, flag: str | None, dataset: Path, out: Path, tmp_path: Path
) -> None:
    if length.endswith("=0"):
        length, flag = "--max_train_epochs=1", "--max_train_epochs"
        dataset = rewritten(
            shutil.copytree(dataset.parent, tmp_path / "dataset") / "dataset.toml",
            repeats=1,
            batch=2,
        )
    warned = warnings_of(dataset, tmp_path, f"--resume={out / SAVED}", length)
    found = [
        problem
        for problem in warned
        if "nothing is left to learn: the state is of step 6" in problem.what
    ]
    assert [problem.hint for problem in found] == (
        [f"to go on, pass a larger {flag}"] if flag else []
    )


def warnings_of(dataset: Path, folder: Path, *more: str) -> tuple[Problem, ...]:
    return make_plans([config_for(dataset, folder, *more)])[0].warnings


# What `--resume` may name


def test_folders_and_files_that_mean_a_state_are_understood(
    dataset: Path, out: Path, tmp_path: Path
) -> None:
    last = out / "zibu-state"
    for given, meant in (
        (out, latest_state(out, "zibu")),
        (last, last),
        (last / SUMMARY, last),
        (last / TENSORS, last),
    ):
        config = config_for(dataset, tmp_path, f"--resume={given}", "--max_train_steps=9")
        assert make_plans([config])[0].state == meant


def test_what_means_no_state_is_told(dataset: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half-state").mkdir()
    for given, name, message, hint in (
        (
            out / "zibu.safetensors",
            "zibu",
            "this is a file, not a state's folder",
            "--weights FILE starts from an embedding",
        ),
        (tmp_path / "nothing", "zibu", "no such folder", "or latest"),
        (tmp_path / "empty", "zibu", "the folder holds no state", "ends in -state"),
        (tmp_path / "half-state", "zibu", "the state is incomplete", "--resume latest finds it"),
        (out, "other", "the folder holds no whole state of other", "zibu-state"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_plans(
                [config_for(dataset, tmp_path / "o", f"--resume={given}", f"--output_name={name}")]
            )[0]
        (problem,) = caught.value.problems
        assert message in problem.what
        assert hint in problem.hint


# Damaged and odd states


def with_fields(**changes: object) -> Callable[[dict[str, Any]], bytes]:
    return lambda fields: json.dumps(fields | changes).encode()


SUMMARIES: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "half a step": with_fields(step=6.5),
    "a truth for a step": with_fields(step=True, done=True),
    "less than no step": with_fields(step=-1),
    "more done than steps": with_fields(done=7),
    "far more done": with_fields(done=10**30),
    "no epoch": with_fields(epoch=0),
    "more epochs than steps": with_fields(epoch=7, done=0, step=5),
    "a huge epoch": with_fields(epoch=10**300),
    "a text": with_fields(epoch="1"),
    "no word": lambda fields: json.dumps(fields | {"fingerprint": {"seed": 0}}).encode(),
    "a field too many": with_fields(colour="red"),
    "a list": lambda _: b"[]",
    "deep": lambda _: b"[" * 100_000,
    "many digits": lambda _: b'{"step": ' + b"1" * 5000 + b"}",
    "large": lambda fields: json.dumps(fields).encode() + b" " * 2**21,
    "no text": lambda _: bytes(range(256)),
}


def test_a_broken_summary_is_told_before_the_model(
    dataset: Path, out: Path, tmp_path: Path
) -> None:
    state = shutil.copytree(out / SAVED, tmp_path / SAVED)
    fields = json.loads((state / SUMMARY).read_text())
    for name, broken in SUMMARIES.items():
        (state / SUMMARY).write_bytes(broken(fields))
        with pytest.raises(ConfigError, match="the state is incomplete"):
            make_plans(
                [config_for(dataset, tmp_path / "o", f"--resume={state}", "--max_train_steps=9")]
            )[0]
        assert latest_state(tmp_path, "zibu") is None, name
    (state / SUMMARY).write_text(json.dumps(fields))
    (state / TENSORS).unlink()
    os.mkfifo(state / TENSORS)
    assert read_summary(state) is None


def entry(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["optimizer"]["state"][0]
    return found


CONTENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "rows of another shape": lambda c: c.update(rows=[c["rows"][0][0]]),
    "rows that are not finite": lambda c: c["rows"][0].fill_(torch.nan),
    "rows of integers": lambda c: c.update(rows=[c["rows"][0].long()]),
    "too few rows": lambda c: c.update(rows=[]),
    "rows that are no tensors": lambda c: c.update(rows=[[1.0]]),
    "no optimizer": lambda c: c.pop("optimizer"),
    "texts for betas": lambda c: c["optimizer"]["param_groups"][0].update(betas=("a", "b")),
    "one beta": lambda c: c["optimizer"]["param_groups"][0].update(betas=(0.9,)),
    "a text for the rate": lambda c: c["optimizer"]["param_groups"][0].update(lr="fast"),
    "a moment of another shape": lambda c: entry(c).update(exp_avg=torch.zeros(1, 1)),
    "a moment that is not finite": lambda c: entry(c)["exp_avg_sq"].fill_(torch.nan),
    "a moment that is a text": lambda c: entry(c).update(exp_avg="x"),
    "no second moment": lambda c: entry(c).pop("exp_avg_sq"),
    "no groups": lambda c: c["optimizer"].update(param_groups=[]),
    "a schedule that is a list": lambda c: c.update(schedule=[]),
    "a schedule without its method": lambda c: c["schedule"].update(step=5),
    "a rate that is not a number": lambda c: c["schedule"].update(base_lrs=[float("nan")]),
    "texts in the scaler": lambda c: c.update(scaler={"scale": "x"}),
    "a measured text": lambda c: c["measured"].update({3: ("a",)}),
    "measured at a text": lambda c: c["measured"].update({"a": (0.1,)}),
    "measured as a list": lambda c: c.update(measured=[0.1]),
    "a best without rows": lambda c: c.update(best={"step": 1, "epoch": 1, "loss": 0.1}),
    "a best text": lambda c: c.update(
        best={"step": "x", "epoch": 1, "loss": 0.1, "rows": c["rows"]}
    ),
    "a best that is not finite": lambda c: c.update(
        best={"step": 1, "epoch": 1, "loss": float("nan"), "rows": c["rows"]}
    ),
    "starts that are numbers": lambda c: c.update(starts=[1, 2]),
    "no schedule": lambda c: c.update(schedule=None),
    "a schedule that is a text": lambda c: c.update(schedule="x"),
    "an optimizer that is a list": lambda c: c.update(optimizer=[1]),
    "another step": lambda c: c.update(place=(5, 1, 5)),
}


def changed(state: Path, content: object) -> Path:
    """Write a state's tensors anew, with the digest that fits."""
    torch.save(content, state / TENSORS)
    fields = json.loads((state / SUMMARY).read_text())
    (state / SUMMARY).write_text(
        json.dumps(fields | {"digest": digest_of((state / TENSORS).read_bytes())})
    )
    return state


def test_parts_that_a_run_cannot_use_are_told_before_its_first_step(
    dataset: Path, out: Path, tmp_path: Path
) -> None:
    run = prepared(dataset, tmp_path / "o")
    state = shutil.copytree(out / SAVED, tmp_path / SAVED)
    data = (state / TENSORS).read_bytes()
    for name, spoil in CONTENTS.items():
        (state / TENSORS).write_bytes(data)
        content = torch.load(state / TENSORS, weights_only=True)
        spoil(content)
        with pytest.raises(CoinageError, match="the state cannot be used: ") as caught:
            load_state(run, changed(state, content))
        assert run.step == 0, name
        (problem,) = caught.value.problems
        assert not re.search("object|indices|NoneType", problem.what), "in a user's words"
    with pytest.raises(CoinageError, match="its content is not a dictionary"):
        load_state(run, changed(state, [1, 2]))
    before = [row.detach().clone() for row in run.rows]
    assert all(torch.equal(row, start) for row, start in zip(before, run.start, strict=True)), (
        "nothing was taken of any"
    )
    (state / TENSORS).write_bytes(data)
    load_state(run, changed(state, torch.load(state / TENSORS, weights_only=True)))
    assert run.step == 6


# The files behind the names


def test_another_model_and_other_images_under_the_same_names_are_told(
    dataset: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(MODEL, tmp_path / "a" / "model")
    own = rewritten(
        shutil.copytree(dataset.parent, tmp_path / "dataset") / "dataset.toml", repeats=2, batch=2
    )
    source = f"--pretrained_model_name_or_path={model}"
    trained(own, tmp_path / "out", source, "--max_train_steps=1", "--save_state_on_train_end")
    given = ["--resume=latest", "--max_train_steps=1"]

    def told(*more: str) -> str:
        found = " ".join(
            problem.what for problem in warnings_of(own, tmp_path / "out", *more, *given)
        )
        return found.replace("nothing is left to learn", "").replace("max_train_steps", "")

    assert "as it would have" not in told(source)
    renamed = shutil.copytree(model, tmp_path / "b" / "renamed")
    assert "as it would have" not in told(f"--pretrained_model_name_or_path={renamed}"), (
        "the same files"
    )
    other = shutil.copytree(model, tmp_path / "b" / "model")
    weights = max((other / "unet").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[-10:] = b"0123456789"
    weights.write_bytes(data)
    assert "the model's weights are others, under the same name" in told(
        f"--pretrained_model_name_or_path={other}"
    )
    image = min((own.parent / "images").glob("*.png"))
    with Image.open(image) as picture:
        size = picture.size
    Image.new("RGB", size, "red").save(image)
    assert "images were replaced under their names" in told(source)
    assert "the dataset is another" not in told(source)
    state = tmp_path / "out" / "zibu-state"
    fields = json.loads((state / SUMMARY).read_text())
    for name in ("weights", "images", "norm_mode"):
        del fields["fingerprint"][name]
    (state / SUMMARY).write_text(json.dumps(fields))
    assert "as it would have" not in told(source), "of an earlier version"
    assert "norm_mode was 'none' and is 'clip'" in told(source, "--norm_mode=clip")


# What a kill leaves


def test_an_older_save_that_a_kill_left_is_forgotten(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (
        "--max_train_steps=4",
        "--save_every_n_steps=1",
        "--save_last_n_steps=1",
        "--save_state",
    )

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(saving, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(dataset, tmp_path, *given)
    assert (tmp_path / "zibu-step00000001.safetensors").is_file()
    half = [".zibu.safetensors.999999999.tmp", "zibu-step00000003-state/.state.pt.999999999.tmp"]
    others = [
        ".zibu2.safetensors.999999999.tmp",
        f".zibu.safetensors.{os.getppid()}.tmp",
        ".zibu-x.pt.999999999.tmp",
    ]
    for name in (*half, *others):
        (tmp_path / name).write_bytes(b"half")
    run, _ = trained(dataset, tmp_path, *given, "--resume=latest")
    assert run.step == 4
    names = {path.name for path in tmp_path.glob("zibu-step*")}
    stems = ("zibu-step00000003", "zibu-step00000004")
    assert names == {f"{stem}{end}" for stem in stems for end in (".safetensors", "-state")}
    assert sorted(path.name for path in tmp_path.rglob("*.tmp")) == sorted(others)


@pytest.mark.parametrize("keep", [-(10**9), -1, 0, 1, 7])
def test_a_save_is_never_forgotten_right_after_it_was_written(keep: int) -> None:
    for every in (1, 3, 10):
        for number in range(1, 60):
            assert (outdated_step(number, every, keep) or 0) < number
            assert (outdated_epoch(number, every, keep) or 0) < number


# Signals


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no hangup")
def test_a_terminal_that_is_closed_stops_a_run_as_other_signals_do(
    dataset: Path, tmp_path: Path
) -> None:
    run = prepared(dataset, tmp_path)
    before = signal.getsignal(signal.SIGHUP)
    with stopping([run]):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # a shell that ends sends one more
        assert run.progress.stop_signal == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no hangup")
def test_nohup_is_obeyed(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Run = prepared(dataset, tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping([run]):
            signal.raise_signal(signal.SIGHUP)
            assert run.progress.stop_signal == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    monkeypatch.setattr("coinage.cli.signals.SIGNAL_NAMES", ("SIGINT", "SIGNONE"))
    with stopping([run]):
        signal.raise_signal(signal.SIGINT)
    assert run.progress.stop_signal == signal.SIGINT
