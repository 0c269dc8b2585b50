"""What each other tool makes of each kind of embedding file."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from coinage.embeddings.raw_file import read_raw_file
from coinage.embeddings.tools import TOOLS, Verdict, verdicts
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from tests.embeddings.layouts import (
    ONE,
    PAIR,
    WIDTHS,
    clean,
    legacy,
    parameters,
    safe,
    stock,
    vectors,
    webui,
    write_layout,
)

SIX = ("AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI", "SD.Next", "diffusers")
# With the family that the file is for. care: it loads, with something to know; diffusers needs `token=`
# (or, for SDXL, one call per half), ComfyUI guesses, OneTrainer has its own setting, SwarmUI knows no family.
MATRIX = """
                       A1111 Forge ComfyUI InvokeAI SD.Next diffusers | SwarmUI OneTrainer sd-scripts
E                      ok    ok    ok      ok       ok      care      | ok      no         ok
Ept                    ok    ok    ok      ok       no      care      | care    no         ok
Ept, stock torch       no    ok    ok      ok       no      care      | care    no         ok
Ept, legacy            ok    ok    ok      ok       no      care      | care    no         ok
Ept .bin               ok    ok    ok      ok       no      care      | care    no         ok
A                      ok    ok    ok      ok       ok      ok        | care    no         ok
A, stock torch         no    ok    ok      ok       ok      ok        | care    no         ok
A .ckpt                no    no    ok      ok       no      ok        | no      no         ok
A .bin                 ok    ok    ok      ok       no      ok        | care    no         ok
A, no string_to_token  ok    ok    ok      no       ok      ok        | care    no         ok
O                      ok    ok    care    no       ok      no        | care    no         no
D                      ok    ok    ok      no       ok      ok        | ok      no         ok
D .bin                 ok    ok    ok      no       no      ok        | care    no         ok
D, 1-D                 ok    ok    ok      ok       no      ok        | ok      no         no
OT                     ok    ok    ok      no       ok      care      | care    care       ok
E + second             no    no    care    ok       no      no        | care    no         care
L                      no    no    ok      no       no      no        | care    no         no
T                      no    no    no      no       no      care      | no      no         no
G                      ok    ok    no      no       no      no        | no      no         no
X                      ok    ok    ok      ok       ok      care      | ok      care       ok
Xpt                    ok    ok    ok      ok       no      care      | care    care       ok
Xpt, stock torch       no    ok    ok      ok       no      care      | care    care       ok
Xpt .ckpt              no    no    ok      ok       no      care      | no      care       ok
Xpt .bin               ok    ok    ok      ok       no      care      | care    care       ok
X + *_out              ok    ok    ok      ok       no      care      | ok      care       ok
"""
ROWS = {
    line[:22].strip(): line[22:].replace("|", "").split()
    for line in MATRIX.strip("\n").splitlines()[1:]
}


UNFORESEEN = "is not what"  # the reason where a rule broke instead of refusing


def by_tool(path: Path, family: str, token: str | None = None) -> dict[str, Verdict]:
    return {verdict.tool: verdict for verdict in verdicts(path, family, WIDTHS[family], token)}


def cell(verdict: Verdict) -> str:
    return ("care" if verdict.why else "ok") if verdict.loads else "no"


def test_the_matrix_has_every_layout_and_tool() -> None:
    assert ROWS.keys() == (ONE | PAIR).keys()
    assert {len(row) for row in ROWS.values()} == {len(TOOLS)}
    assert tuple(TOOLS)[: len(SIX)] == SIX


@pytest.mark.parametrize(
    ("layout", "family"),
    [*((row, f) for row in ONE for f in ("sd1", "sd2")), *((row, "sdxl") for row in PAIR)],
)
def test_the_right_family(layout: str, family: str, tmp_path: Path) -> None:
    found = verdicts(write_layout(tmp_path, layout, WIDTHS[family]), family, WIDTHS[family])
    assert [cell(verdict) for verdict in found] == ROWS[layout], {v.tool: v.why for v in found}
    keys = ("clip_l", "clip_g") if family == "sdxl" else ("emb_params",)
    n = 1 if layout == "D, 1-D" else 2
    for verdict in found:
        assert set(verdict.vectors) == (set(keys) if verdict.loads else set())
        assert bool(verdict.write) == verdict.loads
        assert verdict.loads or (verdict.why and UNFORESEEN not in verdict.why)
        for tensor, width in zip(
            (verdict.vectors[key] for key in verdict.vectors), WIDTHS[family], strict=False
        ):
            assert torch.equal(tensor, vectors(n, width)), verdict.tool


# Of the six, those that take something nevertheless: one half of it, and they say so.
HALVES = {("sd1", "sdxl"): {"ComfyUI", "diffusers"}, ("sdxl", "sd1"): {"ComfyUI"}}


@pytest.mark.parametrize("made_for", WIDTHS)
@pytest.mark.parametrize("family", WIDTHS)
def test_the_wrong_family(made_for: str, family: str, tmp_path: Path) -> None:
    if made_for == family:
        return
    for layout in PAIR if made_for == "sdxl" else ONE:
        right = by_tool(write_layout(tmp_path, layout, WIDTHS[made_for]), made_for)
        wrong = by_tool(write_layout(tmp_path, layout, WIDTHS[made_for]), family)
        for tool in SIX:
            # ComfyUI wants a tensor of the list for every text encoder.
            half = (
                tool in HALVES.get((made_for, family), ()) and right[tool].loads and layout != "L"
            )
            assert wrong[tool].loads == half, (layout, tool, wrong[tool])
            assert wrong[tool].why
            assert UNFORESEEN not in wrong[tool].why
            assert not half or set(wrong[tool].vectors) <= {"clip_l", "emb_params"}


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_our_own_files(family: str, suffix: str, precision: str, tmp_path: Path) -> None:
    keys = ("clip_l", "clip_g") if family == "sdxl" else ("emb_params",)
    tensors = {key: vectors(3, width) for key, width in zip(keys, WIDTHS[family], strict=True)}
    path = tmp_path / f"zibu{suffix}"
    write(path, Word(tensors, "zibu", 7, {"note": "x"}), precision)
    found = by_tool(path, family, "zibu")
    # It reads no such .pt of anyone's
    beyond = {"SD.Next"} if family == "sdxl" and suffix == ".pt" else set()
    assert {tool for tool in SIX if not found[tool].loads} == beyond
    assert {tool for tool in SIX if found[tool].loads and found[tool].why} <= {"diffusers"}
    for tool in set(SIX) - beyond:
        assert {key: tensor.dtype for key, tensor in found[tool].vectors.items()} == dict.fromkeys(
            keys, torch.float32
        )
        assert all(torch.equal(found[tool].vectors[key], tensors[key]) for key in keys), tool


def test_what_to_write(tmp_path: Path) -> None:
    found = by_tool(write_layout(tmp_path, "A", (768,)), "sd1", "mychar")
    written = {tool: verdict.write for tool, verdict in found.items() if verdict.loads}
    assert written == {
        "AUTOMATIC1111": "zibu", "Forge": "zibu", "ComfyUI": "embedding:zibu", "InvokeAI": "<zibu>",
        "SD.Next": "zibu",
        "diffusers": "mychar", "SwarmUI": "<embed:zibu>", "sd-scripts": "zibu",
    }  # fmt: skip
    assert (
        by_tool(write_layout(tmp_path, "A .ckpt", (768,)), "sd1")["ComfyUI"].write
        == "embedding:zibu.ckpt"
    )
    assert by_tool(write_layout(tmp_path, "D", (768,)), "sd1")["diffusers"].write == "<zibu>"
    assert by_tool(write_layout(tmp_path, "E", (768,)), "sd1")["diffusers"].write == "zibu"
    clean(tmp_path / "stem.pt", webui(vectors(2, 768), "inside"))
    assert by_tool(tmp_path / "stem.pt", "sd1")["AUTOMATIC1111"].write == "stem"
    assert by_tool(tmp_path / "stem.pt", "sd1")["diffusers"].write == "inside"


def test_an_image_is_called_by_the_name_inside(tmp_path: Path) -> None:
    path = write_layout(tmp_path, "G", (768,)).rename(tmp_path / "other.png")
    found = by_tool(path, "sd1")
    assert (found["AUTOMATIC1111"].write, found["Forge"].write) == ("zibu", "zibu")


def test_diffusers_and_capitals(tmp_path: Path) -> None:
    assert (
        "first of its 2 vectors"
        in by_tool(write_layout(tmp_path, "E", (768,)), "sd1", "ZiBu")["diffusers"].why
    )
    assert (
        "first of its"
        not in by_tool(write_layout(tmp_path, "E", (768,), n=1), "sd1", "ZiBu")["diffusers"].why
    )


# What the gate of AUTOMATIC1111 is about: records in the zip, and names in the pickle.
def test_the_gate_names_what_it_refuses(tmp_path: Path) -> None:
    stock(tmp_path / "a.pt", webui(vectors(1, 768)))
    records = set(read_raw_file(tmp_path / "a.pt").records) - {
        "a/data.pkl",
        "a/data/0",
        "a/version",
    }
    assert records
    assert any(
        record in by_tool(tmp_path / "a.pt", "sd1")["AUTOMATIC1111"].why for record in records
    )
    clean(tmp_path / "b.pt", webui(vectors(1, 768)) | {"step": torch.Size([1])})
    assert "torch.Size" in by_tool(tmp_path / "b.pt", "sd1")["AUTOMATIC1111"].why


@pytest.mark.parametrize("save", [clean, legacy])
def test_a_parameter_dictionary_passes_the_gate(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "a.pt", parameters(vectors(2, 768)))
    found = by_tool(tmp_path / "a.pt", "sd1")
    if save is clean:
        assert (
            "torch.nn.modules.container ParameterDict" in read_raw_file(tmp_path / "a.pt").globals
        )
        assert torch.equal(found["AUTOMATIC1111"].vectors["emb_params"], vectors(2, 768))
    else:  # an old pickle with a module in it holds the module's source, which safe unpickling refuses
        assert not any(verdict.loads for verdict in found.values())


def test_comfyui_guesses_three_wide_vectors_to_be_four_narrow_ones(tmp_path: Path) -> None:
    stock(tmp_path / "a.pt", parameters(vectors(3, 1024)))
    assert not by_tool(tmp_path / "a.pt", "sd2")["ComfyUI"].loads
    assert by_tool(tmp_path / "a.pt", "sd1")["ComfyUI"].vectors["emb_params"].shape == (4, 768)


def test_comfyui_guesses_the_last_of_several_records(tmp_path: Path) -> None:
    two = torch.nn.ParameterDict(
        {"a": torch.nn.Parameter(vectors(1, 768)), "b": torch.nn.Parameter(vectors(1, 768) + 1)}
    )
    stock(tmp_path / "a.pt", {"string_to_param": two})
    assert torch.equal(
        by_tool(tmp_path / "a.pt", "sd1")["ComfyUI"].vectors["emb_params"], vectors(1, 768) + 1
    )


def test_invokeai_takes_a_count_for_a_width(tmp_path: Path) -> None:
    why = by_tool(write_layout(tmp_path, "D", (768,)), "sd1")["InvokeAI"].why
    assert "the number of vectors, 2, for their width" in why


def test_a_small_file_that_stands_for_gigabytes(tmp_path: Path) -> None:
    stock(tmp_path / "a.pt", {"emb_params": torch.ones(1, 768).expand(10**9, 768)})
    found = by_tool(tmp_path / "a.pt", "sd1")
    assert not any(verdict.loads for verdict in found.values())
    assert "too large" in found["diffusers"].why


@pytest.mark.parametrize("tool", ["AUTOMATIC1111", "Forge"])
def test_exact_types(tool: str, tmp_path: Path) -> None:
    from collections import OrderedDict

    clean(tmp_path / "a.pt", OrderedDict(emb_params=vectors(1, 768)))
    clean(tmp_path / "b.pt", {"emb_params": torch.nn.Parameter(vectors(1, 768))})
    clean(tmp_path / "c.pt", {"clip_l": vectors(1, 768), "clip_g": vectors(1, 1280), "step": 3})
    assert not by_tool(tmp_path / "a.pt", "sd1")[tool].loads
    assert not by_tool(tmp_path / "b.pt", "sd1")[tool].loads
    assert "'step'" in by_tool(tmp_path / "c.pt", "sdxl")[tool].why


def test_the_first_tensor_is_a_matter_of_luck(tmp_path: Path) -> None:
    safe(tmp_path / "a.safetensors", {"emb_params": vectors(1, 768), "aaa": vectors(1, 768) + 1})
    found = by_tool(tmp_path / "a.safetensors", "sd1")
    assert torch.equal(found["ComfyUI"].vectors["emb_params"], vectors(1, 768) + 1)
    assert torch.equal(found["InvokeAI"].vectors["emb_params"], vectors(1, 768))
    assert "'aaa'" in found["ComfyUI"].why


def test_embeddings_in_a_lora(tmp_path: Path) -> None:
    safe(
        tmp_path / "a.safetensors",
        {"bundle_emb.zibu.string_to_param.*": vectors(2, 768), "alpha": torch.ones(1)},
    )
    assert torch.equal(
        by_tool(tmp_path / "a.safetensors", "sd1")["ComfyUI"].vectors["emb_params"], vectors(2, 768)
    )


@pytest.mark.parametrize(("rows", "in_sdnext"), [((2, 3), (2, 3)), ((3, 2), (2, 2))])
def test_halves_of_different_lengths(
    rows: tuple[int, int], in_sdnext: tuple[int, int], tmp_path: Path
) -> None:
    safe(
        tmp_path / "a.safetensors",
        {"clip_l": vectors(rows[0], 768), "clip_g": vectors(rows[1], 1280)},
    )
    found = by_tool(tmp_path / "a.safetensors", "sdxl")
    assert all("different numbers" in found[tool].why for tool in SIX if tool != "SD.Next")
    # SD.Next counts the file's first tensor, which is clip_g, and cuts the other.
    assert tuple(len(found["SD.Next"].vectors[key]) for key in ("clip_l", "clip_g")) == in_sdnext


def test_more_vectors_than_a_prompt_holds(tmp_path: Path) -> None:
    found = by_tool(write_layout(tmp_path, "E", (768,), n=76), "sd1")
    assert [tool for tool in SIX if not found[tool].loads] == ["AUTOMATIC1111", "Forge"]
    assert all("75 vectors" in found[tool].why for tool in SIX)


def test_numbers_that_are_not_finite_are_told(tmp_path: Path) -> None:
    safe(tmp_path / "a.safetensors", {"emb_params": torch.full((1, 768), float("nan"))})
    assert all(
        "not finite" in verdict.why
        for verdict in by_tool(tmp_path / "a.safetensors", "sd1").values()
        if verdict.loads
    )


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [stock, clean, legacy])
def test_nothing_in_a_file_runs(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "evil.pt", {"emb_params": Evil(tmp_path / "owned")})
    assert not any(verdict.loads for verdict in verdicts(tmp_path / "evil.pt", "sd1", (768,)))
    assert "mkdir" in read_raw_file(tmp_path / "evil.pt").problem
    assert not (tmp_path / "owned").exists()


BROKEN = {
    "missing": None,
    "empty": b"",
    "text": b"<!DOCTYPE html>",
    "zeros": b"\0" * 64,
    "header too long": struct.pack("<Q", 10**12) + b"{",
    "no header": b"\0" * 8 + b"{}",
    "cut zip": b"PK\x03\x04 cut",
    "cut pickle": b"\x80\x02broken",
    "cut image": b"\x89PNG\r\n\x1a\n123",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".png", ".txt", ""])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_all(name: str, suffix: str, tmp_path: Path) -> None:
    path, data = tmp_path / f"a{suffix}", BROKEN[name]
    if data is not None:
        path.write_bytes(data)
    for family, widths in WIDTHS.items():
        for verdict in verdicts(path, family, widths):
            assert not verdict.loads
            assert verdict.why.endswith(".")
            assert not verdict.vectors


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        7,
        "text",
        {1: 2},
        {"emb_params": "text"},
        {"emb_params": None, "step": 3},
        {"string_to_param": {}},
        {"string_to_param": 7, "string_to_token": 7, "name": 7},
        {"string_to_param": {"*": torch.ones(())}, "string_to_token": {}},
        {"clip_l": 7, "clip_g": vectors(1, 1280)},
        {"emb_params": torch.ones(1, 1, 1, 768)},
        {"emb_params": torch.ones(0, 768)},
        {"emb_params": torch.ones(1, 768).to_sparse()},
    ],
)
def test_odd_content_never_breaks_a_rule(content: Any, tmp_path: Path) -> None:
    stock(tmp_path / "a.pt", content)
    for family, widths in WIDTHS.items():
        for verdict in verdicts(tmp_path / "a.pt", family, widths, "zibu"):
            assert not verdict.loads, verdict
            assert verdict.why


def test_a_file_with_the_wrong_suffix(tmp_path: Path) -> None:
    path = write_layout(tmp_path, "E", (768,)).rename(tmp_path / "zibu.pt")
    found = by_tool(path, "sd1")
    # Which tries safetensors first, whatever the name
    assert [tool for tool in SIX if found[tool].loads] == ["diffusers"]
    assert "rename it to .safetensors" in found["Forge"].why


@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_our_pt_is_a_clean_container(precision: str, tmp_path: Path) -> None:
    first, second = tmp_path / "zibu.pt", tmp_path / "again" / "zibu.pt"
    table = torch.zeros(49410, 768)
    table[-4:] = vectors(4, 768)
    for path in (first, second):
        write(path, Word({"emb_params": table[-4:]}, "zibu", 7), precision)
    raw = read_raw_file(first)
    assert sorted(raw.records) == ["archive/data.pkl", "archive/data/0", "archive/version"]
    storages = {f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16")}
    assert (
        set(raw.globals)
        <= {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"} | storages
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 20_000
