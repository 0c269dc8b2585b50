"""LoRAs with words in them: written, read, taken apart, and as other programs read them."""

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from coinage.cli.main import main
from coinage.config import ModelConfig, WordConfig
from coinage.embeddings.install import read_vectors
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.reading import MOST_BYTES, read_contents, words_in_lora
from coinage.embeddings.tools import Verdict, verdicts
from coinage.embeddings.verify import verify_file
from coinage.embeddings.word import Word, load_word
from coinage.embeddings.writing import write
from coinage.errors import EmbeddingFileError
from tests.embeddings.files import tensors
from tests.embeddings.test_file import vectors

DOWN, UP = "lora_unet_mid.lora_down.weight", "lora_unet_mid.lora_up.weight"
LORA = {
    DOWN: vectors(3, 5).half(),  # 30 bytes: what follows in file order would not be aligned
    UP: vectors(5, 3).to(torch.float8_e4m3fn),
    "lora_unet_mid.alpha": torch.tensor(2.0),
}
PAIR = {"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}
METADATA = {
    "ss_network_dim": "3",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_tag_frequency": "{}",
}


def lora(path: Path, more: dict[str, Tensor] | None = None, **metadata: str) -> Path:
    return tensors(path, LORA | (more or {}), **metadata)


def word(path: Path, rows: dict[str, Tensor], name: str | None = "zibu") -> Path:
    write(path, Word(rows, name, 7, {"ti.token_string": name} if name else {}))
    return path


def convert(*argv: object) -> int:
    return main(["convert", *map(str, argv)])


def stored(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Dtype, shape and bytes of each tensor, and that the library reads the file."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            file.get_tensor(name)
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = data[8 + size :]
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def body_sha256(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0] :]).hexdigest()


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ({"emb_params": vectors(2, 768)}, ["string_to_param.*"]),
        ({"emb_params": vectors(1, 1024)}, ["string_to_param.*"]),
        ({"clip_l": vectors(2, 768)}, ["string_to_param.*"]),
        (PAIR, ["clip_g", "clip_l"]),
    ],
)
@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_there_and_back_bit_for_bit(
    rows: dict[str, Tensor], names: list[str], precision: str, tmp_path: Path
) -> None:
    source = lora(tmp_path / "lora.safetensors", ss_network_dim="3")
    write(tmp_path / "zibu.safetensors", Word(rows, "zibu"), precision)
    out = tmp_path / "both.safetensors"
    assert convert(tmp_path / "zibu.safetensors", out, "--bundle", source) == 0
    found, before = stored(out), stored(source)
    assert {name: found.pop(name) for name in before} == before
    assert sorted(found) == [f"bundle_emb.zibu.{name}" for name in names]
    assert metadata_of(out) == {"ss_network_dim": "3"}
    assert convert(out, tmp_path / "parts", "--unbundle") == 0
    assert stored(tmp_path / "parts" / "both.safetensors") == before
    assert metadata_of(tmp_path / "parts" / "both.safetensors") == {"ss_network_dim": "3"}
    back = open_embedding(tmp_path / "parts" / "zibu.safetensors")
    given = open_embedding(tmp_path / "zibu.safetensors")
    assert (back.dtype, back.word.token) == (given.dtype, "zibu")
    for old, new in zip(given.word.vectors.values(), back.word.vectors.values(), strict=True):
        assert torch.equal(old, new)


def test_several_words_and_a_bundle_over_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lora(tmp_path / "lora.safetensors")
    one = word(tmp_path / "one.safetensors", {"emb_params": vectors(1, 768)}, "one")
    two = word(tmp_path / "two.pt", {"emb_params": vectors(2, 768)}, None)
    first = tmp_path / "first.safetensors"
    assert convert(one, two, first, "--bundle", source) == 0
    told = capsys.readouterr().err
    assert "words in it: one, two" in told
    assert "ComfyUI takes them all for one word" in told
    assert sorted(words_in_lora(first)) == ["one", "two"]
    new = word(tmp_path / "new.safetensors", {"emb_params": 2 * vectors(3, 768)}, "one")
    second = tmp_path / "second.safetensors"
    assert convert(new, second, "--bundle", first) == 1
    assert "it has a word 'one' already" in capsys.readouterr().err
    assert not second.exists()
    assert convert(new, second, "--bundle", first, "--force") == 0
    assert torch.equal(load_word(second, "one").vectors["emb_params"], 2 * vectors(3, 768))
    assert torch.equal(load_word(second, "two").vectors["emb_params"], vectors(2, 768))
    third = tmp_path / "third.safetensors"
    assert convert(new, third, "--bundle", first, "--token=three") == 0
    assert sorted(words_in_lora(third)) == ["one", "three", "two"]


