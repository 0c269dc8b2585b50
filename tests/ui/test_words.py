"""The list of words, making, changing, copying and deleting one; models."""

import json
import struct
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from coinage.demo.worlds import MODELS
from coinage.errors import CoinageError
from coinage.models.facts import FACTS
from coinage.runs.files import FORMATS
from coinage.ui.job import Job, write_job
from coinage.ui.models import Models
from coinage.ui.site import Site
from coinage.ui.words import id_for
from coinage.ui.workspace import NotFoundError, is_word_id
from tests.ui.sites import client_of, make_site, picture, upload


@pytest.mark.parametrize(
    ("token", "word_id"),
    [
        ("zibu", "zibu"),
        ("My_Char 2", "my-char-2"),
        ("犬", "word"),
        ("Élan!", "elan"),
        ("--", "word"),
        ("CON", "con-word"),
    ],
)
def test_ids_of_words(token: str, word_id: str) -> None:
    assert id_for(token) == word_id
    assert is_word_id(id_for(token * 40))


def test_a_new_word(client: TestClient, site: Site) -> None:
    ids = [client.post("/api/words", json={"token": " zibu "}).json()["id"] for _ in range(3)]
    assert ids == ["zibu", "zibu-2", "zibu-3"]
    word = client.get("/api/words/zibu").json()
    assert word["form"] == {
        "token": "zibu", "model": "", "kind": "object", "vectors": 1, "length": "normal", "prompts": [],
        "negative": "", "flags": {},
    }  # fmt: skip
    assert (word["job"]["state"], word["files"], word["report"], word["previews"]) == (
        "draft",
        [],
        False,
        [],
    )
    assert "--token_string=zibu" in word["command"]
    assert [problem["what"] for problem in word["problems"]] == [
        "no model is chosen",
        "there are no images",
    ]
    for wrong in (
        {"token": ""},
        {"token": "a b"},
        {"word": "x"},
        {"token": 1},
        [],
        {"copy": "../zibu"},
    ):
        answer = client.post("/api/words", json=wrong)
        assert answer.status_code in (400, 404)
        assert answer.json()["problems"]
    assert len(list(site.workspace.word_ids())) == 3


def test_parts_of_a_form(client: TestClient, word: str) -> None:
    address = f"/api/words/{word}"
    changed = client.patch(
        address, json={"model": "demo-sd2", "vectors": 4, "prompts": ["a zibu", ""]}
    ).json()
    assert changed["form"]["prompts"] == ["a zibu"]
    changed = client.patch(address, json={"kind": "style", "flags": {"--seed": "1"}}).json()
    form = changed["form"]
    assert (form["model"], form["vectors"], form["kind"]) == ("demo-sd2", 4, "style")
    for wrong in (
        {"vectors": "4"}, {"kind": "animal"}, {"flags": {"--seed": 1}}, {"path": "x"}, [], {"vectors": 0},
        {"flags": {"--foo": "1", "--seed": "x"}}, {"vectors": True}, {"prompts": "a"},
    ):  # fmt: skip
        assert client.patch(address, json=wrong).status_code == 400
    assert client.patch(address, json={"model": "/etc/passwd"}).status_code == 404
    assert client.patch(address, content=b"{").status_code == 400
    assert client.patch(address, content=b"[" * 100_000).status_code == 400
    assert client.get(address).json()["form"] == form


def test_again_with_changes(client: TestClient, word: str, site: Site) -> None:
    image = upload(client, word, picture())["id"]
    client.patch(f"/api/words/{word}/images/{image}", json={"caption": "a zibu"})
    client.put(f"/api/words/{word}/images/{image}/mask", content=picture())
    client.patch(f"/api/words/{word}", json={"model": "demo-sd1", "flags": {"--seed": "5"}})
    before = client.get(f"/api/words/{word}").json()
    asked: list[dict[str, str]] = [
        {"copy": word},
        {"toml": before["toml"]},
        {"toml": before["command"]},
    ]
    for body in asked:
        made = client.post("/api/words", json=body).json()
        after = client.get(f"/api/words/{made['id']}").json()
        assert made["id"] != word
        assert after["form"] == before["form"]
        assert after["images"] == before["images"]
        thumb = client.get(f"/api/words/{made['id']}/images/{image}/thumb")
        assert thumb.status_code == 200
    client.delete(f"/api/words/{word}/images/{image}")
    assert len(client.get("/api/words/zibu-2").json()["images"]) == 1


def test_deleting_moves_to_the_trash(client: TestClient, word: str, site: Site) -> None:
    upload(client, word, picture())
    folder = site.workspace.word(word)
    for state in ("queued", "stopping"):
        write_job(folder, Job(state=state))  # type: ignore[arg-type]
        refused = client.delete(f"/api/words/{word}").status_code
        assert refused == (409 if state == "queued" else 200)
        if refused == 200:
            break
        assert folder.form.is_file()
    assert client.get(f"/api/words/{word}").status_code == 404
    assert client.get("/api/words").json() == []
    assert len(list(site.workspace.trash.glob(f"*/words/{word}/images/*.png"))) == 1


