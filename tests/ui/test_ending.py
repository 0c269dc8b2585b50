"""A server that ends its runs with itself, as in a container."""

import signal
from pathlib import Path

import pytest

from coinage.ui.ending import ask_runs
from coinage.ui.job import Job, read_job, write_job
from coinage.ui.processes import is_alive, own_process
from coinage.ui.workspace import WordFolder, Workspace
from tests.ui.test_server import ended as server_ended
from tests.ui.test_server import served
from tests.ui.worlds import new_word, start_job, step_of, wait_for


def test_no_run_at_work_is_nobody_to_ask(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert ask_runs(workspace) == []
    folder = WordFolder(workspace.words / "zibu")
    folder.path.mkdir(parents=True)
    own = own_process()
    gone = Job(state="running", process=own.number, process_started=1.0)
    for job in (Job(), Job(state="stopped"), gone):
        write_job(folder, job)
        assert ask_runs(workspace) == []
    assert not folder.requests.exists()


@pytest.mark.browser
def test_runs_end_with_the_server_and_have_saved(tmp_path: Path, moon_dataset: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    folder = new_word(workspace, moon_dataset, max_train_steps=10_000, save_state=True)
    with served(workspace.root, "--end-runs") as (server, _):
        process = start_job(folder)
        wait_for(lambda: step_of(folder) > 5)
        _, told = server_ended(server, signal.SIGTERM)
    job = read_job(folder)
    assert job.state == "stopped"
    assert job.exit_code == 128 + signal.SIGTERM
    assert "waiting until runs are saved: zibu" in told
    assert list(folder.output.glob("zibu-step*.safetensors"))
    assert list(folder.output.glob("zibu-step*-state"))
    assert 5 < step_of(folder) < 10_000
    wait_for(lambda: not is_alive(process))
