"""Words for FLUX.1: who loads them, files for each program, and diffusers' own calls."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from coinage.cli.main import main
from coinage.embeddings.in_diffusers import conditioning_in_diffusers
from coinage.embeddings.reading import open_file
from coinage.embeddings.tools import verdicts
from coinage.embeddings.verify import prompt_for, usage, verify
from coinage.embeddings.word import Word
from coinage.models.facts import FLUX
from coinage.models.families import FAMILIES, Components
from tests.tiny_models import loaded

FAMILY = FAMILIES["flux"]
WIDTHS = {"clip_l": 768, "t5xxl": 4096, "t5": 4096}


def rows(*keys: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn(2, WIDTHS[key]) for key in keys}


def written(path: Path, tensors: dict[str, Tensor], **header: str) -> Path:
    safetensors.torch.save_file(tensors, path, header or None)
    return path


@pytest.mark.parametrize("name", ["t5", "t5xxl"])
def test_both_names_are_read(name: str, tmp_path: Path) -> None:
    tensors = rows("clip_l", name)
    opened = open_file(written(tmp_path / "a.safetensors", tensors))
    assert opened.layout == ("OT" if name == "t5" else "S3")
    assert opened.word.family == "flux"
    assert torch.equal(opened.word.vectors["t5xxl"], tensors[name])


def test_a_file_for_onetrainer_has_its_name_and_comes_back(tmp_path: Path) -> None:
    tensors = rows("clip_l", "t5xxl")
    file = written(tmp_path / "a.safetensors", tensors)
    theirs, back = tmp_path / "theirs.safetensors", tmp_path / "back.safetensors"
    assert main(["convert", str(file), str(theirs), "--to", "onetrainer"]) == 0
    assert sorted(safetensors.torch.load_file(theirs)) == ["clip_l", "t5"]
    assert main(["convert", str(theirs), str(back)]) == 0
    again = safetensors.torch.load_file(back)
    assert sorted(again) == ["clip_l", "t5xxl"]
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_converting_is_what_swarmui_needs(tmp_path: Path) -> None:
    """A file without a header, as OneTrainer writes it, does not show its family there."""
    theirs = written(tmp_path / "theirs.safetensors", rows("clip_l", "t5"))
    ours = tmp_path / "ours.safetensors"
    told = []
    for file in (theirs, ours):
        if file is ours:
            assert main(["convert", str(theirs), str(ours)]) == 0
        found = {one.tool: one for one in verdicts(file, "flux", FLUX.widths)}
        told.append("listed without a family" in found["SwarmUI"].why)
    assert told == [True, False]
    assert Word.load(ours).metadata["modelspec.architecture"] == "flux-1/textual-inversion"


def test_diffusers_has_a_file_for_each_half_and_they_come_back(tmp_path: Path) -> None:
    word = Word(rows("clip_l", "t5xxl"), "zibu")
    paths = word.save(tmp_path / "zibu.safetensors", to="diffusers")
    assert [path.name for path in paths] == ["zibu.safetensors", "zibu_2.safetensors"]
    for path, tensor in zip(paths, word.vectors.values(), strict=True):
        held = safetensors.torch.load_file(path)
        assert list(held) == ["zibu"]
        assert torch.equal(held["zibu"], tensor)
    for path in paths:
        again = Word.load(path)
        assert (again.family, again.token) == ("flux", "zibu")
        assert all(torch.equal(again.vectors[key], word.vectors[key]) for key in word.vectors)
    found = Word.load(paths[0]).inspect()
    assert found["family"] == "flux"
    joined = tmp_path / "joined.safetensors"
    second = ["--second", str(paths[0])]  # their widths say which is which
    assert main(["convert", str(paths[1]), str(joined), *second]) == 0
    assert sorted(safetensors.torch.load_file(joined)) == ["clip_l", "t5xxl"]


def test_a_second_half_alone_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "zibu_2.safetensors", {"zibu": rows("t5xxl")["t5xxl"]})
    assert main(["inspect", str(file)]) == 0
    told = capsys.readouterr().out
    assert "FLUX.1" in told
    assert "only the second half of a word for FLUX.1" in told


def test_who_loads_what(tmp_path: Path) -> None:
    whole = ("clip_l", "t5xxl")
    loads: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
        whole: dict.fromkeys(("ComfyUI", "diffusers", "SwarmUI"), whole),
        ("clip_l", "t5"): {
            "ComfyUI": ("clip_l",), "SwarmUI": ("clip_l",), "OneTrainer": whole
        },
        ("clip_l",): {
            "Forge": ("clip_l",), "ComfyUI": ("clip_l",), "SwarmUI": ("clip_l",),
            "diffusers": ("clip_l",),
        },
    }  # fmt: skip
    for number, (keys, wanted) in enumerate(loads.items()):
        file = written(tmp_path / f"{number}.safetensors", rows(*keys))
        found = {one.tool: one for one in verdicts(file, "flux", FLUX.widths)}
        assert {tool: tuple(one.vectors) for tool, one in found.items() if one.loads} == wanted
    whys = {one.tool: one.why for one in verdicts(tmp_path / "0.safetensors", "flux", FLUX.widths)}
    assert whys["Forge"] == "It takes words for CLIP alone, from files with one tensor."
    assert whys["SD.Next"] == "It loads words for 1.x, 2.x and SDXL alone."
    (pt,) = Word({"emb_params": rows("clip_l")["clip_l"]}, "zibu").save(tmp_path / "zibu.pt")
    found = {one.tool: one for one in verdicts(pt, "flux", FLUX.widths)}
    assert tuple(found["Forge"].vectors) == ("clip_l",)
    alone = {one.tool: one for one in verdicts(file, "flux", FLUX.widths)}
    assert "leaves out the vectors for T5" in alone["Forge"].why


def test_the_header_tells_a_half_from_a_word_of_another_family(tmp_path: Path) -> None:
    name = "flux-1/textual-inversion"
    file = written(tmp_path / "a.safetensors", rows("clip_l"), **{"modelspec.architecture": name})
    assert Word.load(file).family == "flux"


@pytest.fixture(params=[1, 3])
def word(request: pytest.FixtureRequest, flux: Path, tmp_path: Path) -> tuple[Word, Components]:
    """A learned word of so many vectors, and the model."""
    torch.manual_seed(1)
    parts = loaded("flux", flux, tmp_path)
    parts.install([], [])
    vectors = {
        key: torch.randn(request.param, encoder.config.hidden_size)
        for key, encoder in zip(parts.keys, parts.text_encoders, strict=True)
    }
    return Word(vectors, "zibu"), parts


def test_a_pipeline_conditions_as_we_do(word: tuple[Word, Components], tmp_path: Path) -> None:
    learned, parts = word
    (path,) = learned.save(tmp_path / "zibu.safetensors")
    checks = {check.tool: check for check in verify(path, FAMILY, parts, learned, "zibu")}
    assert {tool for tool, check in checks.items() if check.same} == {
        "ComfyUI", "diffusers", "SwarmUI"
    }  # fmt: skip
    assert not any(check.untried for check in checks.values())


def test_the_calls_that_are_printed_load_it_in_the_stock_pipeline(
    word: tuple[Word, Components], flux: Path, tmp_path: Path
) -> None:
    from diffusers import FluxPipeline

    learned, parts = word
    (path,) = learned.save(tmp_path / "zibu.safetensors")
    prompt = prompt_for("zibu", learned.num_vectors)
    ours = conditioning_in_diffusers(path, FAMILY, parts, "zibu", prompt)
    lines = usage(path, "flux", verify(path, FAMILY, parts, learned, "zibu"), "zibu")
    calls = "\n".join(line.strip() for line in lines[lines.index("diffusers:") + 1 :])
    pipe: Any = FluxPipeline.from_pretrained(flux)
    pipe.text_encoder.eos_token_id = 2  # as the released model's settings have it
    scope = {"safetensors": safetensors, "torch": torch, "pipe": pipe}
    exec(calls, scope)  # noqa: S102 - the lines are ours
    with torch.no_grad():
        states, pooled, _ = pipe.encode_prompt(prompt, None)
        vectors = list(learned.vectors.values())
        with parts.with_words([("zibu", learned.num_vectors)], vectors):
            trained = FAMILY.encode(parts, [prompt], torch.zeros(1, 6))
    assert trained.pooled is not None
    assert ours.pooled is not None
    for found in (states, ours.encoder_hidden_states):
        torch.testing.assert_close(found, trained.encoder_hidden_states, atol=1e-5, rtol=0)
    for found in (pooled, ours.pooled):
        torch.testing.assert_close(found, trained.pooled, atol=1e-5, rtol=0)


def test_the_split_halves_load_in_the_stock_pipeline(
    word: tuple[Word, Components], flux: Path, tmp_path: Path
) -> None:
    from diffusers import FluxPipeline

    learned, parts = word
    first, second = learned.save(tmp_path / "zibu.safetensors", to="diffusers")
    pipe: Any = FluxPipeline.from_pretrained(flux)
    pipe.load_textual_inversion(str(first))
    pipe.load_textual_inversion(
        str(second), text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )
    prompt = "a zibu on red"
    vectors = list(learned.vectors.values())
    with torch.no_grad(), parts.with_words([("zibu", learned.num_vectors)], vectors):
        trained = FAMILY.encode(parts, [prompt], torch.zeros(1, 6))
        states, pooled, _ = pipe.encode_prompt(prompt, None)
    assert trained.pooled is not None
    torch.testing.assert_close(states, trained.encoder_hidden_states, atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, trained.pooled, atol=1e-5, rtol=0)
