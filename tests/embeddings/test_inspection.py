"""What is told about an embedding file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coinage.cli.main import main
from coinage.config import ModelConfig
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.models.vocabulary import Vocabulary, read_vocabularies


@pytest.fixture
def words(models: Path) -> Vocabulary:
    return read_vocabularies(ModelConfig(source=str(models / "sd1")))["emb_params"]


def row_of(words: Vocabulary, word: str) -> torch.Tensor:
    return words.table[words.tokenizer.get_vocab()[f"{word}</w>"]]


def told(capsys: pytest.CaptureFixture[str], *given: object) -> dict[str, Any]:
    assert main(["inspect", *map(str, given), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_vectors_are_compared_with_the_models_words(
    models: Path, tmp_path: Path, words: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    red, circle = row_of(words, "red"), row_of(words, "circle")
    middle = float(words.norms.median())
    turned = torch.nn.functional.normalize(red + circle, dim=0) * middle
    rows = torch.stack([red, turned, 20 * turned, 0.1 * turned])
    write(
        tmp_path / "zibu.safetensors",
        Word({"emb_params": rows}, "zibu", 3, {"ti.init_word": "red", "ti.token_string": "zibu"}),
    )
    found = told(capsys, tmp_path / "zibu.safetensors", "--model", models / "sd1")
    (encoder,) = found["encoders"]
    assert [row["ratio"] for row in encoder["rows"]] == pytest.approx(
        [float(red.norm()) / middle, 1, 20, 0.1], rel=1e-4
    )
    assert encoder["rows"][0]["nearest"][0] == {"word": "red", "cosine": pytest.approx(1)}
    degrees = float(torch.cosine_similarity(red, turned, dim=0).acos().rad2deg())
    assert [row["degrees_from_init_word"] for row in encoder["rows"]] == pytest.approx(
        [0, degrees, degrees, degrees], abs=0.1
    )
    assert [text.split(": ")[0] for text in found["warnings"]] == [
        f"emb_params, vector {i}" for i in (1, 3, 4)
    ]
    for text, due in zip(
        found["warnings"],
        ("is the word 'red' itself", "20 times as long", "little effect"),
        strict=True,
    ):
        assert due in text
    assert (found["layout"]["id"], found["family"], found["vectors"], found["token"]) == (
        "E",
        "sd1",
        4,
        "zibu",
    )
    assert {tool["tool"] for tool in found["tools"] if tool["loads"]} >= {
        "AUTOMATIC1111",
        "ComfyUI",
        "diffusers",
    }


def test_a_file_of_another_model_is_told(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "x.pt", Word({"emb_params": torch.ones(1, 768)}))
    found = told(capsys, tmp_path / "x.pt", "--model", models / "sd1")
    assert "768 wide, and the model's vectors are 32 wide" in found["warnings"][0]
    alone = told(capsys, tmp_path / "x.pt")
    assert (alone["family"], alone["warnings"], "nearest" in alone["encoders"][0]["rows"][0]) == (
        "sd1",
        [],
        False,
    )
    assert alone["encoders"][0]["rows"][0]["norm"] == pytest.approx(768**0.5)


def test_a_changed_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.safetensors"
    write(path, Word({"emb_params": torch.ones(1, 768)}))
    hashes = told(capsys, path)["hash"]
    assert hashes["stored"] == f"0x{hashes['tensors']}"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    found = told(capsys, path)
    assert "it was changed, or is damaged" in found["warnings"][0]
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "NOT what its header says" in shown
    assert not [line for line in shown.splitlines() if line != line.rstrip()], (
        "a table ends where its text does"
    )


def test_the_page_for_people(
    models: Path, tmp_path: Path, words: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = torch.stack([row_of(words, "red")] * 10) * torch.linspace(0.9, 1.1, 10).unsqueeze(1)
    write(
        tmp_path / "my[b]word.safetensors",
        Word({"emb_params": rows}, "zibu", 3, {"note": "x" * 500, "[red]": "y"}),
    )
    assert (
        main(["inspect", str(tmp_path / "my[b]word.safetensors"), "--model", str(models / "sd1")])
        == 0
    )
    out = capsys.readouterr().out
    for part in (
        "my[b]word.safetensors",
        "10 vectors",
        "format: sd-scripts (emb_params), float32",
        "typical vector length in this model",
        "nearest words",
        "red 1.00",
        "... 2 more",
        "AutoV3",
        "ComfyUI",
        "[red]: y",
    ):
        assert part in out
    assert "x" * 201 not in out


@pytest.mark.parametrize("name", ["none.pt", "text.safetensors", "folder"])
def test_what_is_no_embedding(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.safetensors").write_text("no embedding")
    (tmp_path / "folder").mkdir()
    assert main(["inspect", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "x.pt", Word({"emb_params": torch.ones(1, 768)}))
    assert main(["inspect", str(tmp_path / "x.pt"), "--model", str(tmp_path)]) == 1
    assert "no table of token embeddings" in capsys.readouterr().err


def test_names_with_brackets_and_other_families(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path / "a [x](y).safetensors",
        Word({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, "[/foo]"),
    )
    assert main(["inspect", str(tmp_path / "a [x](y).safetensors")]) == 0
    out = capsys.readouterr().out
    assert r"a \[x\]\(y\)" in out
    assert "Rename the file" in out
    found = told(capsys, tmp_path / "a [x](y).safetensors", "--model", models / "sd1")
    assert found["family"] == "sdxl"
    assert "the file has clip_l, clip_g, and the model takes emb_params" in found["warnings"][0]
    assert not {tool["tool"] for tool in found["tools"] if tool["loads"]} & {
        "AUTOMATIC1111",
        "Forge",
    }


def test_a_lone_half_of_sdxl_works_nowhere_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "g.safetensors", Word({"clip_g": torch.ones(1, 1280)}))
    found = told(capsys, tmp_path / "g.safetensors")
    assert not {tool["tool"] for tool in found["tools"] if tool["loads"]} & {
        "AUTOMATIC1111",
        "Forge",
        "SD.Next",
    }
