"""Files are written whole or not at all, on Windows too, where others may have them open."""

import threading
from pathlib import Path

import pytest

from coinage.embeddings.stored_tensors import StoredTensor, body_digest, write_tensors
from coinage.errors import CoinageError
from coinage.system import files
from coinage.system.files import is_held, put_in_place, write_bytes
from tests.windows import ON_WINDOWS, held_open, windows_error, windows_files

TENSOR = StoredTensor("emb_params", "F32", (1, 2), 8, data=bytes(8))
WAYS = {
    "bytes": lambda path: write_bytes(path, b"new"),
    "tensors": lambda path: write_tensors(path, [TENSOR], {}, body_digest([TENSOR])),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_another_program_reads_is_replaced_as_soon_as_it_lets_go(
    tmp_path: Path, way: str
) -> None:
    path = tmp_path / "zibu-report.html"
    path.write_bytes(b"old")
    with windows_files() as refused, held_open(path) as other:
        timer = threading.Timer(0.15, other.stdin.close)  # type: ignore[union-attr]
        timer.start()
        WAYS[way](path)
        timer.join()
    assert path.read_bytes() != b"old"
    assert refused or ON_WINDOWS, "it was held when it was first tried"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_stays_open_is_left_as_it_is_and_named(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    path = tmp_path / "zibu.safetensors"
    path.write_bytes(b"old")
    with windows_files(), held_open(path), pytest.raises(CoinageError) as caught:
        WAYS[way](path)
    (problem,) = caught.value.problems
    assert problem.what == "cannot write the file: another program has it open, or it is read-only"
    assert problem.where == str(path)
    assert problem.hint.startswith("close what shows or edits it")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_what_windows_says_of_open_files_is_waited_for(tmp_path: Path) -> None:
    assert is_held(windows_error(5, "x"))
    assert is_held(windows_error(32, "x"))
    assert not is_held(windows_error(183, "x"))
    assert not is_held(PermissionError(13, "Permission denied"))
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "gone", tmp_path / "x")
