"""Words of one config file that processes divide among themselves: `--share words`."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.cli.words import build_words
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.embeddings.reading import read
from coinage.runs.lock import hold
from coinage.runs.sharing import FOLDER, Group, Shares, groups_of
from coinage.system.launch import leave_group, process_count, process_rank
from tests.cli.test_words import for_both, lines
from tests.helpers import HANGS, rows_of, small_model

Write = Callable[..., Path]
LETTERS = "abcdefghijklmnopqrst"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def tokens_of(count: int) -> list[str]:
    """Words of which none is a piece of another."""
    return [f"zi{LETTERS[n // 20]}{LETTERS[n % 20]}bu" for n in range(count)]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Dataset files by concept; templates take the place of captions, to suit any word."""
    root = tmp_path_factory.mktemp("data")
    return {
        name: write_dataset(root / name, CONCEPTS[name], "zibu", seed=0).as_posix()
        for name in ("moon", "drop")
    }


@pytest.fixture
def write(datasets: dict[str, str], tmp_path: Path) -> Write:
    """Write a config file of many words, with what is to be otherwise."""

    def written(
        count: int, out: str = "out", *, broken: int | None = None, **shared: object
    ) -> Path:
        settings = for_both() | {"output_dir": (tmp_path / out).as_posix(), "words_at_once": 2}
        text = lines({**settings, "use_object_template": True, **shared})
        for number, token in enumerate(tokens_of(count)):
            dataset = datasets["drop" if number % 2 else "moon"]
            of_word = {"token_string": token, "dataset_config": dataset}
            if number == broken:
                empty = tmp_path / "empty"
                empty.mkdir(exist_ok=True)
                of_word = {"token_string": token, "train_data_dir": empty.as_posix()}
            text += "[[words]]\n" + lines({**of_word})
        file = tmp_path / f"{out}.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return written


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinage.runs.sharing.PAUSE", 0.05)


def groups_in(file: Path) -> list[Group]:
    return groups_of(*build_words(parse("coinage", [f"--config_file={file}"], "test")), size=2)


def share(file: Path, *more: str) -> int:
    return train_command("coinage", [f"--config_file={file}", "--share=words", *more])


def files_of(folder: Path) -> dict[str, list[object]]:
    """The rows of each word, by its file."""
    return {path.name: rows_of(read(path)).tolist() for path in folder.glob("*.safetensors")}


def test_groups_have_fixed_members_and_know_what_their_words_depend_on(write: Write) -> None:
    groups = groups_in(write(5))
    assert [len(group.configs) for group in groups] == [2, 2, 1]
    assert [group.number for group in groups] == [1, 2, 3]
    assert groups[0].words == "ziaabu, ziabbu"
    keys = [group.key for group in groups]
    assert len(set(keys)) == 3
    assert [g.key for g in groups_in(write(5, console_log_simple=True))] == keys
    assert [g.key for g in groups_in(write(7))][:2] == keys[:2]
    assert not {g.key for g in groups_in(write(5, learning_rate=1e-3))} & {*keys}


def test_a_launchers_process_becomes_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leave_group() == (0, 0)
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert leave_group() == (5, 1)
    assert (process_rank(), process_count()) == (0, 1)


HOLDS = """
import sys, time
from pathlib import Path
from coinage.runs.lock import hold
lock = hold(Path(sys.argv[1]))
print("held" if lock else "taken", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start a process that holds a lock."""
    started = []

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDS, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_group_that_another_trains_is_taken_up_when_that_one_dies(
    write: Write, tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]
) -> None:
    first, second = groups_in(write(3))
    shares = Shares(tmp_path / "out", [first, second])
    other = holder(tmp_path / "out" / FOLDER / f"{first.key}.lock")
    assert shares.take() == second, "the first is in hand elsewhere"
    (second.configs[0].output_file).write_bytes(b"word")
    shares.leave(second)
    assert shares.done() == 1
    other.kill()
    assert shares.take() == first
    shares.release()
    again = shares.take()
    assert again == first, "it was left before it was done"
    shares.leave(first, "it failed")
    assert shares.take() is None
    assert shares.failed() == [first]
    assert Shares(tmp_path / "out", [first, second]).take() == first, "a new process tries again"
    second.configs[0].output_file.unlink()
    assert Shares(tmp_path / "out", [second]).take() == second, (
        "a word that is gone is trained anew"
    )


