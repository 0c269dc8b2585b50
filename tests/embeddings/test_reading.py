"""Every layout, as the tools write it: the same vectors come out, and what is no embedding is told apart."""

import io
import os
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coinage.config import WordConfig
from coinage.embeddings.install import read_vectors
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.reading import OpenedFile, read
from coinage.embeddings.word import Word, vectors_for
from coinage.embeddings.writing import write
from coinage.errors import EmbeddingFileError
from tests.embeddings.files import (
    Content,
    Evil,
    hidden,
    parameter_dict,
    pickle,
    png,
    tensors,
    vectors,
    webui,
)


def agrees(
    found: OpenedFile,
    layout: str,
    expected: Content,
    token: str | None = None,
    family: str | None = None,
) -> None:
    assert (found.layout, found.word.token, found.word.family) == (layout, token, family)
    assert list(found.word.vectors) == list(expected)
    for key, rows in found.word.vectors.items():
        assert rows.dtype == torch.float32
        assert not rows.requires_grad
        assert rows.is_contiguous()
        assert torch.equal(rows, expected[key])


def refusal(path: Path, **options: Any) -> str:
    """The message, which names the file and stands on one line."""
    with pytest.raises(EmbeddingFileError) as caught:
        open_embedding(path, **options)
    (problem,) = caught.value.problems
    assert str(path) in problem.where
    assert "\n" not in problem.what + problem.hint
    return f"{problem.what}; {problem.hint}"


