"""Several servers of one workspace: no change is lost, and no run is started twice."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coinage.errors import CoinageError
from coinage.ui.alone import Alone
from coinage.ui.job import Job, read_job, write_job
from coinage.ui.leftovers import OLD, sweep
from coinage.ui.processes import own_process
from coinage.ui.queue import Entry, Queue
from coinage.ui.workspace import WordFolder, Workspace
from tests.ui.worlds import new_word, start_job, wait_for

COUNT = """
import sys
from pathlib import Path
from coinage.ui.alone import Alone
path = Path(sys.argv[1])
alone = Alone(path.with_name("lock"))
for _ in range(100):
    with alone, alone:
        path.write_text(str(int(path.read_text()) + 1))
"""


def test_no_change_of_another_process_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    command = [sys.executable, "-c", COUNT, str(path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert path.read_text() == "300"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["count"]


def test_no_change_of_another_thread_is_lost(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.own.mkdir()
    queue = Queue(workspace)

    def add(number: int) -> None:
        for each in range(20):
            queue.change(lambda w, i=f"w{number}-{each}": w.with_run(i, Entry()))  # type: ignore[misc]

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queue.read().order) == 80


HOLD = """
import sys
from pathlib import Path
from coinage.runs.lock import hold
lock = hold(Path(sys.argv[1]))
print("held" if lock else "taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let another process hold a lock."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == [b"held"]
        try:
            yield
        finally:
            holder.communicate(b"")


def test_a_lock_that_is_never_given_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    monkeypatch.setattr("coinage.ui.alone.PATIENCE", 0.05)
    alone = Alone(path)
    with held(path), pytest.raises(CoinageError, match="another server"), alone:
        raise AssertionError
    with alone:  # whoever waited in vain holds nothing
        assert path.is_file()


def test_a_server_whose_folder_was_replaced_leads_no_more(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")

    def make() -> None:
        (workspace.words / "a").mkdir(parents=True)
        workspace.own.mkdir()

    make()
    first = Queue(workspace)
    assert first.due() == []
    shutil.rmtree(workspace.root)
    make()
    with held(workspace.own / ".starter.lock"):
        first.change(lambda w: w.with_run("a", Entry(when="now")))
        assert first.due() == []
    assert [word_id for word_id, _, _ in first.due()] == ["a"]


def test_a_word_is_trained_by_one_process(moon_dataset: Path, tmp_path: Path) -> None:
    folder = new_word(Workspace(tmp_path), moon_dataset)
    own = own_process()
    job = Job(state="running", process=own.number, process_started=own.started, started=time.time())
    write_job(folder, job)
    with held(folder.path / ".job.lock"):
        start_job(folder)
        wait_for(lambda: folder.printed.is_file() and "already" in folder.printed.read_text())
        assert read_job(folder) == job


def test_what_a_killed_server_has_left_is_removed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = WordFolder(workspace.words / "zibu")
    names = (
        ".0123.upload",
        "images/.a.png.12.tmp",
        ".word.json.7.tmp",
        "word.json",
        "images/a.png",
    )
    for name in names:
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sweep(workspace)
    assert all((folder.path / name).exists() for name in names)  # somebody may still write them
    for name in names:
        os.utime(folder.path / name, times=(0, time.time() - OLD - 1))
    sweep(workspace)
    assert [name for name in names if (folder.path / name).exists()] == [*names[3:]]
