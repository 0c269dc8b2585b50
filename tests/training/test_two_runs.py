"""Two runs of one name: side by side they are refused, one after another they do not mix."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coinage.checks import make_plans
from coinage.errors import ConfigError, Findings
from coinage.runs.files import earlier_files, rest_of, set_aside, tidy
from coinage.runs.lock import claim, hold
from coinage.runs.states import latest_state
from tests.helpers import config_for, trained
from tests.windows import ON_WINDOWS, LikeMsvcrt, LikeWindows, letters_alike, windows_files

HOLD = """
import sys
from pathlib import Path
from coinage.errors import Findings
from coinage.runs.lock import _hold
lock = _hold(Path(sys.argv[1]), Findings(), "")
print(lock.file, flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(lock: Path) -> Iterator["subprocess.Popen[str]"]:
    """One that holds a lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline().strip().isdecimal()
        yield process


def test_a_second_run_of_a_name_is_refused_until_the_first_has_ended(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(moon_dataset, tmp_path)
    lock = tmp_path / ".zibu.lock"
    with another_process(lock) as process:
        with pytest.raises(ConfigError) as caught:
            make_plans([config])[0]
        (problem,) = caught.value.problems
        assert problem.what == "another run writes zibu into this folder"
        assert problem.where == str(lock)
        assert f"wait for process {process.pid} on " in problem.hint
        other = make_plans([config_for(moon_dataset, tmp_path, "--output_name=other")])[0]
        assert other.lock
        assert (tmp_path / ".other.lock").is_file()
        other.release()
        with monkeypatch.context() as patched:
            # Of several processes of one run, the first one asks for all
            patched.setenv("RANK", "1")
            assert claim(config, None, Findings()) is None
        process.kill()
        process.wait()
    checked = make_plans([config])[0]
    assert checked.lock
    assert lock.read_text().split()[0] == str(os.getpid())
    again = make_plans([config])[0]  # the same process is the same run
    again.release()
    assert lock.is_file()
    checked.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """The folder was replaced meanwhile, and another process holds the name there."""
    path = tmp_path / ".zibu.lock"
    first = hold(path)
    path.unlink()
    second = hold(path)
    assert first
    assert second
    first.release()
    assert path.exists()
    second.release()
    assert not path.exists()


def test_a_folder_without_locks_stops_nobody(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("coinage.runs.lock._lock", refuse)
    checked = make_plans([config_for(moon_dataset, tmp_path)])[0]
    assert checked.lock
    assert checked.lock.file is None


# One after another


def test_a_run_that_begins_anew_keeps_what_was_there_under_a_number(
    moon_dataset: Path, tmp_path: Path
) -> None:
    given = (
        "--max_train_steps=4",
        "--save_state",
        "--save_every_n_steps=2",
        "--validation_split=0.2",
        "--keep_best",
    )
    first = make_plans([config_for(moon_dataset, tmp_path, *given)])[0]
    assert not [problem for problem in first.warnings if "already" in problem.what]
    trained(moon_dataset, tmp_path, *given)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    again = make_plans([config_for(moon_dataset, tmp_path, *given)])[0]
    (told,) = [problem for problem in again.warnings if "already" in problem.what]
    assert told.what.startswith(
        "zibu.safetensors is there already: this run replaces it at its end; "
    )
    assert "under a number" in told.what
    assert "--output_name" in told.hint
    resumed = make_plans(
        [config_for(moon_dataset, tmp_path, *given, "--resume=latest", "--max_train_steps=5")]
    )[0]
    assert not [problem for problem in resumed.warnings if "already" in problem.what]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == set(before), (
        "nothing is renamed by a check"
    )
    again.release()
    resumed.release()

    trained(moon_dataset, tmp_path, *given[1:], "--seed=7", "--max_train_steps=2")
    for name in ("zibu-log", "zibu-report", "zibu-best", "zibu-step00000004"):
        ((old, content),) = [
            (name_, content) for name_, content in before.items() if Path(name_).stem == name
        ]
        assert (tmp_path / f"{name}-1{Path(old).suffix}").read_bytes() == content
    assert latest_state(tmp_path, "zibu") == tmp_path / "zibu-state"
    assert json.loads((tmp_path / "zibu-state" / "state.json").read_text())["step"] == 2
    assert len((tmp_path / "zibu-log.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "zibu-step00000004-state").exists()
    assert (tmp_path / "zibu-step00000004-1-state" / "state.pt").is_file()


def test_which_files_are_those_of_a_name(tmp_path: Path) -> None:
    own = [
        "zibu-log.jsonl",
        "zibu-report.html",
        "zibu-best.pt",
        "zibu-000002.ckpt",
        "zibu-step00000100.safetensors",
    ]
    others = [
        "zibu.pt",
        "zibu2-log.jsonl",
        "zibu-autopilot.json",
        "zibu-x.pt",
        "zibu-log-1.jsonl",
        "zibu-step00000100-1.pt",
        "a.txt",
    ]
    for name in (*own, *others):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "zibu-000002-state").mkdir()
    (tmp_path / "zibu-best.safetensors").mkdir()
    own.append("zibu-000002-state")
    assert sorted(path.name for path in earlier_files(tmp_path, "zibu")) == sorted(own)
    moved = {path.name for path in set_aside(tmp_path, "zibu")}
    assert {
        "zibu-log-2.jsonl",
        "zibu-report-2.html",
        "zibu-best-2.pt",
        "zibu-000002-2-state",
    } <= moved, "one number for all"
    assert all((tmp_path / name).exists() for name in others)
    assert set_aside(tmp_path, "zibu") == []
    assert tidy(tmp_path / "none", "zibu") == earlier_files(tmp_path / "none", "zibu") == []
    assert rest_of(Path("zibu-state"), "zibu") == ("", "-state")


def test_a_run_that_has_learned_nothing_leaves_nothing_to_keep(tmp_path: Path) -> None:
    (tmp_path / "zibu-log.jsonl").touch()
    (tmp_path / "zibu-report.html").write_text("it failed")
    assert set_aside(tmp_path, "zibu") == []


def test_a_command_that_is_given_again_after_a_kill_begins_again(
    moon_dataset: Path, tmp_path: Path
) -> None:
    """`--resume latest` before the first state: the log of the steps that are made again is not kept."""
    (tmp_path / "zibu-log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.1}) + "\n")
    trained(moon_dataset, tmp_path, "--max_train_steps=2", "--resume=latest")
    assert not (tmp_path / "zibu-log-1.jsonl").exists()
    assert len((tmp_path / "zibu-log.jsonl").read_text().splitlines()) == 2


def test_a_name_in_other_letters_is_the_same_where_the_file_system_says_so(tmp_path: Path) -> None:
    names = ("zibu-log.jsonl", "zibu-report.html", "zibu-000002.safetensors", "zibulon-log.jsonl")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert ON_WINDOWS or set_aside(tmp_path, "Zibu") == [], "here they are two"
    with letters_alike():
        assert len(earlier_files(tmp_path, "Zibu")) == 3
        assert len(set_aside(tmp_path, "Zibu")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Zibu-000002-1.safetensors",
        "Zibu-log-1.jsonl",
        "Zibu-report-1.html",
        "zibulon-log.jsonl",
    ]


@pytest.mark.skipif(ON_WINDOWS, reason="it has them")
def test_locks_as_windows_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinage.runs.lock.os", LikeWindows())
    monkeypatch.setitem(sys.modules, "msvcrt", LikeMsvcrt)
    path = tmp_path / ".zibu.lock"
    with windows_files() as refused:
        first = hold(path)
        assert first
        assert first.file is not None
        path.write_bytes(b"77 elsewhere")  # who has it can be read: the locked byte lies far behind
        assert hold(path) is None
        first.release()
        assert not path.exists()
        second = hold(path)
        assert second
        second.release()
    assert refused == []
