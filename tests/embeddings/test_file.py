"""Embedding files: exact tensors, clean containers, no code run."""

import hashlib
import json
import pickletools
import struct
import zipfile
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from coinage.embeddings.header import utc_now
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.errors import CoinageError, EmbeddingFileError
from coinage.system.files import write_bytes
from tests.embeddings.files import Evil, vectors

HASHES = {
    (1, 768): "5c5b5ec22fe78d062937513e36acba3f7485a4c5f29fb835abb359da953e2056",
    (2, 768): "551c2a4bb8e6e1f04492045fc1200ce411064b4ab77f8e4506788de7cf542d97",
    (2, 1024): "728711272adae37f85975ba281a36ce36a3499a18b4ea953496b090bb9bc6812",
}


def word(n: int = 2, d: int = 768, **metadata: str) -> Word:
    return Word({"emb_params": vectors(n, d)}, "zibu", 7, metadata)


@pytest.mark.parametrize(("shape", "digest"), HASHES.items())
def test_safetensors_body_and_hash(tmp_path: Path, shape: tuple[int, int], digest: str) -> None:
    path = tmp_path / "zibu.safetensors"
    write(path, word(*shape, note="x", alpha="y"))
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    assert hashlib.sha256(data[8 + size :]).hexdigest() == digest
    assert header["__metadata__"]["modelspec.hash_sha256"] == f"0x{digest}"
    with safetensors.safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["emb_params"]
        assert file.metadata()["note"] == "x"
        torch.testing.assert_close(file.get_tensor("emb_params"), vectors(*shape), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "ckpt"])
@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_write_read_write_is_byte_equal(tmp_path: Path, suffix: str, precision: str) -> None:
    first, second = tmp_path / f"zibu.{suffix}", tmp_path / "again" / f"zibu.{suffix}"
    write(first, word(3, 768, **{f"key{i}": "v" for i in range(9)}), precision)
    loaded = read(first)
    assert loaded.vectors["emb_params"].dtype == torch.float32
    torch.testing.assert_close(loaded.vectors["emb_params"], vectors(3, 768), rtol=0, atol=0)
    write(second, Word(loaded.vectors, "zibu", 7, loaded.metadata), precision)
    assert first.read_bytes() == second.read_bytes()


def test_pt_is_the_dictionary_and_container_that_the_webui_accepts(tmp_path: Path) -> None:
    path = tmp_path / "zibu.pt"
    big = torch.zeros(49410, 768)
    big[-2:] = vectors(2, 768)
    write(path, Word({"emb_params": big[-2:]}, "zibu", 7))
    assert path.stat().st_size < 20_000
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == [
            "archive/data.pkl",
            "archive/data/0",
            "archive/version",
        ]
        pickle = archive.read("archive/data.pkl")
    names = {str(arg) for op, arg, _ in pickletools.genops(pickle) if op.name == "GLOBAL"}
    assert names == {
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "collections OrderedDict",
    }
    content = torch.load(path, weights_only=True)
    assert content["string_to_token"] == {"*": 265}
    assert (content["name"], content["step"], content["sd_checkpoint"]) == ("zibu", 7, None)


@pytest.mark.parametrize(
    "content",
    [
        {"<cat-toy>": vectors(1, 768)},
        {"<cat-toy>": vectors(1, 768)[0]},
        {"string_to_param": {"*": vectors(1, 768)}, "name": "<cat-toy>"},
        {
            "string_to_param": {"sks": vectors(1, 768)},
            "name": "<cat-toy>",
            "string_to_token": {"*": torch.tensor(265)},
        },
    ],
)
def test_other_layouts_are_read(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "a.pt")
    loaded = read(tmp_path / "a.pt")
    assert loaded.token == "<cat-toy>"
    torch.testing.assert_close(loaded.vectors["emb_params"], vectors(1, 768), rtol=0, atol=0)


def test_pickles_run_no_code(tmp_path: Path) -> None:
    torch.save({"emb_params": Evil(tmp_path / "owned")}, tmp_path / "evil.pt")
    with pytest.raises(EmbeddingFileError):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"<!DOCTYPE html>",
        b"\x00" * 8 + b"{}",
        struct.pack("<Q", 10**12) + b"{",
        b"PK\x03\x04 truncated",
        b"\x80\x02broken",
    ],
)
def test_garbage_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(EmbeddingFileError, match=r"a\.safetensors"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        {"a": vectors(1, 8), "b": vectors(1, 8)},
        {"a": torch.ones(2, 2, dtype=torch.int64)},
        {"a": torch.full((1, 8), float("nan"))},
        {"a": torch.ones(0, 8)},
        {"a": torch.ones(2, 2, 3)},
    ],
)
def test_tensors_that_are_no_vectors(tmp_path: Path, content: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(EmbeddingFileError):
        read(tmp_path / "a.safetensors")
    with pytest.raises(EmbeddingFileError, match="cannot read"):
        read(tmp_path / "missing.pt")


def test_numbers_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    path = tmp_path / "zibu.pt"
    write(path, word())
    before = path.read_bytes()
    with pytest.raises(CoinageError, match="not finite"):
        write(path, Word({"emb_params": torch.tensor([[1.0, float("inf")]])}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("x")
    with pytest.raises(CoinageError, match="cannot write"):
        write_bytes(blocker / "zibu.pt", b"data")
    (tmp_path / "taken").mkdir()
    with pytest.raises(CoinageError, match="cannot write"):
        write_bytes(tmp_path / "taken", b"data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_date_is_utc_and_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert utc_now() == "1970-01-01T00:00:00Z"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert utc_now().startswith("20")
