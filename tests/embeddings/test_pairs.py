"""An SDXL word in the two files that diffusers writes: found together, and refused alone."""

import json
import logging
from pathlib import Path

import pytest
import torch

from coinage.cli.main import main
from coinage.config import WordConfig
from coinage.embeddings.install import install_word, log_word_file, misfit, read_vectors
from coinage.embeddings.pairs import open_with_other_half
from coinage.errors import EmbeddingFileError
from tests.embeddings.files import Content, pickle, tensors, vectors
from tests.tiny_models import loaded

L, G = vectors(2, 768), vectors(2, 1280)
SDXL: tuple[tuple[str, ...], tuple[int, ...]] = (("clip_l", "clip_g"), (768, 1280))
SD1: tuple[tuple[str, ...], tuple[int, ...]] = (("emb_params",), (768,))


def word(path: Path, count: int = 2) -> WordConfig:
    return WordConfig(token="zibu", num_vectors=count, init_file=path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("learned_embeds.safetensors", "learned_embeds_2.safetensors"),
        ("learned_embeds.bin", "learned_embeds_2.bin"),
        ("learned_embeds-steps-500.safetensors", "learned_embeds_2-steps-500.safetensors"),
        ("zibu_2.safetensors", "zibu_2_2.safetensors"),
        # Named the other way round: the widths tell
        ("learned_embeds_2.safetensors", "learned_embeds.safetensors"),
    ],
)
def test_either_file_of_a_pair_reads_both(first: str, second: str, tmp_path: Path) -> None:
    write = pickle if first.endswith(".bin") else tensors
    write(tmp_path / first, {"<zibu>": L})
    write(tmp_path / second, {"<zibu>": G})
    for name, other in ((first, second), (second, first)):
        found = open_with_other_half(tmp_path / name)
        assert (found.layout, found.word.family, found.word.token) == ("D2", "sdxl", "<zibu>")
        assert found.notes == (f"read together with {other}, the other half of this SDXL word",)
        given = read_vectors(word(tmp_path / name))
        assert torch.equal(given["clip_l"], L)
        assert torch.equal(given["clip_g"], G)
        assert misfit(given, *SDXL, "x") is None


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"<zibu>": L}, {"<zibu>": L}),  # an SD 1.x word, twice
        ({"<zibu>": L}, {"<other>": G}),
        ({"<zibu>": L}, {"<zibu>": vectors(3, 1280)}),
        ({"<zibu>": L}, {"<zibu>": vectors(2, 1024)}),
        ({"<zibu>": L}, {"clip_g": G}),
        ({"emb_params": L}, {"<zibu>": G}),
        ({"<zibu>": L}, {"a.lora_A.weight": G}),
    ],
)
def test_other_neighbours_are_not_a_pair(one: Content, two: Content, tmp_path: Path) -> None:
    path = tensors(tmp_path / "a.safetensors", one)
    tensors(tmp_path / "a_2.safetensors", two)
    assert open_with_other_half(path).layout != "D2"
    assert torch.equal(read_vectors(word(path))["emb_params"], L)


@pytest.mark.parametrize(
    ("content", "model", "what", "hint"),
    [
        (
            {"<zibu>": L},
            SDXL,
            "vectors for emb_params 768 wide, and the model takes clip_l 768 wide and clip_g 1280 wide",
            "--second",
        ),
        ({"<zibu>": G}, SDXL, "vectors for clip_g 1280 wide, and the model takes", "--second"),
        ({"clip_l": L}, SDXL, "vectors for clip_l 768 wide, and the model takes", "--second"),
        ({"clip_l": L}, SD1, "", ""),
        ({"emb_params": L}, SD1, "", ""),
        (
            {"emb_params": vectors(2, 1024)},
            SDXL,
            "emb_params 1024 wide, and the model takes",
            "made for this kind of model",
        ),
        (
            {"emb_params": vectors(2, 1024)},
            SD1,
            "emb_params 1024 wide, and the model takes emb_params 768 wide",
            "made for this kind",
        ),
        (
            {"clip_l": L, "clip_g": G},
            SD1,
            "clip_l 768 wide and clip_g 1280 wide, and the model takes emb_params",
            "made for this kind",
        ),
        ({"clip_l": L, "clip_g": G}, SDXL, "", ""),
    ],
)
def test_what_fits_a_model(
    content: Content,
    model: tuple[tuple[str, ...], tuple[int, ...]],
    what: str,
    hint: str,
    tmp_path: Path,
) -> None:
    path = tensors(tmp_path / "a.safetensors", content)
    problem = misfit(read_vectors(word(path)), *model, str(path))
    assert bool(problem) == bool(what)
    if problem:
        assert what in problem.what
        assert hint in problem.hint
        assert problem.where == str(path)
    assert misfit({}, *model, "") is None


