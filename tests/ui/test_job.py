"""What is known of a run: from its files and from its process."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coinage.ui.job import (
    BEGINS,
    KILLED,
    NOT_STARTED,
    STOP,
    Job,
    ask,
    last_error,
    read_job,
    write_job,
)
from coinage.ui.job_process import stop_when_asked
from coinage.ui.processes import own_process, start
from coinage.ui.workspace import WordFolder, Workspace
from tests.training.test_full_disk import NAMESPACE, ROOT, can_mount
from tests.ui.worlds import ended, new_word, start_job, wait_for


@pytest.fixture
def folder(tmp_path: Path) -> WordFolder:
    folder = WordFolder(tmp_path / "zibu")
    folder.path.mkdir()
    return folder


def test_a_word_that_was_never_started_is_a_draft(folder: WordFolder) -> None:
    assert read_job(folder) == Job()


def test_a_run_is_stopping_from_when_it_is_asked_to(folder: WordFolder) -> None:
    own = own_process()
    job = Job(state="running", process=own.number, process_started=own.started, started=1.0)
    write_job(folder, job)
    assert read_job(folder) == job
    ask(folder, STOP)
    assert read_job(folder).state == "stopping"


def test_a_killed_run_is_found_with_one_sentence(folder: WordFolder) -> None:
    process = start(
        [sys.executable, "-c", "import time; time.sleep(600)"], folder.path, folder.printed
    )
    job = Job(
        state="running",
        process=process.number,
        process_started=process.started,
        started=time.time(),
    )
    write_job(folder, job)
    assert read_job(folder).state == "running"
    os.kill(process.number, signal.SIGKILL)
    found = wait_for(lambda: (j := read_job(folder)).state != "running" and j)
    assert found == replace(job, state="killed", reason=KILLED)


def test_a_killed_run_that_had_something_to_say_is_quoted(folder: WordFolder) -> None:
    folder.printed.write_text(
        f"error: of an earlier run\n{BEGINS}now\nstep 1\nerror: the disk is full\n"
    )
    gone = replace(own_process(), started=1.0)
    write_job(folder, Job(state="running", process=gone.number, process_started=gone.started))
    assert read_job(folder).reason == "the disk is full"
    folder.printed.write_text(f"error: of an earlier run\n{BEGINS}now\nstep 1\n")
    assert last_error(folder.printed) == ""


def test_a_process_that_has_not_said_a_word_for_long_is_gone(folder: WordFolder) -> None:
    write_job(folder, Job(state="starting", started=time.time()))
    assert read_job(folder).state == "starting"
    write_job(folder, Job(state="starting", started=time.time() - 100))
    assert read_job(folder).reason == NOT_STARTED


@pytest.mark.parametrize("text", ["", "[]", '{"state": "flying"}', '{"process": "1"}', "{"])
def test_a_damaged_file_is_a_failure_with_a_reason(folder: WordFolder, text: str) -> None:
    folder.job.write_text(text)
    assert read_job(folder).reason == "job.json cannot be read; start the run again"


def test_without_signals_a_file_asks_a_process_to_stop(folder: WordFolder) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        ask(folder, STOP)
        stop_when_asked(folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_a_run_that_cannot_begin_fails_with_its_last_error(
    moon_dataset: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    folder = new_word(workspace, moon_dataset, train_data_dir="/no/such/folder")
    start_job(folder)
    job = ended(folder)
    assert (job.state, job.exit_code) == ("failed", 2)
    assert "/no/such/folder" in folder.printed.read_text()
    assert job.reason in folder.printed.read_text()


@pytest.mark.skipif(os.name == "nt", reason="a signal of POSIX")
def test_a_run_that_is_asked_to_stop_before_its_first_step_is_stopped(
    moon_dataset: Path, tmp_path: Path
) -> None:
    folder = new_word(Workspace(tmp_path), moon_dataset)
    process = start_job(folder)
    wait_for(lambda: read_job(folder).state == "running")
    os.kill(process.number, signal.SIGTERM)
    job = ended(folder)
    assert (job.state, job.exit_code) == ("stopped", 128 + signal.SIGTERM)


def test_a_full_disk_hides_no_end_of_a_run(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("needs a system that lets its users mount a disk in memory")
    words = [*NAMESPACE, sys.executable, "-m", "tests.ui.full_disk", str(disk)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])
    assert told == {
        "code": 1,
        "during": ["running"],
        "state": "failed",
        "reason": "the training ended with exit code 1",
    }