def test_what_replaces_a_word_replaces_all_of_it(tmp_path: Path) -> None:
    old = {"bundle_emb.zibu.clip_l": vectors(1, 768), "bundle_emb.zibu.clip_l_out": vectors(1, 768)}
    source = lora(tmp_path / "lora.safetensors", old)
    new = word(tmp_path / "zibu.safetensors", {"emb_params": vectors(2, 768)})
    out = tmp_path / "out.safetensors"
    assert convert(new, out, "--bundle", source, "--force") == 0
    assert set(stored(out)) == {*LORA, "bundle_emb.zibu.string_to_param.*"}


def test_digests_in_the_header_stay_true(tmp_path: Path) -> None:
    wrong = {"sshs_model_hash": "00", "sshs_legacy_hash": "00", "modelspec.hash_sha256": "0x00"}
    source = lora(tmp_path / "lora.safetensors", **METADATA, **wrong)
    one = word(tmp_path / "zibu.safetensors", PAIR)
    out = tmp_path / "both.safetensors"
    assert convert(one, out, "--bundle", source) == 0
    digest = body_sha256(out)
    true = {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    assert metadata_of(out) == METADATA | true
    assert convert(out, tmp_path / "parts", "--unbundle") == 0
    alone = tmp_path / "parts" / "both.safetensors"
    assert metadata_of(alone)["sshs_model_hash"] == body_sha256(alone) != digest


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = lora(tmp_path / "lora.safetensors", **METADATA)
    one = word(tmp_path / "zibu.safetensors", PAIR)
    for name in ("a", "b"):
        assert convert(one, tmp_path / f"{name}.safetensors", "--bundle", source) == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


Made = dict[str, Path]


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (lambda f: [f["dotted"], f["out"], "--bundle", f["lora"]], 1, "--token my-word"),
        (
            lambda f: [f["one"], f["out"], "--bundle", f["lora"], "--token= x"],
            1,
            "cannot be the name",
        ),
        (
            lambda f: [f["one"], f["one"], f["out"], "--bundle", f["lora"]],
            1,
            "two files give the word",
        ),
        (lambda f: [f["one"], f["pt"], "--bundle", f["lora"]], 1, "end it with .safetensors"),
        (lambda f: [f["one"], f["out"], "--bundle", f["one"]], 1, "not a LoRA"),
        (
            lambda f: [f["one"], f["out"], "--bundle", f["missing"]],
            1,
            "file not found",
        ),
        (
            lambda f: [f["one"], f["out"], "--bundle", f["broken"]],
            1,
            "not a valid safetensors file",
        ),
        (lambda f: [f["one"], f["lora"], "--bundle", f["lora"], "--force"], 1, "would overwrite"),
        (lambda f: [f["one"], f["one"], "--bundle", f["lora"], "--force"], 1, "would overwrite"),
        (lambda f: [f["half"], f["out"], "--bundle", f["lora"]], 1, "only half of an SDXL word"),
        (lambda f: [f["one"], f["out"], "--bundle", f["xl"]], 1, "for Stable Diffusion XL"),
        (lambda f: [f["lora"], f["out"], "--bundle", f["lora"]], 1, "it has the tensors of a LoRA"),
        (lambda f: [f["one"], f["exists"], "--bundle", f["lora"]], 1, "the file already exists"),
        (lambda f: [f["out"], "--bundle", f["lora"]], 2, "name the file to read"),
        (
            lambda f: [f["one"], f["out"], "--bundle", f["lora"], "--to=pt"],
            2,
            "--to cannot be combined",
        ),
        (
            lambda f: [f["one"], f["one"], f["out"], "--bundle", f["lora"], "--token=x"],
            2,
            "for one word",
        ),
        (lambda f: [f["out"], "--bundle", f["lora"], "--merge", "a:1", "b:1"], 2, "merge first"),
        (lambda f: [f["lora"], f["out"], "--unbundle"], 1, "no words in this LoRA"),
        (lambda f: [f["one"], f["out"], "--unbundle"], 1, "not a LoRA"),
        (lambda f: [f["both"], f["out"], "--unbundle", "--key=x"], 2, "--key cannot be combined"),
        (lambda f: [f["both"], f["both"].parent, "--unbundle"], 1, "the file already exists"),
        (lambda f: [f["both"], f["both"].parent, "--unbundle", "--force"], 1, "would overwrite"),
        (lambda f: [f["both"], f["one"], "--unbundle"], 1, "cannot write the file"),
    ],
)
def test_what_cannot_be_done(
    argv: Callable[[Made], list[object]],
    code: int,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {"emb_params": vectors(1, 768)}
    made = {
        "lora": lora(tmp_path / "lora.safetensors"),
        "xl": lora(tmp_path / "xl.safetensors", **METADATA),
        "both": lora(tmp_path / "both.safetensors", {"bundle_emb.a.clip_l": vectors(1, 768)}),
        "one": word(tmp_path / "one.safetensors", rows),
        "exists": word(tmp_path / "exists.safetensors", rows),
        "dotted": word(tmp_path / "dotted.safetensors", rows, "my.word"),
        "half": word(tmp_path / "half.safetensors", {"clip_g": vectors(1, 1280)}),
        "out": tmp_path / "out.safetensors",
        "pt": tmp_path / "out.pt",
        "missing": tmp_path / "missing.safetensors",
        "broken": tmp_path / "broken.safetensors",
    }
    made["broken"].write_bytes(made["lora"].read_bytes()[:-1])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert convert(*argv(made)) == code
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    names = ["<zibu>", "zibu", "ZIBU", "../../up", "con", "..", "both", "x" * 180]
    words = {f"bundle_emb.{name}.string_to_param.*": vectors(1, 768) for name in names}
    source = (
        lora(tmp_path / "in" / "both.safetensors", words) if (tmp_path / "in").mkdir() else None
    )
    source = source or lora(tmp_path / "in" / "both.safetensors", words)
    assert convert(source, tmp_path / "parts", "--unbundle") == 0
    written = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert len(written) == len({name.casefold() for name in written}) == len(names) + 1
    assert "both-lora.safetensors" in written
    assert "word-con.safetensors" in written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "parts"]
    tokens = {
        load_word(path).token for path in (tmp_path / "parts").iterdir() if "-lora" not in path.name
    }
    assert tokens == set(names)


