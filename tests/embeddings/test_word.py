"""`coinage.load_word` and `Word`: what a person does with a learned word in Python."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from coinage.cli.main import main
from coinage.embeddings.format_names import FORMAT_NAMES, FormatName
from coinage.embeddings.formats import FORMATS, WRITERS
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word, load_word
from coinage.embeddings.writing import write
from coinage.errors import CoinageError, EmbeddingFileError
from tests.embeddings.files import tensors, vectors
from tests.embeddings.layouts import ONE, write_layout
from tests.embeddings.layouts import PAIR as PAIR_LAYOUTS

HEADER = {"ti.token_string": "zibu", "ti.step": "7", "modelspec.trigger_phrase": "zibu"}


def sd1_word(count: int = 2) -> Word:
    return Word({"emb_params": vectors(count, 768)}, "zibu", 7, HEADER)


def sdxl_word() -> Word:
    return Word({"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}, "zibu", 7)


def same_vectors(a: Word, b: Word) -> bool:
    return a.vectors.keys() == b.vectors.keys() and all(
        torch.equal(rows, b.vectors[key]) for key, rows in a.vectors.items()
    )


def test_what_a_word_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "zibu.safetensors"
    assert sd1_word().save(path) == [path]
    word = load_word(str(path))
    assert (word.token, word.num_vectors, word.step, word.family) == ("zibu", 2, 7, "sd1")
    assert word.path == path
    assert word.metadata["modelspec.trigger_phrase"] == "zibu"
    assert repr(word) == f"Word('zibu', [emb_params 2x768], step 7, sd1, {str(path)!r})"
    assert repr(Word({"emb_params": vectors(1, 5)})) == "Word(None, [emb_params 1x5], step 0)"
    assert sdxl_word().family == "sdxl"
    with pytest.raises(dataclasses.FrozenInstanceError):
        word.token = "other"  # type: ignore[misc]
    assert word != load_word(path), "words are compared by identity: tensors have no one answer"


@pytest.mark.parametrize("layout", [*ONE, *PAIR_LAYOUTS])
def test_every_layout_is_loaded(layout: str, tmp_path: Path) -> None:
    widths = (768, 1280) if layout in PAIR_LAYOUTS else (768,)
    path = write_layout(tmp_path, layout, widths)
    word = Word.load(path)
    count = 1 if layout == "D, 1-D" else 2
    for rows, width in zip(word.vectors.values(), widths, strict=True):
        assert torch.equal(rows, vectors(count, width))
    assert word.path == path
    assert Word.load(path, "mine").token == "mine"


def test_a_file_without_a_word_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"<html>")
    with pytest.raises(EmbeddingFileError, match="a web page"):
        load_word(tmp_path / "a.pt")
    with pytest.raises(EmbeddingFileError, match=r"none\.pt"):
        load_word(tmp_path / "none.pt")


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
@pytest.mark.parametrize("made", [sd1_word, sdxl_word])
def test_saving_gives_what_the_command_gives(
    name: FormatName, precision: Any, made: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source" / "zibu.safetensors"
    write(source, made())
    suffix = WRITERS[name].suffixes[0]
    by_command = tmp_path / "command" / f"other{suffix}"
    given = [
        "convert",
        source,
        by_command,
        "--to",
        name,
        "--token=zibu",
        "--save_precision",
        precision,
    ]
    assert main([*map(str, given)]) == 0
    written = load_word(source, "zibu").save(
        tmp_path / "python" / f"other{suffix}", to=name, precision=precision
    )
    assert {path.name for path in written} == {path.name for path in by_command.parent.iterdir()}
    for path in written:
        assert path.read_bytes() == (by_command.parent / path.name).read_bytes()
    assert same_vectors(Word.load(written[0]), made())


def test_the_suffix_chooses_the_format(tmp_path: Path) -> None:
    for name, layout in (("a.safetensors", "E"), ("a.pt", "A"), ("a.ckpt", "A"), ("a.bin", "A")):
        (path,) = sd1_word().save(tmp_path / name)
        assert open_embedding(path).layout == layout
    with pytest.raises(CoinageError, match="cannot tell the format"):
        sd1_word().save(tmp_path / "a.txt")
    unknown: Any = "tiff"
    with pytest.raises(CoinageError, match="'tiff' is not a format"):
        sd1_word().save(tmp_path / "a.pt", to=unknown)
    unnamed = dataclasses.replace(sd1_word(), token=None)
    with pytest.raises(CoinageError, match="does not name it"):
        unnamed.save(tmp_path / "a.safetensors", to="diffusers")


def test_a_file_is_replaced_unless_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zibu.safetensors"
    sd1_word().save(path)
    with pytest.raises(CoinageError, match="already exists"):
        sd1_word(3).save(path, overwrite=False)
    assert load_word(path).num_vectors == 2
    sd1_word(3).save(path)
    assert load_word(path).num_vectors == 3


def test_two_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "zibu.safetensors"
    path.write_bytes(b"before")
    (tmp_path / "zibu_2.safetensors").mkdir()
    with pytest.raises(CoinageError, match="zibu_2"):
        sdxl_word().save(path, to="diffusers")
    assert path.read_bytes() == b"before"
    path.unlink()
    with pytest.raises(CoinageError, match="zibu_2"):
        sdxl_word().save(path, to="diffusers")
    assert not path.exists()


def test_the_word_of_two_files_is_loaded_from_either(tmp_path: Path) -> None:
    first, second = sdxl_word().save(tmp_path / "zibu.safetensors", to="diffusers")
    assert second.name == "zibu_2.safetensors"
    for path in (first, second):
        word = load_word(path)
        assert same_vectors(word, sdxl_word())
        assert (word.path, word.token) == (path, "zibu")
        assert word.inspect()["layout"]["id"] == "D2"


def test_a_header_gets_the_new_name_and_keeps_the_rest(tmp_path: Path) -> None:
    word = dataclasses.replace(sd1_word(), metadata={**HEADER, "note": "x"})
    (path,) = word.save(tmp_path / "other.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["note"] == "x"
    assert header["modelspec.trigger_phrase"] == "other"
    assert header["modelspec.usage_hint"].startswith("write other")
    again = tmp_path / "again" / "other.safetensors"
    load_word(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_inspecting_gives_what_the_command_prints(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tensors(tmp_path / "zibu.safetensors", {"emb_params": vectors(2, 32)}, **HEADER)
    model = models / "sd1"
    assert main(["inspect", str(path), "--model", str(model), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(json.dumps(load_word(path).inspect(model))) == printed


def test_a_word_that_is_in_no_file_is_inspected_too(tmp_path: Path) -> None:
    inspected = sd1_word().inspect()
    assert (inspected["file"], inspected["token"], inspected["vectors"]) == (None, "zibu", 2)
    written = {tool["tool"]: tool["write"] for tool in inspected["tools"]}
    assert written["ComfyUI"] == "embedding:zibu"
    odd = dataclasses.replace(sd1_word(), token="../zibu")
    assert odd.inspect()["token"] == "../zibu"
    # Nor is one whose file holds something else by now
    path = tmp_path / "zibu.safetensors"
    sd1_word().save(path)
    word = load_word(path)
    sd1_word(5).save(path)
    assert (word.inspect()["vectors"], word.inspect()["file"]) == (2, None)
    path.unlink()
    assert word.inspect()["vectors"] == 2
    assert load_word(write_layout(tmp_path, "A", (768,)), "mine").inspect()["token"] == "mine"


def test_the_table_of_formats_is_whole() -> None:
    assert {*WRITERS} == {*FORMAT_NAMES}
    layouts = [layout for row in FORMATS for layout in row.layouts]
    assert len(layouts) == len({*layouts})


def test_a_words_vectors_stay_as_they_are(tmp_path: Path) -> None:
    word = sd1_word()
    before = word.vectors["emb_params"].clone()
    word.save(tmp_path / "a.pt", precision="bf16")
    word.inspect()
    assert torch.equal(word.vectors["emb_params"], before)
    assert read(tmp_path / "a.pt").vectors["emb_params"].dtype == torch.float32
