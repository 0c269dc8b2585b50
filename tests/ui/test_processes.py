import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coinage.ui import processes
from coinage.ui.processes import Process, ask_to_stop, is_alive, kill, own_process, start
from tests.ui.worlds import wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def begun(tmp_path: Path, *command: str) -> Process:
    printed = tmp_path / "output.log"
    process = start(command or SLEEPS, tmp_path, printed)
    wait_for(lambda: b"up" in printed.read_bytes())
    return process


def test_a_process_has_a_session_of_its_own_and_ends_when_asked(tmp_path: Path) -> None:
    process = begun(tmp_path)
    assert is_alive(process)
    assert os.getsid(process.number) == process.number != os.getsid(0)
    ask_to_stop(process)
    wait_for(lambda: not is_alive(process))
    ask_to_stop(process)  # nothing happens
    kill(process)


def test_killing_ends_what_a_process_has_started_too(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('up', child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = begun(tmp_path, sys.executable, "-c", code)
    child = int((tmp_path / "output.log").read_text().split()[1])
    of_child = Process(child, processes._started(child) or 0)
    assert is_alive(of_child)
    ask_to_stop(process)
    time.sleep(0.1)
    assert is_alive(process)
    kill(process)
    wait_for(lambda: not is_alive(process) and not is_alive(of_child))


def test_another_process_with_the_same_number_is_not_taken_for_ours() -> None:
    own = own_process()
    assert is_alive(own)
    assert not is_alive(replace(own, started=own.started - 10))


def test_an_ended_process_that_nobody_has_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = Process(child.pid, processes._started(child.pid) or 0)
    wait_for(lambda: not is_alive(process))
    assert child.wait() == 0


def test_processes_of_other_systems_are_told_apart_by_psutil(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_started", processes._started_elsewhere)
    process = begun(tmp_path)
    assert is_alive(process)
    assert not is_alive(replace(process, started=process.started - 10))
    os.kill(process.number, signal.SIGKILL)
    wait_for(lambda: not is_alive(process))


def test_what_is_printed_comes_after_what_is_there(tmp_path: Path) -> None:
    printed = tmp_path / "output.log"
    printed.write_text("before\n")
    code = "import os, sys; print(os.environ['MORE'], flush=True); print(input(), file=sys.stderr)"
    process = start([sys.executable, "-c", code], tmp_path, printed, {"MORE": "more"})
    wait_for(lambda: not is_alive(process))
    text = printed.read_text()
    assert text.startswith("before\nmore\n")
    assert "EOFError" in text  # nobody types anything