def test_words_are_read_wherever_words_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "bundle_emb.one.clip_l": vectors(1, 768),
        "bundle_emb.two.string_to_param.*": vectors(2, 768),
        "bundle_emb.sd2.clip_l": vectors(1, 1024),
    }
    path = lora(tmp_path / "lora.safetensors", words, ss_sd_model_name="base", ss_steps="9")
    assert main(["inspect", str(path)]) == 1
    assert "--key of coinage inspect" in capsys.readouterr().err
    assert main(["inspect", str(path), "--key=two", "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert (inspected["token"], inspected["vectors"], inspected["family"]) == ("two", 2, "sd1")
    assert inspected["metadata"] == {"ss_sd_model_name": "base"}, "the rest is the LoRA's"
    assert load_word(path, "sd2").family == "sd2"
    start = WordConfig(token="two", num_vectors=2, init_file=path)
    assert torch.equal(read_vectors(start)["emb_params"], vectors(2, 768))
    with pytest.raises(EmbeddingFileError, match="it holds several embeddings"):
        read_vectors(WordConfig(token="three", init_file=path))


def by_tool(path: Path, family: str, token: str) -> dict[str, Verdict]:
    widths = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}[family]
    return {verdict.tool: verdict for verdict in verdicts(path, family, widths, token)}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_as_other_programs_read_what_we_write(family: str, tmp_path: Path) -> None:
    rows = PAIR if family == "sdxl" else {"emb_params": vectors(2, 768)}
    one = word(tmp_path / "zibu.safetensors", rows)
    out = tmp_path / "both.safetensors"
    assert convert(one, out, "--bundle", lora(tmp_path / "lora.safetensors")) == 0
    found = by_tool(out, family, "zibu")
    assert {tool for tool, verdict in found.items() if verdict.loads} == {
        "AUTOMATIC1111",
        "ComfyUI",
        "SD.Next",
    }
    for tool in ("AUTOMATIC1111", "ComfyUI", "SD.Next"):
        assert found[tool].vectors.keys() == rows.keys()
        assert all(torch.equal(found[tool].vectors[key], rows[key]) for key in rows)
    assert found["AUTOMATIC1111"].write == "zibu <lora:both:1>"
    assert found["ComfyUI"].write == "embedding:both"
    assert "--unbundle" in found["Forge"].why


def test_words_that_other_programs_do_not_find(tmp_path: Path) -> None:
    words = {
        "bundle_emb.my.word.clip_l": vectors(1, 768),
        "bundle_emb.out.clip_l": vectors(1, 768),
        "bundle_emb.out.clip_l_out": vectors(1, 768),
    }
    path = lora(tmp_path / "lora.safetensors", words)
    dotted, with_outputs = by_tool(path, "sd1", "my.word"), by_tool(path, "sd1", "out")
    assert "first dot" in dotted["AUTOMATIC1111"].why
    assert "first dot" in dotted["SD.Next"].why
    assert "loads nothing" in with_outputs["AUTOMATIC1111"].why
    assert "all 2 words" in dotted["ComfyUI"].why
    assert not by_tool(path, "sd2", "out")["SD.Next"].loads
    narrow = lora(tmp_path / "narrow.safetensors", {"bundle_emb.a.clip_l": vectors(1, 768)})
    assert "this model needs 1024" in by_tool(narrow, "sd2", "a")["AUTOMATIC1111"].why


def test_many_words_are_too_many_for_forge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {f"bundle_emb.w{n}.clip_l": vectors(1, 768) for n in range(12)}
    one = word(tmp_path / "zibu.safetensors", {"emb_params": vectors(1, 768)})
    source = lora(tmp_path / "lora.safetensors", words)
    assert convert(one, tmp_path / "out.safetensors", "--bundle", source) == 0
    assert "Forge refuses a LoRA with more than 12 tensors" in capsys.readouterr().err


def test_verify_and_generate(tmp_path: Path, models: Path) -> None:
    words = {f"bundle_emb.{name}.string_to_param.*": vectors(1, 32) for name in ("zibu", "mova")}
    path = lora(tmp_path / "lora.safetensors", words)
    checks = verify_file(path, ModelConfig(source=str(models / "sd1"), family="sd1"), "mova").checks
    assert [check.tool for check in checks if check.same] == ["AUTOMATIC1111", "SD.Next"]
    out = tmp_path / "pictures"
    argv = [
        "generate", models / "sd1", "zibu and mova", "--embedding", path, "--output", out,
        "--width=64", "--height=64", "--steps=1",
    ]  # fmt: skip
    assert main(list(map(str, argv))) == 0
    assert len(list(out.glob("*.png"))) == 1


def test_a_lora_larger_than_any_embedding(tmp_path: Path) -> None:
    """Its size is that of a real one; the tensor is a hole in the file."""
    size = MOST_BYTES + 4
    sizes = {
        "bundle_emb.zibu.string_to_param.*": ("F32", [1, 768], 3072),
        "lora_unet_mid.lora_up.weight": ("F16", [size // 2], size),
    }
    header: dict[str, object] = {}
    start = 0
    for name, (dtype, shape, count) in sizes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + count]}
        start += count
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + start)
    opened = open_embedding(path)
    assert opened.word.token == "zibu"
    assert not any("write it again" in note for note in opened.notes)
    assert path.stat().st_size > MOST_BYTES
    with path.open("r+b") as file:
        start_of_file = file.read(100)
        file.seek(0)
        file.write(start_of_file.replace(b"bundle_emb", b"x_________"))
    with pytest.raises(EmbeddingFileError, match="too large for an embedding"):
        read_contents(path)


