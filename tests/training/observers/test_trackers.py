"""Trackers: what reaches TensorBoard and W&B (kept offline), and what never does."""

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from coinage.cli.parse import parse
from coinage.config import LogConfig
from coinage.errors import CoinageError, ConfigError
from coinage.optim.row_lengths import movement
from coinage.settings.discover import complete
from coinage.training.observers.base import Picture
from coinage.training.observers.trackers import Tracker, WandB, open_writers
from coinage.training.results import Measurement
from coinage.training.run import Run
from tests.helpers import flags, trained

KEY = "k" * 40


def wandb_records(folder: Path) -> list[Record]:
    """What a W&B run in this folder holds, once its own process has written the end."""
    (path,) = folder.rglob("*.wandb")
    deadline = time.monotonic() + 300
    while True:
        records = [Record.FromString(data) for data in chunks(path.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        assert time.monotonic() < deadline, "W&B never wrote the end of the run"
        time.sleep(0.05)


def chunks(data: bytes) -> Iterator[bytes]:
    """The whole records of a log in LevelDB's format, in blocks of 32 kB, after W&B's 7 bytes."""
    record, at = b"", 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its end
            yield record
            record = b""


def wandb_points(folder: Path, key: str) -> list[Any]:
    points = []
    for record in wandb_records(folder):
        items: dict[str, Any] = {}
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            items[name] = {**items.get(name, {}), inner[0]: value} if inner else value
        if key in items:
            points.append((items["_step"], items[key]))
    return points


def text_in(folder: Path) -> str:
    return "".join(
        path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()
    )


def prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text(
        "a red zibu --d 1 --s 1 --w 64 --h 64\na zibu --d 2 --s 1 --w 64 --h 64\n", encoding="utf-8"
    )
    return path


def test_both_trackers_get_one_point_per_update_and_the_pictures(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    more = [
        "--gradient_accumulation_steps=2",
        "--sample_every_n_steps=2",
        f"--sample_prompts={prompts(tmp_path)}",
        "--sample_at_first",
    ]
    more += [
        "--log_with=all",
        f"--logging_dir={tmp_path / 'logs'}",
        "--log_prefix=x-",
        "--wandb_run_name=one",
        "--log_tracker_name=two",
    ]
    run, _ = trained(
        moon_dataset, tmp_path / "out", *more, "--log_config", f"--wandb_api_key={KEY}"
    )
    (folder,) = (tmp_path / "logs").glob("x-*")
    events = EventAccumulator(str(folder / "two"), size_guidance={"images": 0}).Reload()
    steps = [1, 2, 3]
    for key in ("loss", "lr", "epoch", "grad_norm", "row_norm/emb_params", "movement/emb_params"):
        assert [e.step for e in events.Scalars(key)] == steps
        assert dict(wandb_points(folder, key)) == pytest.approx(
            {e.step: e.value for e in events.Scalars(key)}, rel=1e-5
        )
    moved = [e.value for e in events.Scalars("movement/emb_params")]
    assert 0 < moved[0] < moved[-1]
    assert moved[-1] == pytest.approx(movement(run.parts.rows(), run.start)[1][0], rel=1e-5)
    assert [(e.step, e.width, e.height) for e in events.Images("sample_1")] == [
        (0, 64, 64),
        (2, 64, 64),
        (3, 64, 64),
    ]
    shown = wandb_points(folder, "sample_0")
    assert [(step, image["caption"], image["width"]) for step, image in shown] == [
        (step, "a red zibu", 64) for step in (0, 2, 3)
    ]
    names = {
        (record.run.project, record.run.display_name)
        for record in wandb_records(folder)
        if record.run.project
    }
    assert names == {("two", "one")}


def test_trackers_are_told_the_settings_without_keys_folders_and_command_line(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(
        "sys.argv", ["train", "--wandb_api_key", KEY, "--output_dir", "/home/someone/secret"]
    )
    more = [
        "--log_with=all",
        f"--logging_dir={tmp_path / 'logs'}",
        f"--wandb_api_key={KEY}",
        "--huggingface_token=hf_secret",
        "--log_config",
    ]
    trained(
        moon_dataset,
        tmp_path / "out",
        *more,
        "--save_state",
        "--metadata_author=someone",
        "--max_train_steps=1",
    )
    (folder,) = (tmp_path / "logs").iterdir()
    config = next(record.run.config for record in wandb_records(folder) if record.run.project)
    told = {item.key: json.loads(item.value_json) for item in config.update}
    assert told["learning_rate"] == 5e-3
    assert told["token_string"] == "zibu"
    assert told["dataset_config"] == moon_dataset.name
    assert told["save_state"] is True
    assert not {
        "output_dir",
        "logging_dir",
        "wandb_api_key",
        "huggingface_token",
        "metadata_author",
        "resume",
    } & set(told)
    events = EventAccumulator(
        str(folder / "textual_inversion"), size_guidance={"tensors": 0}
    ).Reload()
    (settings,) = events.Tensors("settings/text_summary")
    assert b"learning_rate = 0.005" in settings.tensor_proto.string_val[0]
    sent = "".join(
        str(record)
        for record in wandb_records(folder)
        if record.WhichOneof("record_type") != "request"
    )
    for text in (
        sent,
        "".join(text_in(path) for path in folder.rglob("files")),
        text_in(folder / "textual_inversion"),
    ):
        for secret in (KEY, "hf_secret", "/home/someone"):
            assert secret not in text
        assert str(moon_dataset.parent) not in text


def test_the_key_reaches_wandb(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config, _ = complete(
        parse(
            "sd",
            flags(moon_dataset, tmp_path, "--log_with=wandb", f"--wandb_api_key={KEY}"),
            "test",
        )
    )
    (writer,) = open_writers(config.log, tmp_path)
    assert isinstance(writer, WandB)
    assert writer._run.settings.api_key == KEY
    writer.close(failed=False)


def test_without_log_config_no_setting_is_told(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    trained(moon_dataset, tmp_path / "out", "--log_with=wandb", "--max_train_steps=1")
    config = next(
        record.run.config
        for record in wandb_records(tmp_path / "out" / "wandb")
        if record.run.project
    )
    assert {item.key for item in config.update} <= {"_wandb"}


def test_tracker_arguments_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    tables = {
        "wandb": {"tags": ["moon"], "settings": {"run_notes": "my notes"}},
        "tensorboard": {"filename_suffix": ".mine"},
    }
    config = LogConfig(
        dir=tmp_path, trackers=("tensorboard", "wandb"), run_name="kept", arguments=tables
    )
    for writer in open_writers(config, tmp_path):
        writer.scalars({"loss": 1.0}, 1)
        writer.close(failed=False)
    run = next(record.run for record in wandb_records(tmp_path) if record.run.project)
    assert (run.display_name, list(run.tags), run.notes) == ("kept", ["moon"], "my notes")
    assert [path.suffix for path in tmp_path.rglob("events*")] == [".mine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[wandbb]\na = 1\n", "did you mean `wandb`"),
        ("wandb = 3\n", "is not a tracker's table"),
        ("[wandb\n", "Expected"),
        (None, "file not found"),
    ],
)
def test_a_wrong_tracker_file_is_an_error(
    moon_dataset: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "t.toml"
    if text:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        complete(parse("sd", flags(moon_dataset, tmp_path, f"--log_tracker_config={path}"), "test"))


def test_wrong_arguments_are_told_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("tensorboard", "wandb"):
        config = LogConfig(
            dir=tmp_path, trackers=(name,), arguments={name: {"no_such_argument": 1}}
        )
        with pytest.raises(CoinageError, match=rf"--log_with {name}: .*no_such_argument"):
            open_writers(config, tmp_path)


OFFLINE = """
import logging, sys
from pathlib import Path
from coinage.config import LogConfig
from coinage.training.observers.trackers import open_writers
logging.basicConfig(level="INFO", format="%(message)s")
arguments = {"mode": "online", "settings": {"init_timeout": int(sys.argv[3]), "base_url": sys.argv[2]}}
config = LogConfig(
    dir=Path(sys.argv[1]), trackers=("wandb",), wandb_key="k" * 40, arguments={"wandb": arguments}
)
try:
    (writer,) = open_writers(config, Path(sys.argv[1]))
    writer.scalars({"loss": 2.0}, 1)
    writer.close(failed=False)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def connect(folder: Path, url: str, timeout: int) -> str:
    """Open W&B in a process of its own, whose service may wait for a network."""
    command = [sys.executable, "-c", OFFLINE, str(folder), url, str(timeout)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wandb_without_a_connection_keeps_the_run(tmp_path: Path) -> None:
    told = connect(tmp_path, "http://127.0.0.1:9", 1)
    assert "W&B cannot be reached" in told
    (kept,) = tmp_path.rglob("offline-run-*")
    assert f"wandb sync {kept}" in told
    assert wandb_points(kept, "loss") == [(1, 2.0)]


def test_a_missing_package_names_the_extra(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.settings.discover.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        complete(parse("sd", flags(moon_dataset, tmp_path, "--log_with=wandb"), "test"))
    config, findings = complete(
        parse("sd", flags(moon_dataset, tmp_path, "--log_with=all", "--logging_dir=x"), "test")
    )
    assert config.log.trackers == ("tensorboard",)
    assert "W&B is not installed" in " ".join(findings.notes)


class Failing:
    def __init__(self, good: int) -> None:
        self.good = good
        self.seen: list[str] = []

    def _take(self, what: str) -> None:
        if len(self.seen) >= self.good:
            raise OSError("no space left")
        self.seen.append(what)

    def scalars(self, values: dict[str, float], step: int) -> None:
        self._take(f"{step}: {', '.join(values)}")

    def picture(self, picture: Picture, step: int) -> None:
        self._take(f"{step}: picture {picture.index}")

    def close(self, *, failed: bool) -> None:
        self._take("failed" if failed else "closed")


def test_a_tracker_that_fails_is_told_once_and_left(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, well = Failing(1), Failing(99)
    tracker = Tracker([failing, well])

    run, _ = trained(moon_dataset, tmp_path, "--max_train_steps=1")
    run.results.measurements[1] = Measurement(0.5)
    tracker.measured(run)
    tracker.stepped(run)
    tracker.stepped(run)
    tracker.epoch_ended(run)
    tracker.finished(run)
    tracker.close(run)
    assert (
        caplog.text.count("Failing failed and gets no more data; training continues: no space left")
        == 1
    )
    told = [entry.split(",")[0] for entry in well.seen]
    assert told == ["1: loss/validation", "1: loss", "1: loss", "1: loss/epoch", "closed"]


def test_a_run_that_goes_on_tells_nothing_twice(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    more = [
        "--validation_split=0.25",
        "--validate_every_n_steps=2",
        "--max_train_steps=6",
        f"--sample_prompts={prompts(tmp_path)}",
    ]
    more += ["--sample_at_first", "--log_with=all", "--save_every_n_steps=3", "--save_state"]
    trained(moon_dataset, tmp_path / "o", *more, f"--logging_dir={tmp_path / 'first'}")
    resume = f"--resume={tmp_path / 'o' / 'zibu-step00000003-state'}"
    trained(moon_dataset, tmp_path / "o", *more, f"--logging_dir={tmp_path / 'second'}", resume)
    for name, validated, steps, pictures in (
        ("first", [0, 2, 4, 6], [1, 2, 3, 4, 5, 6], [0, 6]),
        ("second", [4, 6], [4, 5, 6], [6]),
    ):
        (folder,) = (tmp_path / name).iterdir()
        events = EventAccumulator(
            str(folder / "textual_inversion"), size_guidance={"images": 0}
        ).Reload()
        points = {e.step: e.value for e in events.Scalars("loss/validation")}
        assert list(points) == validated
        assert dict(wandb_points(folder, "loss/validation")) == pytest.approx(points)
        assert [e.step for e in events.Scalars("loss")] == steps
        assert [[e.step for e in events.Images(f"sample_{number}")] for number in (0, 1)] == [
            pictures,
            pictures,
        ]


def test_a_run_that_fails_is_marked_as_failed(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    def spoil(run: Run) -> None:
        run.parts.rows()[0].data.fill_(float("nan"))

    def spoil_later(run: Run) -> None:
        run.optimizer.register_step_post_hook(lambda *_: spoil(run))

    with pytest.raises(CoinageError, match="the loss of step 1 is nan"):
        trained(moon_dataset, tmp_path / "a", "--log_with=wandb", change=spoil)
    with pytest.raises(CoinageError, match="the loss of step 2 is nan"):
        trained(moon_dataset, tmp_path / "c", "--log_with=wandb", change=spoil_later)
    trained(moon_dataset, tmp_path / "b", "--log_with=wandb", "--max_train_steps=1")
    assert [wandb_records(tmp_path / name)[-1].exit.exit_code for name in "abc"] == [1, 0, 1]


def test_a_key_that_is_refused_is_no_matter_of_the_network(tmp_path: Path) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    told = connect(tmp_path, url, 10)
    assert "CoinageError: --log_with wandb: " in told
    assert "wandb login, --wandb_api_key" in told
    assert "out of reach" not in told
    server.shutdown()
    server.server_close()


def test_the_estimate_of_prodigy_is_told(moon_dataset: Path, tmp_path: Path) -> None:
    more = ["--optimizer_type=Prodigy", "--learning_rate=0.5", f"--logging_dir={tmp_path / 'logs'}"]
    run, _ = trained(moon_dataset, tmp_path / "out", *more)
    events = EventAccumulator(str(next((tmp_path / "logs").glob("*/*")))).Reload()
    group = run.optimizer.param_groups[0]
    assert events.Scalars("lr/d*lr")[-1].value == pytest.approx(group["d"] * 0.5)


def test_lengths_and_degrees_of_the_rows() -> None:
    start = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    rows = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert movement([rows, start[:1]], [start, start[:1]]) == (
        pytest.approx([3, 1, 1]),
        pytest.approx([90, 0, 0]),
    )
