"""Words in other files, at other lengths, and mixed."""

import json
import math
from pathlib import Path

import pytest
import torch

from coinage.cli.main import main
from coinage.config import ModelConfig
from coinage.embeddings.convert import Ingredient, merged, rescaled
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.errors import CoinageError, EmbeddingFileError
from coinage.models.vocabulary import read_vocabularies
from tests.embeddings.test_file import vectors

TARGETS = {
    "safetensors": ".safetensors",
    "pt": ".pt",
    "diffusers": ".safetensors",
    "onetrainer": ".safetensors",
}


def word(widths: tuple[int, ...] = (768,), n: int = 2, known: bool = True) -> Word:
    keys = ("emb_params",) if len(widths) == 1 else ("clip_l", "clip_g")
    return Word(
        {key: vectors(n, d) for key, d in zip(keys, widths, strict=True)},
        "zibu" if known else None,
        7,
        {"ti.token_string": "zibu"} if known else {},
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("widths", [(768,), (1024,), (768, 1280)])
def test_every_kind_of_file_comes_back(
    target: str, widths: tuple[int, ...], tmp_path: Path
) -> None:
    name = f"zibu{TARGETS[target]}"
    paths = word(widths).save(tmp_path / name, to=target)
    found = open_embedding(paths[0], second=paths[1] if len(paths) > 1 else None)
    assert found.word.vectors.keys() == word(widths).vectors.keys()
    for key, rows in word(widths).vectors.items():
        assert torch.equal(found.word.vectors[key], rows)
    layouts = {"safetensors": "EX", "pt": "AXpt", "diffusers": "D2", "onetrainer": "OTX"}
    assert found.layout in layouts[target]
    before = [path.read_bytes() for path in paths]
    again = found.word.save(tmp_path / "again" / name, to=target)
    assert [path.read_bytes() for path in again] == before


def run(*words: object) -> int:
    return main(["convert", *map(str, words)])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "zibu.pt", tmp_path / "other.safetensors"
    write(source, word(), "fp16")
    assert run(source, out) == 0
    found = open_embedding(out)
    assert (found.layout, found.dtype) == ("E", torch.float16), "the number format is kept"
    assert torch.equal(found.word.vectors["emb_params"], vectors(2, 768))
    assert run(source, out) == 1
    assert "the file already exists" in capsys.readouterr().err
    assert run(source, out, "--force", "--save_precision=float") == 0
    assert open_embedding(out).dtype == torch.float32
    header = read(out).metadata
    assert (header["ti.token_string"], header["ti.step"], header["modelspec.trigger_phrase"]) == (
        "zibu",
        "7",
        "other",
    )
    back = tmp_path / "back" / "zibu.pt"
    assert run(out, back) == 0
    assert read(back).step == 7


def test_a_header_tells_the_new_name(tmp_path: Path) -> None:
    write(tmp_path / "zibu.safetensors", word())
    assert run(tmp_path / "zibu.safetensors", tmp_path / "mine.safetensors", "--token=mine") == 0
    header = read(tmp_path / "mine.safetensors").metadata
    assert (header["ti.token_string"], header["modelspec.trigger_phrase"]) == ("mine", "mine")
    assert "modelspec.usage_hint" not in header
    assert run(tmp_path / "zibu.safetensors", tmp_path / "other.safetensors") == 0
    assert "write other" in read(tmp_path / "other.safetensors").metadata["modelspec.usage_hint"]


def test_to_diffusers_needs_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "x.safetensors", word(known=False))
    assert run(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--to=diffusers") == 1
    assert "--token mychar" in capsys.readouterr().err
    assert (
        run(
            tmp_path / "x.safetensors",
            tmp_path / "y.safetensors",
            "--to=diffusers",
            "--token=<zibu>",
        )
        == 0
    )
    assert read(tmp_path / "y.safetensors").token == "<zibu>"


def test_rescaled_to_a_length_and_to_the_models_words(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "x.safetensors", word((32,)))
    assert run(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--rescale=0.4") == 0
    assert read(tmp_path / "y.safetensors").vectors["emb_params"].norm(
        dim=1
    ).tolist() == pytest.approx([0.4, 0.4])
    assert (
        run(
            tmp_path / "x.safetensors",
            tmp_path / "z.safetensors",
            "--rescale=vocab",
            f"--model={models / 'sd1'}",
        )
        == 0
    )
    middle = float(
        read_vocabularies(ModelConfig(source=str(models / "sd1")))["emb_params"].norms.median()
    )
    assert read(tmp_path / "z.safetensors").vectors["emb_params"].norm(
        dim=1
    ).tolist() == pytest.approx([middle] * 2)
    for wrong in (["--rescale=loud"], ["--rescale=-1"], ["--rescale=vocab"]):
        assert run(tmp_path / "x.safetensors", tmp_path / "w.safetensors", *wrong) == 2
    assert (
        run(
            tmp_path / "x.safetensors",
            tmp_path / "w.safetensors",
            "--rescale=vocab",
            f"--model={models / 'sdxl'}",
        )
        == 1
    )
    assert "the word is for emb_params" in capsys.readouterr().err
    assert not (tmp_path / "w.safetensors").exists()


def test_rescaling_keeps_directions_and_zeros() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = rescaled(Word({"emb_params": rows}), {"emb_params": 10}).vectors["emb_params"]
    assert torch.allclose(found, torch.tensor([[6.0, 8.0], [0.0, 0.0]]))


def test_merging_is_the_weighted_sum(tmp_path: Path) -> None:
    a, b = word(), Word({"emb_params": torch.ones(2, 768)}, "other")
    write(tmp_path / "a.safetensors", a)
    write(tmp_path / "b.pt", b)
    given = (f"{tmp_path / 'a.safetensors'}:0.6", f"{tmp_path / 'b.pt'}:0.4")
    assert run(tmp_path / "one.safetensors", "--merge", *given) == 0
    assert run("--merge", *given, tmp_path / "two.safetensors") == 0
    for name in ("one", "two"):
        found = read(tmp_path / f"{name}.safetensors")
        torch.testing.assert_close(found.vectors["emb_params"], 0.6 * vectors(2, 768) + 0.4)
        assert found.metadata["modelspec.merged_from"] == "a.safetensors:0.6, b.pt:0.4"


def test_slerp_turns_evenly() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    files = [
        Ingredient("a", Word({"emb_params": a}), 0.75),
        Ingredient("b", Word({"emb_params": b}), 0.25),
    ]
    found = merged(files, slerp=True).vectors["emb_params"]
    angle = math.pi / 8
    expected = torch.tensor([[1.5 * math.cos(angle), 1.5 * math.sin(angle)], [1.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_what_cannot_be_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [Ingredient("a", word(n=2), 0.5), Ingredient("b", word(n=3), 0.5)]
    with pytest.raises(EmbeddingFileError, match="a: emb_params 2x768; b: emb_params 3x768"):
        merged(files)
    with pytest.raises(EmbeddingFileError, match="--slerp is for two files"):
        merged([Ingredient("a", word(), 1.0)] * 3, slerp=True)
    assert run(tmp_path / "o.safetensors", "--merge", "a.safetensors") == 2
    assert run("--merge", "a.safetensors:1", "b.safetensors:1") == 2
    assert run(tmp_path / "o.safetensors", "--merge", "a.safetensors:x") == 2
    assert run("only.pt") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_webui_file_keeps_all_that_it_tells(tmp_path: Path) -> None:
    known = Word(
        {"emb_params": vectors(2, 768)},
        "zibu",
        7,
        {"ss_sd_model_hash": "abcd1234", "ss_sd_model_name": "model"},
    )
    write(tmp_path / "zibu.pt", known)
    write(tmp_path / "again" / "zibu.pt", read(tmp_path / "zibu.pt"))
    assert (tmp_path / "again" / "zibu.pt").read_bytes() == (tmp_path / "zibu.pt").read_bytes()
    assert read(tmp_path / "zibu.pt").metadata == known.metadata


def test_no_file_is_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a_2.safetensors", word((768, 1280)))
    before = (tmp_path / "a_2.safetensors").read_bytes()
    for more in ([], ["--force"]):
        assert (
            run(
                tmp_path / "a_2.safetensors",
                tmp_path / "a.safetensors",
                "--to=diffusers",
                "--token=zibu",
                *more,
            )
            == 1
        )
        assert "this would overwrite the file that is read" in capsys.readouterr().err
    assert (tmp_path / "a_2.safetensors").read_bytes() == before
    assert not (tmp_path / "a.safetensors").exists()


def test_files_of_one_name_are_compared_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, n in (("one", 1), ("three", 3)):
        write(tmp_path / folder / "w.safetensors", word(n=n))
    given = [f"{tmp_path / folder / 'w.safetensors'}:0.5" for folder in ("one", "three")]
    assert run(tmp_path / "o.safetensors", "--merge", *given) == 1
    assert (
        "w.safetensors: emb_params 1x768; w.safetensors: emb_params 3x768"
        in capsys.readouterr().err
    )
    assert run(tmp_path / "o.safetensors", "--merge", *given, "--second=x") == 2


def test_slerp_needs_a_way() -> None:
    file, other = word(), Word({"emb_params": -vectors(2, 768)})
    with pytest.raises(EmbeddingFileError, match="opposite directions"):
        merged([Ingredient("a", file, 0.5), Ingredient("b", other, 0.5)], slerp=True)
    with pytest.raises(EmbeddingFileError, match="weights of 0 or more"):
        merged([Ingredient("a", file, 1), Ingredient("b", file, -1)], slerp=True)


def test_endings_in_capitals_and_lone_halves(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", Word({"clip_l": vectors(2, 768)}))
    assert run(tmp_path / "a.safetensors", tmp_path / "B.SAFETENSORS") == 0
    found = open_embedding(tmp_path / "B.SAFETENSORS")
    assert (found.layout, found.word.family) == ("E", "sd1")


@pytest.mark.parametrize(
    ("name", "more"),
    [("x.txt", []), ("x", []), ("x.pt", ["--to=onetrainer"]), ("x.safetensors", ["--to=pt"])],
)
def test_the_ending_must_fit(
    name: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.safetensors", word())
    assert run(tmp_path / "a.safetensors", tmp_path / name, *more) == 1
    assert "end it with" in capsys.readouterr().err


def test_numbers_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    huge = Word({"emb_params": torch.full((1, 768), 1e6)})
    with pytest.raises(CoinageError, match="not finite in fp16"):
        huge.save(tmp_path / "x.safetensors", precision="fp16")
    assert json.dumps([str(path) for path in tmp_path.iterdir()]) == "[]"