def test_a_name_that_would_break_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "a\x1b[2J\u202eb"
    words = {f"bundle_emb.{odd}.string_to_param.*": vectors(1, 768)}
    source = lora(tmp_path / "lora.safetensors", words)
    one = word(tmp_path / "zibu.safetensors", {"emb_params": vectors(1, 768)})
    assert convert(one, tmp_path / "out.safetensors", "--bundle", source) == 0
    assert convert(source, tmp_path / "parts", "--unbundle") == 0
    assert not {"\x1b", "\u202e"} & set(capsys.readouterr().err)
    written = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert written == ["a[2Jb.safetensors", "lora.safetensors"]


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lora(tmp_path / "lora.safetensors")
    one = word(tmp_path / "zibu.safetensors", {"emb_params": vectors(1, 768)})
    out = lora(tmp_path / "out.safetensors", old="yes")
    before = out.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert convert(one, out, "--bundle", source, "--force") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lora.safetensors",
        "out.safetensors",
        "zibu.safetensors",
    ]


def test_diffusers_refuses_a_lora_with_words() -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    block = "lora_unet_mid_block_attentions_0_proj_in"
    own = {
        f"{block}.lora_down.weight": vectors(2, 4),
        f"{block}.lora_up.weight": vectors(4, 2),
        f"{block}.alpha": torch.tensor(2.0),
    }
    assert _convert_non_diffusers_lora_to_diffusers(dict(own))[0]
    with pytest.raises(ValueError, match="correctly renamed"):
        _convert_non_diffusers_lora_to_diffusers(own | {"bundle_emb.zibu.clip_l": vectors(1, 768)})