def test_a_model_takes_a_pair_and_refuses_a_half(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tiny model's text encoders are 32 and 64 wide."""
    keys = ("clip_l", "clip_g")
    path = tensors(tmp_path / "a.safetensors", {"<zibu>": vectors(2, 32)})
    parts = loaded("sdxl", models / "sdxl", models)
    with pytest.raises(
        EmbeddingFileError, match="this file has vectors for emb_params 32 wide"
    ) as caught:
        install_word(parts, word(path), keys)
    assert "--second" in caught.value.problems[0].hint
    with pytest.raises(
        EmbeddingFileError, match="this file has 2 vectors, but --num_vectors_per_token is 1"
    ):
        install_word(parts, word(path, 1), keys)
    tensors(tmp_path / "a_2.safetensors", {"<zibu>": vectors(2, 64)})
    install_word(parts, word(path), keys)
    with caplog.at_level(logging.INFO, logger="coinage"):
        log_word_file(word(path))
    assert [rows.tolist() for rows in parts.rows()] == [
        vectors(2, width).tolist() for width in (32, 64)
    ]
    assert "note: " in caplog.text
    assert "read together with a_2.safetensors" in caplog.text


def test_inspect_and_convert_know_a_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(path: Path) -> dict[str, object]:
        assert main(["inspect", str(path), "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    whole = tensors(tmp_path / "whole.safetensors", {"clip_l": L, "clip_g": G})
    assert (
        main(
            [
                "convert",
                str(whole),
                str(tmp_path / "zibu.safetensors"),
                "--to=diffusers",
                "--token=zibu",
            ]
        )
        == 0
    )
    capsys.readouterr()
    halves = [tmp_path / "zibu.safetensors", tmp_path / "zibu_2.safetensors"]
    for half, other in (halves, halves[::-1]):
        found = told(half)
        assert found["family"] == "sdxl"
        assert any(note.startswith(f"half of a pair: {other.name}") for note in found["notes"])  # type: ignore[attr-defined]
        loads = {tool["tool"] for tool in found["tools"] if tool["loads"]}  # type: ignore[attr-defined]
        assert not loads & {"AUTOMATIC1111", "Forge", "SD.Next"}
    assert main(["convert", str(halves[0]), str(tmp_path / "half.safetensors")]) == 0
    assert "half of a pair" in capsys.readouterr().err
    assert (
        main(
            ["convert", str(halves[0]), str(tmp_path / "both.safetensors"), f"--second={halves[1]}"]
        )
        == 0
    )
    assert "half of" not in capsys.readouterr().err
    halves[1].unlink()
    found = told(halves[0])
    assert found["family"] == "sd1"
    assert any(
        "or the first half of a word for SDXL or FLUX.1, whose other file would be zibu_2" in note
        for note in found["notes"]
    )  # type: ignore[attr-defined]


def test_every_command_knows_a_half(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors(tmp_path / "a.safetensors", {"<zibu>": vectors(1, 32)})
    tensors(tmp_path / "a_2.safetensors", {"<zibu>": vectors(1, 64)})
    one, two = str(tmp_path / "a.safetensors"), str(tmp_path / "a_2.safetensors")
    model, pictures = str(models / "sdxl"), f"--output={tmp_path / 'p'}"
    for half, other in ((one, "a_2"), (two, "a")):
        assert (
            main(
                [
                    "generate",
                    model,
                    "a <zibu>",
                    "--steps=1",
                    "--width=64",
                    "--height=64",
                    pictures,
                    "--embedding",
                    half,
                ]
            )
            == 0
        )
        assert f"read together with {other}.safetensors" in capsys.readouterr().err
        assert main(["verify", half, f"--model={model}"]) == 1
        assert "--second OTHER joins them" in capsys.readouterr().err
        assert main(["inspect", half, f"--model={model}"]) == 0
        told = capsys.readouterr().out
        assert f"half of a pair: {other}.safetensors" in told
        assert "made for another model" not in told
        assert main(["convert", half, str(tmp_path / "out.safetensors"), f"--second={half}"]) == 1
        assert "the second file is the first one again" in capsys.readouterr().err
