"""The file doctor: real files, and one process that treats them all."""

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from coinage.demo.run import MODEL
from coinage.embeddings.saving import save_word
from coinage.embeddings.word import Word, load_word
from coinage.errors import CoinageError
from coinage.ui.files import safe_name, safe_stem
from coinage.ui.site import Site
from tests.ui.sites import client_of, make_site

WIDTH = json.loads((MODEL / "text_encoder" / "config.json").read_text())["hidden_size"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, TestClient]]:
    site = make_site(tmp_path_factory.mktemp("doctor") / "work")
    with client_of(site) as client:
        yield site, client


def embedding(tmp_path: Path, seed: int = 0, name: str = "zibu.safetensors") -> bytes:
    rows = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.02
    path = tmp_path / name
    save_word(Word({"emb_params": rows}, "zibu"), path, to=None, precision="float", overwrite=True)
    return path.read_bytes()


def drop(client: TestClient, data: bytes, name: str) -> Any:
    answer = client.put("/api/files", params={"name": name}, content=data)
    assert answer.status_code == 201, answer.text
    return answer.json()


def post(client: TestClient, file: Any, kind: str, **values: Any) -> Any:
    answer = client.post(f"/api/files/{file['id']}/{kind}", json=values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows_of(client: TestClient, file: Any, tmp_path: Path) -> torch.Tensor:
    path = tmp_path / file["name"]
    path.write_bytes(client.get(f"/api/files/{file['id']}").content)
    return load_word(path).vectors["emb_params"]


def test_a_dropped_file_is_known_at_once_and_can_be_taken_back(
    served: tuple[Site, TestClient], tmp_path: Path
) -> None:
    site, client = served
    data = embedding(tmp_path)
    dropped = drop(client, data, "C:\\Users\\me\\my <word>.SAFETENSORS")
    file = dropped["file"]
    assert (file["name"], file["source"], file["bytes"]) == (
        "my-word.safetensors",
        "dropped",
        len(data),
    )
    assert dropped["about"]["vectors"] == 2
    assert dropped["about"]["file"] == "my-word.safetensors"
    assert [each["id"] for each in client.get("/api/files").json()] == [file["id"]]
    got = client.get(f"/api/files/{file['id']}")
    assert got.content == data
    assert got.headers["content-disposition"] == 'attachment; filename="my-word.safetensors"'
    assert client.delete(f"/api/files/{file['id']}").status_code == 200
    assert client.get(f"/api/files/{file['id']}").status_code == 404
    assert [*site.workspace.trash.rglob("my-word.safetensors")]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/evil", "w"))  # noqa: S108


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("page.pt", b"<html>", "not an embedding: a web page, not an embedding"),
        ("empty.bin", b"", "the file is empty"),
        ("evil.pt", pickle.dumps({"emb_params": Evil()}), ""),
        ("a.png", b"\x89PNG\r\n\x1a\n", ""),
        ("a.html", b"<html>", "this is not the name of an embedding"),
        ("a", b"x", "this is not the name of an embedding"),
    ],
)
def test_a_bad_file_is_refused_and_not_kept(
    served: tuple[Site, TestClient], name: str, data: bytes, what: str
) -> None:
    site, client = served
    answer = client.put("/api/files", params={"name": name}, content=data)
    assert answer.status_code == 400
    (problem,) = answer.json()["problems"]
    assert what in problem["what"]
    assert str(site.workspace.root) not in answer.text
    assert not [*site.workspace.files.rglob(name)]
    assert not Path("/tmp/evil").exists()  # noqa: S108


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("zibu.pt", "zibu.pt"),
        ("../../zibu.pt", "zibu.pt"),
        ("..\\..\\zibu.pt", "zibu.pt"),
        ("con.safetensors", "_con.safetensors"),
        ("LPT1.x.bin", "_LPT1.x.bin"),
        ("...pt", "word.pt"),
        ("a\0b.pt", "a-b.pt"),
        ("名前.pt", "名前.pt"),
        ("a" * 300 + ".png", "a" * 80 + ".png"),
    ],
)
def test_a_name_is_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_names_of_other_things_are_refused() -> None:
    for name in ("zibu.exe", "zibu", "", "zibu.pt.svg", "pt"):
        with pytest.raises(CoinageError, match="not the name of an embedding"):
            safe_name(name)
    assert safe_stem("///") == "word"