def test_a_lock_of_the_same_number_on_another_host_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = hold(tmp_path / "x.lock")
    assert lock
    assert hold(tmp_path / "x.lock"), "our own stands in nobody's way"
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert hold(tmp_path / "x.lock") is None
    lock.release()


def test_what_fails_is_told_and_the_others_are_trained(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert share(write(4, broken=1)) == 1
    told = capsys.readouterr().err
    assert "ziabbu" in told
    assert "2 of 4 words were not trained: ziaabu, ziabbu" in told
    assert "Traceback" not in told
    out = tmp_path / "out"
    assert {*files_of(out)} == {"ziacbu.safetensors", "ziadbu.safetensors"}
    before = (out / "ziacbu.safetensors").stat().st_mtime_ns
    assert share(write(4)) == 0
    told = capsys.readouterr().err
    assert "2 of 4 words are done already" in told
    assert "4 of 4 words are done" in told
    assert told.count("loading ") == 1
    assert (out / "ziacbu.safetensors").stat().st_mtime_ns == before
    alone = write(4, "alone", words_at_once=2)
    assert share(alone) == 0
    assert capsys.readouterr().err.count("loading ") == 1, "one model for all groups"
    assert files_of(out) == files_of(tmp_path / "alone"), "whoever trains a word, it is the same"


@pytest.mark.parametrize("mend", [True, False])
def test_a_dry_run_checks_all_words(
    mend: bool, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert share(write(5, broken=None if mend else 1), "--dry_run") == (0 if mend else 2)
    told = capsys.readouterr().err
    assert ("dry run: nothing was trained" in told) is mend
    assert ("[[words]] 2 (ziabbu)" in told) is not mend
    assert not (tmp_path / "out").exists()


def test_equal_names_are_found_across_groups(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(4)
    text = file.read_text(encoding="utf-8").replace("ziadbu", "ziaabu")
    file.write_text(text, encoding="utf-8")
    assert share(file) == 2
    assert "would be written to the same files" in capsys.readouterr().err


def test_a_single_word_cannot_be_shared(
    datasets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = f"--dataset_config={datasets['moon']}", f"--output_dir={tmp_path / 'o'}"
    argv = [data, out, f"--pretrained_model_name_or_path={small_model()}", "--token_string=zibu"]
    assert train_command("coinage", [*argv, "--share=words"]) == 2
    assert "needs a config file with [[words]] tables" in capsys.readouterr().err


def start(file: Path, rank: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "coinage.cli.main", "train", f"--config_file={file}"]
    started = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "4"}
    return subprocess.Popen(
        [*command, "--share=words"], env=ENVIRONMENT | started, stderr=subprocess.DEVNULL
    )


def wait_for_words(out: Path, count: int) -> None:
    began = time.monotonic()
    while len(list(out.glob("*.safetensors"))) < count:
        assert time.monotonic() - began < HANGS, "no more words come"
        time.sleep(0.1)


@pytest.mark.slow
def test_two_hundred_words_over_four_processes_of_which_two_are_killed(
    write: Write, tmp_path: Path
) -> None:
    file = write(200, words_at_once=8)
    processes = [start(file, rank) for rank in range(4)]
    for rank, words in ((1, 8), (0, 64)):  # the first one too
        wait_for_words(tmp_path / "out", words)
        processes[rank].send_signal(signal.SIGKILL)
    codes = [process.wait(HANGS * 10) for process in processes]
    assert codes == [-9, -9, 0, 0]
    assert share(write(200, "alone", words_at_once=8)) == 0
    found = files_of(tmp_path / "out")
    assert len(found) == 200
    assert found == files_of(tmp_path / "alone")


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed(write: Write, tmp_path: Path) -> None:
    file = write(24, words_at_once=4)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command = [*launcher, "--max-restarts=2", "-m", "coinage.cli.main", "train"]
    run = subprocess.Popen(
        [*command, f"--config_file={file}", "--share=words"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_words(tmp_path / "out", 4)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="utf-8")
    os.kill(int(children.split()[0]), signal.SIGKILL)
    told = run.communicate(timeout=HANGS * 10)[1]
    assert run.returncode == 0, told
    assert re.search(r"24 of 24 words are done", told)
    assert len(files_of(tmp_path / "out")) == 24
