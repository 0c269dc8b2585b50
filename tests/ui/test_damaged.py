"""Files of a workspace that are damaged, or were written by a later version: the page goes on."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from coinage.ui.site import Site
from coinage.ui.words import Cards
from tests.ui.sites import client, picture, site, upload, word

__all__ = ["client", "site", "word"]
DAMAGED: Mapping[str, bytes] = {
    "empty": b"",
    "no JSON": b"not JSON",
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "zeros, as after a power cut": bytes(100),
    "nested": b"[" * 100_000,
    "no text": b"\xff\xfe{",
}
LATER: Mapping[str, bytes] = {
    "word.json": b'{"token": "zibu", "kind": "scene"}',
    "images.json": b'{"00000000000a": {"width": "64"}, "b": 3}',
    "job.json": b'{"state": "paused", "process": 1}',
    "progress.json": b'{"step": "x", "total": []}',
    "drawn-prompts.json": b'{"a": 1}',
    ".coinage/queue.json": b'{"order": ["zibu", 5]}',
    ".coinage/settings.json": b'{"model_folders": 5, "hub_models": [3], "chosen": [1]}',
    ".coinage/library.json": b'{"x": 1}',
    ".coinage/cards.json": b'{"format": 1, "words": {"zibu": [[0], {}], "x": 3}}',
}
PAGES = ("/api/words", "/api/words/zibu", "/api/queue", "/api/models", "/words/zibu")


def path_of(site: Site, name: str) -> Path:
    is_own = name.startswith(".coinage/")
    return (site.workspace.root if is_own else site.workspace.word("zibu").path) / name


@pytest.mark.parametrize("name", LATER)
def test_the_page_goes_on(name: str, site: Site, client: TestClient, word: str) -> None:
    client.patch(f"/api/words/{word}", json={"model": "demo-sd1"})
    path = path_of(site, name)
    for damage, data in {**DAMAGED, "of a later version": LATER[name]}.items():
        path.write_bytes(data)
        statuses = {page: client.get(page).status_code for page in PAGES}
        expected = dict.fromkeys(PAGES, 200)
        if name == "word.json":  # it says so, and is not overwritten
            expected["/api/words/zibu"] = 400
            assert client.patch(f"/api/words/{word}", json={"vectors": 2}).status_code == 400
            assert path.read_bytes() == data
        else:
            assert client.patch(f"/api/words/{word}", json={"vectors": 2}).status_code == 200
        assert statuses == expected, damage


@pytest.mark.parametrize("damage", [*DAMAGED, None])
def test_images_are_found_by_their_files_when_the_list_is_damaged(
    damage: str | None, site: Site, client: TestClient, word: str
) -> None:
    image = str(upload(client, word, picture(size=(48, 32)))["id"])
    client.patch(f"/api/words/{word}/images/{image}", json={"caption": "a zibu"})
    path = path_of(site, "images.json")
    path.unlink()
    if damage:
        path.write_bytes(DAMAGED[damage])
    (found,) = client.get(f"/api/words/{word}").json()["images"]
    assert (found["id"], found["width"], found["height"]) == (image, 48, 32)
    assert found["caption"] == "a zibu"
    upload(client, word, picture(), "b.png")
    names = [each["name"] for each in client.get(f"/api/words/{word}").json()["images"]]
    assert names == [f"{image}.png", "b.png"]


def test_a_form_that_was_deleted_begins_anew(site: Site, client: TestClient, word: str) -> None:
    upload(client, word, picture())
    path_of(site, "word.json").write_bytes(b"{")
    problem = client.get(f"/api/words/{word}").json()["problems"][0]
    assert "delete that file" in problem["hint"]
    path_of(site, "word.json").unlink()
    shown = client.get(f"/api/words/{word}").json()
    assert (shown["form"]["token"], len(shown["images"])) == ("zibu", 1)


def test_what_is_remembered_of_later_versions_stays(site: Site, client: TestClient) -> None:
    path_of_settings = site.workspace.own / "settings.json"
    path_of_settings.write_text('{"later": 1, "hub_models": ["a/b", 3]}')
    assert client.post("/api/models", json={"hub": "c/d"}).status_code == 201
    assert '"later": 1' in path_of_settings.read_text()
    hub = [model["name"] for model in client.get("/api/models").json() if model["kind"] == "hub"]
    assert hub == ["a/b", "c/d"]


def test_cards_are_kept_for_the_next_server(
    site: Site, client: TestClient, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client, word, picture())
    told = Cards(site).all()
    with monkeypatch.context() as patched:
        patched.setattr("coinage.ui.words.card_of", None)
        assert Cards(site).all() == told
    client.patch(f"/api/words/{word}", json={"token": "other"})
    assert [card["token"] for card in Cards(site).all()] == ["other"]