PAIR = {"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("n", "d", "family"), [(3, 768, "sd1"), (2, 1024, "sd2")])
# 1, 2
def test_safetensors_of_sd1_and_sd2(
    tmp_path: Path, n: int, d: int, family: str, dtype: torch.dtype
) -> None:
    found = open_embedding(
        tensors(tmp_path / "a.safetensors", {"emb_params": vectors(n, d).to(dtype)}, note="x")
    )
    agrees(found, "E", {"emb_params": vectors(n, d)}, None, family)
    assert (found.dtype, found.notes, found.word.metadata) == (dtype, (), {"note": "x"})


def test_pairs(tmp_path: Path) -> None:  # 3, 4
    agrees(open_embedding(tensors(tmp_path / "a.safetensors", PAIR)), "X", PAIR, None, "sdxl")
    agrees(open_embedding(pickle(tmp_path / "a.pt", PAIR)), "Xpt", PAIR, None, "sdxl")
    agrees(
        open_embedding(tmp_path / "a.pt", key="clip_g"),
        "Xpt",
        {"clip_g": vectors(2, 1280)},
        None,
        "sdxl",
    )
    unequal = tensors(tmp_path / "b.safetensors", PAIR | {"clip_g": vectors(3, 1280)})
    assert "do not match: 2 rows in clip_l and 3 rows in clip_g" in refusal(unequal)
    swapped = tensors(
        tmp_path / "c.safetensors", {"clip_g": vectors(2, 768), "clip_l": vectors(2, 1280)}
    )
    assert "swapped" in refusal(swapped)
    pivotal = {"text_encoders_1": PAIR["clip_g"], "text_encoders_0": PAIR["clip_l"]}
    opened = open_embedding(tensors(tmp_path / "d.safetensors", pivotal))
    agrees(opened, "PTI", PAIR, None, "sdxl")
    agrees(
        open_embedding(tensors(tmp_path / "e.safetensors", PAIR | {"clip_l_out": vectors(2, 768)})),
        "OT",
        PAIR,
        None,
        "sdxl",
    )


def zipped_again(path: Path) -> Path:
    """As an archiver packs it: other records, folders, no alignment, nothing compressed."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/", b"")
        target.writestr("archive/data/", b"")
        for name in sorted(records):
            if name.split("/", 1)[1] in ("data.pkl", "version", "data/0"):
                target.writestr(name, records[name])
    return path


def test_the_webuis_dictionary(tmp_path: Path) -> None:  # 5, 6
    rows, path = vectors(3, 768), tmp_path / "a.pt"
    for file in (
        pickle(path, webui(rows)),
        pickle(tmp_path / "b.pt", webui(rows), _use_new_zipfile_serialization=False),
        zipped_again(pickle(tmp_path / "archive.pt", webui(rows))),
    ):
        found = open_embedding(file)
        agrees(found, "A", {"emb_params": rows}, "zibu", "sd1")
        assert found.word.step == 500
    for changes, token in (
        ({"name": ...}, None), ({"name": None}, None), ({"name": ["x"]}, None), ({"step": None}, "zibu"),
        ({"string_to_token": ...}, "zibu"),
        ({"string_to_param": {"sks": rows}}, "zibu"),
        ({"string_to_param": {"sks": rows}, "name": ...}, "sks"),
        ({"string_to_token": {"*": torch.tensor(265)}}, "zibu"), ({"name": "two\nlines"}, None),
    ):  # fmt: skip
        agrees(
            open_embedding(pickle(path, webui(rows, **changes))),
            "A",
            {"emb_params": rows},
            token,
            "sd1",
        )
    assert "no tensor" in refusal(pickle(path, webui(rows, string_to_param={})))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("old", [False, True])
# 7, 8
def test_the_original_codes_parameter_dict(tmp_path: Path, dtype: torch.dtype, old: bool) -> None:
    params = parameter_dict(vectors(2, 768).to(dtype))
    if old:
        del params.__dict__["_keys"]  # torch before 1.12 had none
    before = {*torch.serialization.get_safe_globals()}
    found = open_embedding(
        pickle(
            tmp_path / "a.pt",
            {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": params},
        )
    )
    agrees(found, "O", {"emb_params": vectors(2, 768)}, None, "sd1")
    assert found.dtype == dtype
    assert {*torch.serialization.get_safe_globals()} == before


def test_parameter_dicts_in_many_threads(tmp_path: Path) -> None:
    path = pickle(tmp_path / "a.pt", {"string_to_param": parameter_dict(vectors(2, 768), "sks")})
    found: list[object] = []
    before = {*torch.serialization.get_safe_globals()}

    def work() -> None:
        found.extend([open_embedding(path).word.token for _ in range(20)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["sks"] * 160
    assert {*torch.serialization.get_safe_globals()} == before


class Numpy:
    """Pickles as a numpy number of old numpy does, whose global torch does not know."""

    def __reduce__(self) -> Any:
        return np.int64(3).__reduce__()


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
def test_pickles_that_are_not_read(tmp_path: Path) -> None:  # 9, 10, 11
    path, rows = tmp_path / "a.pt", vectors(1, 768)
    legacy = pickle(
        path, {"string_to_param": parameter_dict(rows)}, _use_new_zipfile_serialization=False
    )
    assert "save it again" in refusal(legacy)
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        message = refusal(
            pickle(path, {"emb_params": rows, "name": Evil(tmp_path / "owned")}, **options)
        )
        assert f"{os.mkdir.__module__}.mkdir" in message
        assert "nothing of it was run" in message
        assert not (tmp_path / "owned").exists()
    assert "pickle protocol 4" in refusal(pickle(path, {"emb_params": rows}, pickle_protocol=4))
    assert "numpy" in refusal(pickle(path, webui(rows, step=Numpy())))
    for odd, word in (
        (rows.to_sparse(), "sparse"), (torch.quantize_per_tensor(rows, 0.1, 0, torch.qint8), "quantised"),
        (rows.to("meta"), "without data"), (rows.to(torch.float8_e4m3fn), "float8"),
        (rows.to(torch.complex128), "complex128"),
        (rows.long(), "int64"), (rows.bool(), "bool"), (3, "not a tensor"),
    ):  # fmt: skip
        assert word in refusal(pickle(path, {"emb_params": odd})), word


def test_one_tensor_under_any_name(tmp_path: Path) -> None:  # 12, 13, 14, 16
    path, rows = tmp_path / "a.bin", vectors(1, 768)
    agrees(
        open_embedding(pickle(path, {"<cat-toy>": rows})),
        "D",
        {"emb_params": rows},
        "<cat-toy>",
        "sd1",
    )
    found = open_embedding(pickle(path, {"<cat-toy>": rows[0]}))
    agrees(found, "D", {"emb_params": rows}, "<cat-toy>", "sd1")
    assert "one-dimensional" in found.notes[0]
    agrees(
        open_embedding(pickle(path, {"<lora_style>": torch.nn.Parameter(rows)})),
        "D",
        {"emb_params": rows},
        "<lora_style>",
        "sd1",
    )
    agrees(
        open_embedding(pickle(path, OrderedDict(emb_params=rows))),
        "Ept",
        {"emb_params": rows},
        None,
        "sd1",
    )
    agrees(
        open_embedding(pickle(path, vectors(3, 768))),
        "T",
        {"emb_params": vectors(3, 768)},
        None,
        "sd1",
    )
    assert "no names" in refusal(path, key="emb_params")
    st = tmp_path / "a.safetensors"
    agrees(
        open_embedding(tensors(st, {"emp_params": vectors(3, 768), "emp_params_out": rows})),
        "OT",
        {"emb_params": vectors(3, 768)},
        None,
        "sd1",
    )
    found = open_embedding(tensors(st, {"emb_params": rows, "extra": vectors(2, 768)}))
    agrees(found, "E", {"emb_params": rows}, None, "sd1")
    assert found.notes == ("left out: 'extra'",)
    agrees(open_embedding(st, key="extra"), "D", {"emb_params": vectors(2, 768)}, "extra", "sd1")
    assert "choose one with --key" in refusal(st, key="other")
    agrees(
        open_embedding(tensors(st, {"zibu": vectors(2, 1280)})),
        "D",
        {"clip_g": vectors(2, 1280)},
        "zibu",
        "sdxl",
    )


def test_lists(tmp_path: Path) -> None:  # 15
    path, one, two = tmp_path / "a.pt", vectors(1, 768), vectors(2, 768)
    agrees(
        open_embedding(pickle(path, [{"a": one}, {"b": two}])),
        "L",
        {"emb_params": torch.cat([one, two])},
        None,
        "sd1",
    )
    agrees(
        open_embedding(pickle(path, [{"a": vectors(2, 1280)}, {"b": two}])), "L", PAIR, None, "sdxl"
    )
    assert "768, 1024" in refusal(pickle(path, [{"a": one}, {"b": vectors(1, 1024)}]))
    assert "do not match" in refusal(pickle(path, [{"a": one}, {"b": vectors(2, 1280)}]))
    for empty in ([], [1], [[one]], [{}]):
        assert "no tensors" in refusal(pickle(path, empty))


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iTXt packed"])
def test_pictures(tmp_path: Path, kind: str) -> None:  # 17
    text, keyword = hidden(vectors(2, 768)), b"sd-ti-embedding\0"
    data = {
        "tEXt": keyword + text,
        "zTXt": keyword + b"\0" + zlib.compress(text),
        "iTXt": keyword + b"\0\0en\0word\0" + text,
        "iTXt packed": keyword + b"\1\0en\0word\0" + zlib.compress(text),
    }[kind]
    path = tmp_path / "a.png"
    path.write_bytes(png((b"tEXt", b"Comment\0nothing"), (kind[:4].encode(), data)))
    found = open_embedding(path)
    agrees(found, "G", {"emb_params": vectors(2, 768)}, "pngtok", "sd1")
    assert found.word.step == 500
    for end in (60, 200, 20_000):
        path.write_bytes(png((b"tEXt", data))[:end])
        assert refusal(path)
    path.write_bytes(png())
    assert "this PNG contains no embedding" in refusal(path)


def test_shapes_and_numbers(tmp_path: Path) -> None:  # 18
    path = tmp_path / "a.safetensors"
    for tensor, word in (
        (vectors(768, 3), "transposed?"), (torch.zeros(0, 768), "[0x768]"),
        (torch.full((1, 768), float("nan")), "not finite"),
        (torch.full((1, 768), 1e300, dtype=torch.float64), "not finite"),
        (torch.ones(2, 768, dtype=torch.int64), "int64"),
        (torch.ones(2, 2, 768), "[2x2x768]"), (torch.tensor(1.0), "not a list of vectors"),
        (torch.zeros(10_001, 8), "more than any"),
        (torch.zeros(2, 6_400_001), "more than any"),
        (torch.ones(1, 8, dtype=torch.float8_e5m2), "float8_e5m2"),
    ):  # fmt: skip
        assert word in refusal(tensors(path, {"emb_params": tensor})), word
    agrees(
        open_embedding(tensors(path, {"emb_params": vectors(3, 768)[None]})),
        "E",
        {"emb_params": vectors(3, 768)},
        None,
        "sd1",
    )
    found = open_embedding(tensors(path, {"emb_params": vectors(76, 512)}))
    agrees(found, "E", {"emb_params": vectors(76, 512)})
    assert found.notes == (
        "vector width 512 matches no known Stable Diffusion model",
        "76 vectors; most tools read 75 at most",
    )


def test_what_is_no_embedding_says_which_it_is(tmp_path: Path) -> None:  # 19
    path, rows = tmp_path / "a.safetensors", vectors(1, 768)
    layers = [
        "IN01",
        "IN02",
        "IN04",
        "IN05",
        "IN07",
        "IN08",
        "MID",
        *[f"OUT{i:02}" for i in range(3, 12)],
    ]
    assert "XTI" in refusal(tensors(path, dict.fromkeys(layers, rows)))
    assert "LoRA" in refusal(
        tensors(path, {"lora_unet_mid.lora_down.weight": rows, "lora_unet_mid.alpha": rows[0]})
    )
    assert "of a model" in refusal(tensors(path, {"model.diffusion_model.out.0.weight": rows}))
    assert "of a model" in refusal(
        pickle(tmp_path / "a.ckpt", {"state_dict": {"a": rows}, "global_step": 3})
    )
    message = refusal(tensors(path, {"one": rows, "two": vectors(2, 768)}))
    assert "several tensors: 'one', 'two'" in message
    assert "choose one with --key" in message
    agrees(open_embedding(path, key="two"), "D", {"emb_params": vectors(2, 768)}, "two", "sd1")
    assert "1001 tensors" in refusal(tensors(path, {f"t{i}": vectors(1, 2) for i in range(1001)}))


@pytest.mark.parametrize("original", [False, True])
def test_several_placeholders(tmp_path: Path, original: bool) -> None:  # 20
    content = {"sks": vectors(1, 768), "zibu": vectors(2, 768)}
    params = (
        torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in content.items()})
        if original
        else content
    )
    path = pickle(tmp_path / "a.pt", {"string_to_param": params})
    message = refusal(path)
    assert "several placeholders: 'sks', 'zibu'" in message
    assert "--key" in message
    agrees(
        open_embedding(path, key="zibu"),
        "O" if original else "A",
        {"emb_params": content["zibu"]},
        "zibu",
        "sd1",
    )
    assert "no placeholder 'x'" in refusal(path, key="x")


def test_lone_halves(tmp_path: Path) -> None:  # 21
    path = tensors(tmp_path / "a.safetensors", {"clip_l": vectors(2, 768)})
    agrees(open_embedding(path), "P", {"clip_l": vectors(2, 768)}, None, "sd1")
    given = read_vectors(WordConfig(token="zibu", num_vectors=2, init_file=path))
    assert torch.equal(vectors_for(given, "emb_params"), vectors(2, 768))  # type: ignore[arg-type]
    assert vectors_for(given, "clip_g") is None
    agrees(
        open_embedding(pickle(tmp_path / "a.pt", {"clip_g": vectors(2, 1280)})),
        "Xpt",
        {"clip_g": vectors(2, 1280)},
        None,
        "sdxl",
    )


def test_embeddings_in_a_lora(tmp_path: Path) -> None:
    lora = {
        "lora_unet_mid.lora_down.weight": vectors(4, 8),
        "lora_unet_mid.alpha": torch.tensor(1.0),
    }
    one = {f"bundle_emb.my.word.{half}": rows for half, rows in PAIR.items()} | {
        "bundle_emb.my.word.clip_l_out": vectors(2, 768)
    }
    path = tensors(tmp_path / "a.safetensors", lora | one)
    agrees(open_embedding(path), "B", PAIR, "my.word", "sdxl")
    tensors(path, lora | one | {"bundle_emb.sks.string_to_param.*": vectors(1, 768)})
    assert "several embeddings: 'my.word', 'sks'" in refusal(path)
    agrees(open_embedding(path, key="sks"), "B", {"emb_params": vectors(1, 768)}, "sks", "sd1")


def test_two_files_of_a_pair(tmp_path: Path) -> None:
    one = tensors(tmp_path / "learned_embeds.safetensors", {"<zibu>": PAIR["clip_l"]})
    two = tensors(tmp_path / "learned_embeds_2.safetensors", {"<zibu>": PAIR["clip_g"]})
    agrees(open_embedding(one, second=two), "D2", PAIR, "<zibu>", "sdxl")
    agrees(open_embedding(two, second=one), "D2", PAIR, "<zibu>", "sdxl")
    assert "the second file is the first one again" in refusal(one, second=one)
    other = tensors(tmp_path / "again.safetensors", {"<zibu>": PAIR["clip_l"]})
    assert "not a pair for SDXL or FLUX.1" in refusal(one, second=other)
    assert "2 and 3 vectors" in refusal(
        one, second=tensors(tmp_path / "b", {"x": vectors(3, 1280)})
    )
    assert "holds both halves" in refusal(one, second=tensors(tmp_path / "c", PAIR))
    tiny = [tensors(tmp_path / f"tiny{d}", {"zibu": vectors(2, d)}) for d in (32, 64)]
    agrees(
        open_embedding(tiny[0], second=tiny[1]),
        "D2",
        {"clip_l": vectors(2, 32), "clip_g": vectors(2, 64)},
        "zibu",
    )


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    rows = vectors(2, 768)
    write(tmp_path / "a.pt", Word({"emb_params": rows}, "zibu", 7))
    for written, name in (
        (pickle(tmp_path / "x", webui(rows)), "a.safetensors"),
        (tensors(tmp_path / "y", {"emb_params": rows}), "b.pt"),
    ):
        written.rename(tmp_path / name)
        assert torch.equal(read(tmp_path / name).vectors["emb_params"], rows)
    assert open_embedding(tmp_path / "a.pt").word.step == 7


def test_a_slice_of_a_large_table(tmp_path: Path) -> None:
    """Tensors that were saved without a copy bring their whole table."""
    table = torch.zeros(12_000, 768)
    table[-2:] = vectors(2, 768)
    found = open_embedding(pickle(tmp_path / "a.bin", {"<zibu>": table[-2:]}))
    agrees(found, "D", {"emb_params": vectors(2, 768)}, "<zibu>", "sd1")
    assert found.notes == (
        "the file has 35 MB for 2 vectors; write it again with `coinage convert`",
    )


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"), (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0", "JPEG"), (b"\x1f\x8b\x08", "gzip"), (b"hello, world", "neither safetensors"),
        (struct.pack("<Q", 10**12) + b"{", "longer than the file"),
        (struct.pack("<Q", 5 * 2**20) + b"{" * (5 * 2**20), "5 MB"),
    ],
)  # fmt: skip
def test_other_files(tmp_path: Path, data: bytes, word: str) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    assert word in refusal(tmp_path / "a.pt")


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    assert "it is a folder" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "none.pt")
    with pytest.raises(EmbeddingFileError, match="no such file"):
        read(tmp_path / "a\0.pt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "not a file" in refusal(tmp_path / "pipe")
    if hasattr(os, "geteuid") and os.geteuid():
        (tmp_path / "secret.pt").touch(mode=0)
        assert "Permission denied" in refusal(tmp_path / "secret.pt")
    with (tmp_path / "huge.pt").open("wb") as stream:
        stream.truncate(257 * 2**20)
    assert "257 MB" in refusal(tmp_path / "huge.pt")


def test_zips_that_are_not_torchs(tmp_path: Path) -> None:
    path, content = tmp_path / "a.pt", io.BytesIO()
    torch.save({"emb_params": vectors(1, 768)}, content)
    with zipfile.ZipFile(content) as source:
        records = {name: source.read(name) for name in source.namelist()}

    def written(
        changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED, behind: bytes = b""
    ) -> Path:
        with zipfile.ZipFile(path, "w", compression) as target:
            for name, data in changed.items():
                target.writestr(name, data)
        path.write_bytes(path.read_bytes() + behind)
        return path

    assert open_embedding(written(records)).word.num_vectors == 1
    assert "compressed" in refusal(written(records, zipfile.ZIP_DEFLATED))
    assert "behind its end" in refusal(written(records, behind=b"x"))
    assert "not one that torch wrote" in refusal(written({"a.txt": b"x"}))
    assert "not one that torch wrote" in refusal(written({**records, "b/data/0": b"x"}))
    assert "TorchScript" in refusal(written({**records, "archive/constants.pkl": b"x"}))
    assert "do not fit together" in refusal(written({**records, "archive/data/0": b"x"}))
    assert "far larger" in refusal(written({**records, "archive/data.pkl": b"x" * 2**21}))
    assert "big-endian" in refusal(written({**records, "archive/byteorder": b"big"}))