def test_a_file_is_converted_rescaled_and_mixed(
    served: tuple[Site, TestClient], tmp_path: Path
) -> None:
    _, client = served
    file = drop(client, embedding(tmp_path), "zibu.safetensors")["file"]
    other = drop(client, embedding(tmp_path, 1), "other.safetensors")["file"]
    before = rows_of(client, file, tmp_path)
    converted = post(client, file, "convert", to="pt", token="mychar")["file"]
    assert converted["name"] == "zibu.pt"
    assert torch.equal(rows_of(client, converted, tmp_path), before)
    scaled = post(client, file, "rescale", factor=2.0, name="loud")["file"]
    assert scaled["name"] == "loud.safetensors"
    assert torch.equal(rows_of(client, scaled, tmp_path), before * 2)
    scaled = post(client, file, "rescale", length=0.5)["file"]
    lengths = rows_of(client, scaled, tmp_path).norm(dim=1)
    assert torch.allclose(lengths, torch.full((2,), 0.5))
    mixed = post(client, file, "mix", **{"with": other["id"], "share": 0.25})["file"]
    assert mixed["name"] == "zibu-other.safetensors"
    expected = 0.75 * before + 0.25 * rows_of(client, other, tmp_path)
    assert torch.allclose(rows_of(client, mixed, tmp_path), expected)


@pytest.mark.slow
def test_a_file_is_verified_on_a_model(served: tuple[Site, TestClient], tmp_path: Path) -> None:
    _, client = served
    file = drop(client, embedding(tmp_path), "zibu.safetensors")["file"]
    assert post(client, file, "rescale", model="demo-sd1")["file"]["bytes"] > 0
    verified = post(client, file, "verify", model="demo-sd1")
    assert {check["tool"]: check["same"] for check in verified["tools"]}["ComfyUI"]
    assert "AUTOMATIC1111: put it into embeddings/; write zibu" in verified["usage"]
    compared = post(client, file, "inspect", model="demo-sd1")
    assert compared["encoders"][0]["rows"][0]["nearest"]


@pytest.mark.parametrize(
    ("kind", "values", "status", "what"),
    [
        ("rescale", {}, 400, "give a factor, a length, or a model"),
        ("rescale", {"length": 1.0, "factor": 2.0}, 400, "give a factor, a length, or a model"),
        ("rescale", {"length": -1.0}, 400, "-1 is out of range"),
        ("convert", {"to": "exe"}, 400, "the request does not fit"),
        ("verify", {"model": "../../etc"}, 404, "there is no such model"),
        ("verify", {}, 400, "the request does not fit"),
        ("mix", {"with": "0" * 16}, 404, "there is no such file"),
        ("execute", {}, 404, "there is no such treatment"),
    ],
)
def test_what_cannot_be_done_is_said(
    served: tuple[Site, TestClient],
    tmp_path: Path,
    kind: str,
    values: dict[str, Any],
    status: int,
    what: str,
) -> None:
    site, client = served
    folder = site.workspace.files / "0123456789ab"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zibu.safetensors").write_bytes(embedding(tmp_path))
    known = set(site.workspace.files.iterdir())
    file = {"id": site.workspace.file_id(folder / "zibu.safetensors")}
    answer = client.post(f"/api/files/{file['id']}/{kind}", json=values)
    assert answer.status_code == status
    assert what in answer.json()["problems"][0]["what"]
    assert set(site.workspace.files.iterdir()) == known


def test_files_of_words_are_downloaded_by_their_words_alone(
    served: tuple[Site, TestClient], tmp_path: Path
) -> None:
    site, client = served
    word = client.post("/api/words", json={"token": "zibu"}).json()["id"]
    output = site.workspace.word(word).output
    output.mkdir()
    path = output / "zibu.safetensors"
    path.write_bytes(embedding(tmp_path))
    file_id = site.workspace.file_id(path)
    assert client.get(f"/api/words/{word}/files/{file_id}").content == path.read_bytes()
    other = client.post("/api/words", json={"token": "other"}).json()["id"]
    assert client.get(f"/api/words/{other}/files/{file_id}").status_code == 404
    refused = client.delete(f"/api/files/{file_id}")
    assert refused.status_code == 409
    link = site.workspace.files / "abcdefabcdef" / "link.pt"
    link.parent.mkdir(parents=True)
    outside = tmp_path / "outside.pt"
    outside.write_bytes(io.BytesIO(b"secret").getvalue())
    link.symlink_to(outside)
    assert client.get(f"/api/files/{site.workspace.file_id(link)}").status_code == 404
