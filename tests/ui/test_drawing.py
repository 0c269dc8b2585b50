"""Try: pictures of the built-in model, which one process draws."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from coinage.demo.run import MODEL
from coinage.embeddings.saving import save_word
from coinage.embeddings.word import Word
from coinage.errors import ConfigError
from coinage.ui.draw_task import Told
from coinage.ui.drawing import LEFT, Ask, Drawings, complete
from coinage.ui.library import Library
from coinage.ui.site import Site
from coinage.ui.workspace import write_json
from tests.ui.sites import client_of, make_site
from tests.ui.worlds import wait_for

WIDTH = json.loads((MODEL / "text_encoder" / "config.json").read_text())["hidden_size"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, TestClient]]:
    site = make_site(tmp_path_factory.mktemp("try") / "work")
    with client_of(site) as client:
        yield site, client


def word_file(site: Site) -> str:
    rows = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    path = site.workspace.files / "0123456789ab" / "zibu.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_word(Word({"emb_params": rows}, "zibu"), path, to=None, precision="float", overwrite=True)
    return site.workspace.file_id(path)


def events_of(client: TestClient, drawing_id: str) -> list[dict[str, Any]]:
    text = client.get(f"/api/try/{drawing_id}/events").text
    said = [part for part in text.split("\n\n") if part and not part.startswith(":")]
    return [json.loads(part.partition("data: ")[2]) for part in said]


def test_pictures_are_drawn_with_and_without_a_word_and_sent_to_its_page(
    served: tuple[Site, TestClient],
) -> None:
    site, client = served
    asked = {
        "model": "demo-sd1", "prompt": "a photo of zibu on a white background", "seeds": 2,
        "first_seed": 7, "steps": 3, "words": [word_file(site)], "show_words": True,
    }  # fmt: skip
    answer = client.post("/api/try", json=asked)
    assert answer.status_code == 201, answer.text
    drawing_id = answer.json()["id"]
    said = events_of(client, drawing_id)
    last = said[-1]
    assert (last["state"], last["done"], last["total"], last["share"]) == ("done", 4, 4, 1.0)
    pictures = [(p["number"], p["seed"], p["with_word"], p["prompt"]) for p in last["pictures"]]
    with_word, without = "a photo of zibu on a white background", "a photo on a white background"
    assert pictures == [
        (0, 7, True, with_word), (1, 7, False, without), (2, 8, True, with_word), (3, 8, False, without),
    ]  # fmt: skip
    shares = [each["share"] for each in said]
    assert shares == sorted(shares)
    drawn = [client.get(f"/api/try/{drawing_id}/{number}.png").content for number in range(4)]
    assert len(set(drawn)) == 4
    assert all(picture.startswith(b"\x89PNG") for picture in drawn)
    assert [p["maps"] for p in last["pictures"]] == [["zibu"], [], ["zibu"], []]
    maps = [client.get(f"/api/try/{drawing_id}/{number}.word.png") for number in range(4)]
    assert [answer.status_code for answer in maps] == [200, 404, 200, 404]
    assert maps[0].content.startswith(b"\x89PNG")
    assert maps[0].content not in drawn
    assert client.get("/api/try").json()[0]["id"] == drawing_id
    word = client.post("/api/words", json={"token": "zibu"}).json()["id"]
    kept = client.post(f"/api/try/{drawing_id}/2/keep", json={"word": word})
    assert kept.status_code == 200
    (preview,) = client.get(f"/api/words/{word}").json()["previews"]
    assert preview["kept"]
    assert client.get(f"/api/words/{word}/previews/{preview['file']}").content == drawn[2]
    for address in (
        f"{drawing_id}/9.png",
        f"{drawing_id}/..png",
        f"{drawing_id}/0.wordx.png",
        "0123456789ab/0.png",
        "x/0.png",
    ):
        assert client.get(f"/api/try/{address}").status_code == 404


def test_a_model_that_cannot_be_used_with_a_word_is_one_clear_problem(
    served: tuple[Site, TestClient],
) -> None:
    site, client = served
    rows = torch.randn(1, WIDTH + 8)
    path = site.workspace.files / "ba9876543210" / "wide.safetensors"
    path.parent.mkdir(parents=True)
    save_word(Word({"emb_params": rows}, "wide"), path, to=None, precision="float", overwrite=True)
    asked = {
        "model": "demo-sd1",
        "prompt": "wide",
        "words": [site.workspace.file_id(path)],
        "steps": 1,
    }
    drawing_id = client.post("/api/try", json=asked).json()["id"]
    last = events_of(client, drawing_id)[-1]
    assert last["state"] == "failed"
    assert len(last["problems"]) == 1
    assert client.get("/api/try").json()[0]["state"] == "failed"


def test_a_drawing_can_be_stopped(served: tuple[Site, TestClient]) -> None:
    _, client = served
    asked = {"model": "demo-sd1", "prompt": "a red circle", "seeds": 16, "steps": 1000}
    drawing_id = client.post("/api/try", json=asked).json()["id"]
    client.post(f"/api/try/{drawing_id}/stop", json={})
    shown = wait_for(lambda: (d := client.get("/api/try").json()[0])["state"] != "running" and d)
    assert (shown["id"], shown["state"]) == (drawing_id, "stopped")


def test_a_drawing_that_its_server_has_left_is_known(tmp_path: Path) -> None:
    site = make_site(tmp_path / "work")
    folder = site.workspace.pictures / "0123456789ab"
    write_json(folder / "try.json", {"id": folder.name, "state": "running", "began": time.time()})
    (shown,) = Drawings(site, Library(site.workspace)).newest()
    assert shown["problems"][0]["what"] == LEFT

    async def streamed() -> list[bytes]:
        drawings = Drawings(site, Library(site.workspace))
        return [said async for said in drawings.stream("0123456789ab")]

    assert len(asyncio.run(streamed())) == 1


def test_what_is_left_open_is_chosen_and_what_cannot_be_is_refused() -> None:
    values = complete(Ask(model="demo-sd1", prompt="zibu"))
    assert (values["seeds"], values["steps"], values["sampler"]) == (4, 30, "ddim")
    assert 0 <= values["first_seed"] < 2**32
    with pytest.raises(ConfigError) as caught:
        complete(
            Ask(model="x", prompt=" ", seeds=0, steps=0, width=8, sampler="magic", first_seed=-1)
        )
    assert len(caught.value.problems) == 6


def test_the_time_left_is_that_of_the_steps_to_come() -> None:
    reports: list[dict[str, Any]] = []
    seconds = 0.0
    told = Told(lambda report: reports.append({**report}), 2, 4, lambda: seconds)
    for _ in range(4):
        seconds += 1.0
        told.step()
    told.picture({"number": 0})
    assert [report["share"] for report in reports] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert [report["seconds_left"] for report in reports] == [7.0, 6.0, 5.0, 4.0, 4.0]
    assert reports[-1]["picture"] == {"number": 0}
