import os
import time
from pathlib import Path

import pytest

from coinage.report.page import render_report
from coinage.report.record import PreviewPrompt, Record, Shot
from coinage.ui.library import Library
from coinage.ui.site import Site
from coinage.ui.workspace import NotFoundError, Workspace
from tests.report.samples import picture
from tests.ui.sites import client_of, make_site


def write_run(folder: Path, name: str, status: str = "finished", problem: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(
        name=name,
        token=name,
        status=status,  # type: ignore[arg-type]
        problem=problem,
        step=500,
        total_steps=1600,
        prompts=[PreviewPrompt(text=name), PreviewPrompt(text="without", of=0)],
        shots=[
            Shot(step=0, pictures=[None, None]),
            Shot(step=500, pictures=[picture(1.0, 0, side=32), picture(0.0, 0, side=32)]),
        ],
    )
    (folder / f"{name}-report.html").write_text(render_report(record), encoding="utf-8")
    (folder / f"{name}.safetensors").write_bytes(b"x")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_site(tmp_path / "work").workspace


def test_runs_and_embeddings_are_found_by_their_names(workspace: Workspace) -> None:
    root = workspace.root
    write_run(root / "old" / "runs", "mychar")
    for name in ("mychar-step00000500.safetensors", "mychar-best.safetensors", "other.pt", "x.txt"):
        (root / "old" / "runs" / name).write_bytes(b"x")
    write_run(root, "killed", "training")
    write_run(root, "broken", "failed", "the loss is not finite")
    (root / "mychar-state").mkdir()
    (root / "mychar-state" / "rows.safetensors").write_bytes(b"x")
    for own in ("models", "words/zibu/output", "files/0123456789ab", ".hidden"):
        (root / own).mkdir(parents=True, exist_ok=True)
        (root / own / "own.safetensors").write_bytes(b"x")
    cards = {card["token"]: card for card in Library(workspace).cards()}
    assert set(cards) == {"mychar", "other", "killed", "broken"}
    mychar = cards["mychar"]
    assert (mychar["state"], mychar["step"], mychar["total"]) == ("ended", 500, 1600)
    assert [file["name"] for file in mychar["files"]] == [
        "mychar-best.safetensors", "mychar-step00000500.safetensors", "mychar.safetensors",
    ]  # fmt: skip
    assert cards["killed"]["state"] == "killed"
    assert cards["broken"]["reason"] == "the loss is not finite"
    assert (cards["other"]["report"], cards["other"]["preview"]) == (None, None)
    files = {(file.source, file.path.name, file.place) for file in Library(workspace).files()}
    assert ("dropped", "own.safetensors", "") in files
    assert ("word", "own.safetensors", "zibu") in files
    assert ("found", "other.pt", "old/runs") in files
    assert len(files) == 8


def test_a_report_is_read_again_only_when_it_has_changed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(workspace.root, "mychar")
    first = Library(workspace).cards()
    read = 0

    def counted(path: Path) -> Record:
        nonlocal read
        read += 1
        return Record(token="again")

    monkeypatch.setattr("coinage.ui.library.read_report", counted)
    library = Library(workspace)  # of a new server
    assert library.cards() == first
    assert read == 0
    report = workspace.root / "mychar-report.html"
    os.utime(report, ns=(1, 1))
    assert [card["token"] for card in library.cards()] == ["again"]
    assert (len(library.cards()), read) == (1, 1)
    report.unlink()
    assert [card["token"] for card in library.cards()] == ["mychar"]


def test_damaged_reports_and_lists_stop_nothing(workspace: Workspace) -> None:
    (workspace.root / "a-report.html").write_text("<html>")
    (workspace.own / "library.json").write_text("{")
    (card,) = Library(workspace).cards()
    assert (card["state"], card["reason"]) == ("failed", "not a report of a run")


def test_reports_and_pictures_of_found_runs_are_shown(workspace: Workspace) -> None:
    write_run(workspace.root, "mychar")
    outside = workspace.root.parent / "outside"
    write_run(outside, "secret")
    (workspace.root / "link").symlink_to(outside)
    library = Library(workspace)
    (card,) = library.cards()
    with client_of(Site.of(workspace)) as client:
        assert client.get("/api/words").json() == [card]
        assert b"mychar" in client.get(card["report"]).content
        policy = client.get(card["report"]).headers["content-security-policy"]
        assert policy.startswith("sandbox")
        shown = client.get(card["preview"])
        assert shown.headers["content-type"] == "image/jpeg"
        assert shown.content[:2] == b"\xff\xd8"
        assert client.get("/api/found/0123456789abcdef/report").status_code == 404
    for file_id in ("", "..", "0" * 16):
        with pytest.raises(NotFoundError):
            library.find(file_id)


@pytest.mark.perf
def test_a_thousand_runs_are_listed_in_a_fifth_of_a_second(workspace: Workspace) -> None:
    write_run(workspace.root / "run0", "word0")
    page = (workspace.root / "run0" / "word0-report.html").read_bytes()
    for number in range(1, 1000):
        folder = workspace.root / f"run{number}"
        folder.mkdir()
        (folder / f"word{number}-report.html").write_bytes(page)
        (folder / f"word{number}.safetensors").write_bytes(b"x")
    library = Library(workspace)
    assert len(library.cards()) == 1000
    began = time.monotonic()
    library.cards()
    assert time.monotonic() - began < 0.2