def test_cards_follow_what_is_on_the_disk(client: TestClient, word: str, site: Site) -> None:
    (card,) = client.get("/api/words").json()
    assert (card["token"], card["state"], card["preview"], card["source"]) == (
        "zibu",
        "draft",
        None,
        "word",
    )
    image = upload(client, word, picture())["id"]
    (card,) = client.get("/api/words").json()
    assert card["preview"] == f"/api/words/{word}/images/{image}/thumb"
    folder = site.workspace.word(word)
    write_job(folder, Job(state="ended", since=1.0))
    folder.progress.write_text('{"step": 5, "total": 10, "seconds_left": 1.5}')
    (folder.output / "sample").mkdir(parents=True)
    (folder.output / "zibu.safetensors").write_bytes(b"12345")
    name = "zibu_000005_00_20260101000000_1.png"
    (folder.output / "sample" / name).write_bytes(picture())
    (card,) = client.get("/api/words").json()
    assert (card["state"], card["step"], card["total"], card["seconds_left"]) == (
        "ended",
        5,
        10,
        1.5,
    )
    assert card["preview"] == f"/api/words/{word}/previews/{name}"
    (file,) = card["files"]
    path = folder.output / "zibu.safetensors"
    assert file == {"id": site.workspace.file_id(path), "name": "zibu.safetensors", "bytes": 5}
    second = client.post("/api/words", json={"token": "newer"}).json()["id"]
    assert [card["id"] for card in client.get("/api/words").json()] == [second, word]
    (site.workspace.root / "earlier").mkdir()
    (site.workspace.root / "earlier" / "old.safetensors").write_bytes(b"12345")
    first, *_ = client.get("/api/words").json()
    assert (first["token"], first["source"], first["state"]) == ("old", "found", "ended")


def test_a_folder_that_is_no_word_does_no_harm(client: TestClient, word: str, site: Site) -> None:
    folder = site.workspace.word(word)
    folder.image_list.write_text('{"0123456789ab": {"width": 0}, "../x": {}, "x": 3}')
    folder.progress.write_text("[")
    folder.job.write_text("{")
    word_shown = client.get(f"/api/words/{word}").json()
    assert word_shown["images"] == []
    assert word_shown["job"]["state"] == "failed"
    (site.workspace.words / "empty").mkdir()
    assert {card["id"] for card in client.get("/api/words").json()} == {word, "empty"}


