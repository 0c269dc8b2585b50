"""Runs by the page's API: real processes that train on the built-in model."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from coinage.cli.train import train_command
from coinage.embeddings.word import load_word
from coinage.ui.app import create_app
from coinage.ui.job import KILLED, Job, read_job, write_job
from coinage.ui.processes import own_process
from coinage.ui.site import Site
from coinage.ui.workspace import WordFolder, Workspace, write_json
from tests.helpers import captured
from tests.ui.worlds import ended, step_of, wait_for

FLAGS = {
    "--resolution": "64",
    "--train_batch_size": "4",
    "--seed": "0",
    "--max_train_steps": "30",
    "--learning_rate": "0.005",
    "--init_word": "shape",
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    workspace = Workspace(tmp_path)
    for folder in (workspace.own, workspace.words, workspace.models):
        folder.mkdir(parents=True)
    return Site.of(workspace)


def serving(workspace: Workspace) -> TestClient:
    """A new server of a workspace, which remembers nothing."""
    return TestClient(create_app(Site.of(workspace)))


def new_word(client: TestClient, images: Path, **form: Any) -> str:
    word_id: str = client.post("/api/words", json={"token": "zibu"}).json()["id"]
    for path in sorted((images.parent / "images").glob("*.png")):
        client.put(f"/api/words/{word_id}/images?name={path.name}", content=path.read_bytes())
    values = {"model": "demo-sd1", "prompts": [], "flags": FLAGS, **form}
    answer = client.patch(f"/api/words/{word_id}", json=values)
    assert answer.status_code == 200, answer.text
    return word_id


def post(client: TestClient, address: str, **values: Any) -> Any:
    answer = client.post(f"/api/words/{address}", json=values)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.browser
def test_a_run_outlives_its_server_draws_saves_stops_and_goes_on(
    site: Site, moon_dataset: Path
) -> None:
    workspace = site.workspace
    with serving(workspace) as client:
        word_id = new_word(client, moon_dataset)
        assert post(client, f"{word_id}/start")["job"]["state"] == "queued"
        folder = workspace.word(word_id)
        wait_for(lambda: step_of(folder) >= 3)
        post(client, f"{word_id}/preview")  # which takes longer than a new server does
        first = read_job(folder)
    assert read_job(folder).state == "running"
    with serving(workspace) as client:
        shown = client.get(f"/api/words/{word_id}").json()
        assert (shown["job"]["state"], shown["job"]["process"]) == ("running", first.process)
        assert client.get("/api/queue").json()["running"] == [word_id]
        refused = client.post(f"/api/words/{word_id}/start", json={})
        assert refused.status_code == 409
        assert refused.json()["problems"][0]["what"] == (
            "the run cannot be started now: it runs: ask for previews or a save, or stop it"
        )
        post(client, f"{word_id}/save")
        wait_for(lambda: list(folder.output.glob("zibu-step*-state")))
        post(client, f"{word_id}/stop")
        stopped = ended(folder)
        assert (stopped.state, stopped.exit_code) == ("stopped", 128 + signal.SIGTERM)
        assert 3 < step_of(folder) < 30
        post(client, f"{word_id}/continue")
        wait_for(lambda: read_job(folder).state == "running")
        assert ended(folder).state == "ended"
        assert step_of(folder) == 30
        shown = client.get(f"/api/words/{word_id}").json()
        assert shown["progress"]["phase"] == "done"
        assert shown["previews"][0]["text"] == "zibu"
        name = shown["previews"][0]["file"]
        assert client.get(f"/api/words/{word_id}/previews/{name}").content[:4] == b"\x89PNG"
        report = client.get(f"/api/words/{word_id}/report")
        assert report.headers["content-security-policy"].startswith("sandbox allow-scripts;")
        assert b"zibu" in report.content
        refused = client.post(f"/api/words/{word_id}/continue", json={})
        assert "say with how many steps in all" in refused.json()["problems"][0]["what"]
    uninterrupted = workspace.root / "uninterrupted"
    words = ["--config_file", str(folder.run_settings), "--output_dir", str(uninterrupted)]
    assert captured(lambda: train_command("coinage", words)).returncode == 0
    rows = load_word(folder.output / "zibu.safetensors").vectors["emb_params"]
    assert torch.equal(rows, load_word(uninterrupted / "zibu.safetensors").vectors["emb_params"])


def test_a_form_that_is_wrong_starts_nothing(site: Site, moon_dataset: Path) -> None:
    with serving(site.workspace) as client:
        word_id = client.post("/api/words", json={"token": "zibu"}).json()["id"]
        answer = client.post(f"/api/words/{word_id}/start", json={})
        assert answer.status_code == 400
        whats = [problem["what"] for problem in answer.json()["problems"]]
        assert "no model is chosen" in whats
        assert "there are no images" in whats
        checked = post(client, f"{word_id}/check")
        assert [problem["what"] for problem in checked["problems"]] == whats
        assert client.get("/api/queue").json()["order"] == []


def running_word(workspace: Workspace, name: str = "zibu") -> WordFolder:
    folder = WordFolder(workspace.words / name)
    folder.path.mkdir()
    own = own_process()
    job = Job(state="running", process=own.number, process_started=own.started, started=time.time())
    write_job(folder, job)
    return folder


@pytest.mark.parametrize(
    ("state", "asked", "what"),
    [
        ("draft", "stop", "the run cannot be stopped now: it was never started: start it"),
        ("draft", "preview", "the run cannot draw previews now: it was never started: start it"),
        ("draft", "continue", "the run cannot go on now: it was never started: start it"),
        ("stopped", "save", "the run cannot save now: it was stopped: go on, or start it again"),
        ("stopped", "continue", "the run cannot go on: it has saved no state yet; start it again"),
        ("killed", "cancel", "the run cannot be cancelled now: it was killed: go on from"),
    ],
)
def test_what_a_state_does_not_allow_is_refused_with_what_it_does(
    site: Site, state: Any, asked: str, what: str
) -> None:
    folder = running_word(site.workspace)
    write_job(folder, Job(state=state))
    with serving(site.workspace) as client:
        answer = client.post(f"/api/words/zibu/{asked}", json={})
    assert answer.status_code == 409
    assert answer.json()["problems"][0]["what"].startswith(what)


def test_runs_wait_in_the_queue_and_can_be_taken_out(site: Site, moon_dataset: Path) -> None:
    running_word(site.workspace, "busy")
    site.queue.started("busy")
    with serving(site.workspace) as client:
        first = new_word(client, moon_dataset)
        second = new_word(client, moon_dataset)
        assert post(client, f"{first}/start", when="queue")["job"]["state"] == "queued"
        post(client, f"{second}/start", when="tonight")
        answer = client.post("/api/queue", json={"order": [second, first], "not_before": "21:30"})
        assert answer.json()["order"] == [second, first]
        assert answer.json()["when"] == {first: "queue", second: "tonight"}
        states = {word["id"]: word["state"] for word in client.get("/api/words").json()}
        assert states == {"busy": "running", first: "queued", second: "queued"}
        assert post(client, f"{first}/cancel")["job"]["state"] == "draft"
        assert post(client, f"{second}/stop")["job"]["state"] == "draft"
        assert client.post("/api/queue", json={"not_before": "late"}).status_code == 400
        assert client.post("/api/queue", json={"not_before": ""}).json()["not_before"] is None
        assert client.post("/api/queue", json={"paused": True}).json()["paused"]
    assert site.queue.read().paused


def test_a_run_that_is_killed_from_outside_is_found_and_the_next_one_starts(
    site: Site, moon_dataset: Path
) -> None:
    with serving(site.workspace) as client:
        word_id = new_word(client, moon_dataset)
        next_id = new_word(client, moon_dataset, flags=FLAGS)
        post(client, f"{word_id}/start")
        post(client, f"{next_id}/start", when="queue")
        folder = site.workspace.word(word_id)
        job = wait_for(lambda: (j := read_job(folder)).state == "running" and j)
        os.killpg(job.process, signal.SIGKILL)
        shown = wait_for(
            lambda: (
                (word := client.get(f"/api/words/{word_id}").json())["job"]["state"] == "killed"
                and word
            )
        )
        assert shown["job"]["reason"] == KILLED
        other = site.workspace.word(next_id)
        wait_for(lambda: read_job(other).state == "running")
        post(client, f"{next_id}/stop")
        assert ended(other).state == "stopped"


@pytest.fixture(scope="module")
def checked_word(
    tmp_path_factory: pytest.TempPathFactory, moon_dataset: Path
) -> Iterator[tuple[TestClient, str, Workspace]]:
    workspace = Workspace(tmp_path_factory.mktemp("checked"))
    for folder in (workspace.own, workspace.words):
        folder.mkdir()
    with serving(workspace) as client:
        yield client, new_word(client, moon_dataset), workspace


def test_the_checks_are_those_of_the_command_line(
    checked_word: tuple[TestClient, str, Workspace],
) -> None:
    client, word_id, _ = checked_word
    checked = post(client, f"{word_id}/check")
    assert checked["problems"] == []
    facts = dict(checked["facts"])
    assert facts["word"] == "zibu, 1 vector from shape"
    assert facts["run"].startswith("at most 30 steps, ") or facts["run"].startswith("30 steps, ")
    assert "8 images" in facts["data"]
    assert facts["time"].startswith("not known before its first steps")
    shown = client.get(f"/api/words/{word_id}").json()
    assert set(checked["images"]) == {image["id"] for image in shown["images"]}
    image = next(iter(checked["images"].values()))
    assert image["bucket"] == [64, 64]
    assert image["crop"] == [0, 0, 64, 64]
    assert shown["job"]["state"] == "draft"


def test_a_finding_stands_beside_its_image(
    checked_word: tuple[TestClient, str, Workspace],
) -> None:
    client, word_id, workspace = checked_word
    earlier = WordFolder(workspace.words / "earlier")
    earlier.path.mkdir()
    earlier.run_settings.write_text(client.get(f"/api/words/{word_id}").json()["toml"])
    write_json(earlier.progress, {"images_per_second": 2.0})  # 30 steps of 4 images: one minute
    images = client.get(f"/api/words/{word_id}").json()["images"]
    first = images[0]["id"]
    address = f"/api/words/{word_id}/images/{first}"
    before = client.patch(address, json={"caption": "a photo of a dog"})
    assert before.status_code == 200
    client.patch(f"/api/words/{word_id}", json={"flags": {**FLAGS, "--learning_rate": "7"}})
    checked = post(client, f"{word_id}/check")
    texts = str(checked["warnings"]) + str(checked["problems"])
    assert "learning" in texts
    time = dict(checked["facts"])["time"]
    assert time.removeprefix("at most ").startswith("1:00, ")
    assert "earlier" in time
    client.patch(f"/api/words/{word_id}", json={"flags": FLAGS})


@pytest.mark.slow
def test_a_run_that_is_killed_in_the_middle_goes_on_from_its_last_state(
    site: Site, moon_dataset: Path
) -> None:
    with serving(site.workspace) as client:
        word_id = new_word(client, moon_dataset)
        post(client, f"{word_id}/start")
        folder = site.workspace.word(word_id)
        wait_for(lambda: step_of(folder) >= 2)
        post(client, f"{word_id}/save")
        wait_for(lambda: list(folder.output.glob("zibu-step*-state/state.json")))
        os.killpg(read_job(folder).process or 0, signal.SIGKILL)
        assert ended(folder).state == "killed"
        post(client, f"{word_id}/continue", steps=40)
        wait_for(lambda: read_job(folder).state == "running")
        assert ended(folder).state == "ended"
        assert step_of(folder) == 40
    lines = (folder.output / "zibu-log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, 41))


@pytest.mark.slow
def test_a_second_request_to_stop_ends_a_run_at_once(site: Site, moon_dataset: Path) -> None:
    with serving(site.workspace) as client:
        word_id = new_word(client, moon_dataset)
        post(client, f"{word_id}/start")
        folder = site.workspace.word(word_id)
        wait_for(lambda: step_of(folder) >= 2)
        assert post(client, f"{word_id}/preview")["job"]["state"] == "running"
        time.sleep(0.3)  # it draws now, and looks at signals only afterwards
        assert post(client, f"{word_id}/stop")["job"]["state"] == "stopping"
        post(client, f"{word_id}/stop")
        assert ended(folder).state in ("killed", "stopped")