def test_pages_and_what_is_not_there(client: TestClient, word: str) -> None:
    for page in ("/", f"/words/{word}", f"/words/{word}/edit", "/try", "/files", "/login"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert 'lang="ja"' in client.get("/", headers={"accept-language": "ja"}).text
    helps = {
        lang: client.get(f"/api/flags?lang={lang}").json()[0]["help"] for lang in ("en", "ja", "x")
    }
    assert "学習" in helps["ja"]
    assert helps["en"] == helps["x"] == client.get("/api/flags").json()[0]["help"]
    for missing in ("/words/none", "/api/words/none", "/none", "/static/none.js"):
        answer = client.get(missing)
        assert answer.status_code == 404
        assert answer.json()["problems"][0]["what"]
    assert client.put(f"/api/words/{word}").status_code == 405


def test_a_name_is_escaped_in_pages(client: TestClient) -> None:
    made = client.post("/api/words", json={"token": "<script>x</script>"}).json()["id"]
    for page in (f"/words/{made}", f"/words/{made}/edit", "/"):
        assert "<script>x" not in client.get(page).text


def test_a_failure_of_the_server_is_one_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("token")

    monkeypatch.setattr("coinage.ui.words.shown_word", fail)
    browser = TestClient(client_of(site).app, raise_server_exceptions=False)
    made = browser.post("/api/words", json={"token": "zibu"}).json()["id"]
    answer = browser.get(f"/api/words/{made}")
    assert answer.status_code == 500
    assert answer.json()["problems"][0]["what"] == "the server failed: KeyError: 'token'"


# Models


def tensors(path: Path, *names: str) -> Path:
    """A safetensors file of 2 MB with tensors of these names."""
    size = 2**21 // len(names) // 2 * 2
    header = {
        name: {"dtype": "F16", "shape": [size // 2], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    data = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(data)) + data + bytes(size * len(names)))
    return path


CHECKPOINT = ("model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.transformer.x")


@pytest.fixture
def models(site: Site) -> Models:
    return site.models


def named(models: Models) -> dict[str, tuple[str | None, str, str]]:
    return {m.name: (m.family, m.kind, m.problem) for m in models.all() if m.kind != "demo"}


def test_models_are_found_and_told_apart(
    site: Site, models: Models, sd3: Path, tmp_path: Path
) -> None:
    place = site.workspace.models
    tensors(place / "sub" / "base.safetensors", *CHECKPOINT)
    tensors(place / "lora.safetensors", "lora_unet.x")
    (place / "broken.safetensors").write_bytes(b"<html>" * 2**19)
    (place / "small.safetensors").write_bytes(b"x")
    (place / "note.txt").write_bytes(bytes(2**21))
    (place / "lost.safetensors").symlink_to(tmp_path / "nowhere")
    elsewhere = tmp_path / "mine"
    (elsewhere / "tiny").mkdir(parents=True)
    for part in ("unet", "text_encoder", "vae"):
        (elsewhere / "tiny" / part).symlink_to(MODELS / "sd2" / part)
    (elsewhere / "flows").symlink_to(sd3)
    models.allow([elsewhere])
    found = named(Models(site.workspace, tmp_path))  # remembered by another server
    assert found["sub/base.safetensors"] == ("sd1", "file", "")
    assert found["tiny"] == ("sd2", "folder", "")
    assert found["flows"] == ("sd3", "folder", "")
    assert found["lora.safetensors"] == (None, "file", "this is a LoRA, not a model")
    assert found["broken.safetensors"][2] == "this is a web page, not a model"
    assert len(found) == 5
    assert {m.id for m in models.all() if m.kind == "demo"} == {f"demo-{name}" for name in FACTS}
    with pytest.raises(CoinageError, match="no folder"):
        models.allow([tmp_path / "none"])


def test_a_browser_is_told_no_path(client: TestClient, site: Site) -> None:
    tensors(site.workspace.models / "base.safetensors", *CHECKPOINT)
    text = client.get("/api/models").text
    assert str(site.workspace.root) not in text
    assert str(MODELS) not in text


def test_a_model_that_moved_away(client: TestClient, site: Site, word: str) -> None:
    path = tensors(site.workspace.models / "base.safetensors", *CHECKPOINT)
    model = next(m for m in site.models.all() if m.name == "base.safetensors")
    assert client.patch(f"/api/words/{word}", json={"model": model.id}).status_code == 200
    path.rename(path.with_name("other.safetensors"))
    shown = {m["id"]: m for m in client.get("/api/models").json()}
    assert shown[model.id]["name"] == "base.safetensors"
    assert "not where it was" in shown[model.id]["problem"]
    problems = client.get(f"/api/words/{word}").json()["problems"]
    assert any("base.safetensors: the model is not where it was" in p["what"] for p in problems)


def test_a_model_that_is_replaced_is_looked_at_again(site: Site, models: Models) -> None:
    path = tensors(site.workspace.models / "a.safetensors", "lora_unet.x")
    assert named(models)["a.safetensors"][0] is None
    tensors(path, *CHECKPOINT)
    assert named(models)["a.safetensors"][0] == "sd1"


def test_models_of_the_hub(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    snapshot = cache / "models--some--model" / "snapshots" / "1a2b"
    for part in ("unet", "text_encoder"):
        (snapshot / part).mkdir(parents=True)
        settings = (MODELS / "sd1" / part / "config.json").read_text()
        (snapshot / part / "config.json").write_text(settings)
    (cache / "models--not-one" / "snapshots" / "1" / "x").mkdir(parents=True)
    site = make_site(tmp_path / "work", cache)
    assert named(site.models) == {"some/model": ("sd1", "hub", "")}
    with client_of(site) as client:
        added = client.post("/api/models", json={"hub": "other/model-1.5"})
        assert added.status_code == 201
        assert "will download" in added.json()["problem"]
        for wrong in (
            "model",
            "../x",
            "a/../b",
            "a/b/c",
            "/etc/passwd",
            "https://x/y",
            "a/b\0",
            "",
            "C:\\x",
            "a/..",
        ):
            assert client.post("/api/models", json={"hub": wrong}).status_code == 400
    assert set(named(site.models)) == {"some/model", "other/model-1.5"}
    found = site.models.by_source("some/model")
    assert found is not None
    assert found.source == "some/model"
    with pytest.raises(NotFoundError):
        site.models.find("../../etc")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_word_has_its_file_in_every_format_of_a_run(
    site: Site, client: TestClient, suffix: str
) -> None:
    word = client.post("/api/words", json={"token": "zibu"}).json()["id"]
    folder = site.workspace.word(word)
    folder.output.mkdir()
    (folder.output / f"zibu{suffix}").write_bytes(b"12345")
    (file,) = client.get(f"/api/words/{word}").json()["files"]
    assert file["name"] == f"zibu{suffix}"
