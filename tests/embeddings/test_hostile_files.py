"""Whatever a file holds, reading it gives an embedding or a message, runs nothing, takes little memory."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.embeddings.files import vectors
from tests.embeddings.hostile import (
    FRAGMENTS,
    SEEDS,
    large_bombs,
    outcome,
    random_file,
    small_bombs,
    torch_zip,
    write_sparse,
)

ROOT = Path(__file__).parents[2]
MOST_MEGABYTES = 265  # beyond what Python and torch take, which is 235 MB where torch has no CUDA
fuzz = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def took(folder: Path, cases: range) -> dict[str, list[Any]]:
    """Results, seconds and megabytes of each random file and each file in the folder, read in a process."""
    words = [
        sys.executable,
        "-m",
        "tests.embeddings.hostile",
        str(folder),
        str(cases.start),
        str(cases.stop),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results: dict[str, list[Any]] = json.loads(done.stdout)
    assert not (folder / "owned").exists(), "a file has run something"
    wrong = {name: what for name, (what, _, _) in results.items() if what.startswith("RAISED")}
    assert not wrong
    _, _, base = results.pop("nothing")
    assert max(peak for _, _, peak in results.values()) - base < MOST_MEGABYTES
    slowest = max(results, key=lambda name: results[name][1])
    assert results[slowest][1] < 20, slowest
    return results


def test_the_seeds_are_read(tmp_path: Path) -> None:
    """Else what is made of them would test little."""
    for name, data in SEEDS.items():
        (tmp_path / "a").write_bytes(data)
        expected = (
            "found"
            if name != "legacy O"
            else "saved in the form that torch had before 1.6, with a ParameterDict in it"
        )
        assert outcome(tmp_path / "a") == expected, name


@fuzz
@given(seed=st.integers(0, 2**64))
def test_broken_files(tmp_path: Path, seed: int) -> None:
    (tmp_path / "a").write_bytes(random_file(Random(seed)))  # noqa: S311 - not for secrets
    assert outcome(tmp_path / "a")


@fuzz
@given(
    head=st.sampled_from([b"\x80\x02", b"\x80\x02}" + FRAGMENTS[0], b""]),
    body=st.lists(st.sampled_from(FRAGMENTS), max_size=20),
)
def test_pickles_of_any_opcodes(tmp_path: Path, head: bytes, body: list[bytes]) -> None:
    (tmp_path / "a").write_bytes(
        torch_zip(head + b"".join(body) + b".", d0=vectors(1, 8).numpy().tobytes())
    )
    assert outcome(tmp_path / "a")


@fuzz
@given(
    start=st.sampled_from(
        [b"", b"PK\3\4", b"\x80\x02", b"\x89PNG\r\n\x1a\n", struct.pack("<Q", 20) + b"{"]
    ),
    rest=st.binary(max_size=200),
)
def test_noise(tmp_path: Path, start: bytes, rest: bytes) -> None:
    (tmp_path / "a").write_bytes(start + rest)
    assert outcome(tmp_path / "a") != "found"


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
def test_small_files_that_ask_for_much(tmp_path: Path) -> None:
    bombs = small_bombs()
    for name, data in bombs.items():
        write_sparse(tmp_path / f"{name}.bomb", data)
    results = took(tmp_path, range(0))
    assert results.keys() == bombs.keys()
    assert [name for name, (what, _, _) in results.items() if what == "found"] == [
        "ten thousand rows on one",
        "tensor of numbers",
    ]
    for name in (
        "two rows on one number",
        "two rows on one number, legacy",
        "stride below nothing",
    ):
        assert results[name][0] == "its pickle holds a tensor that is larger than its data"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
def test_thousands_of_files(tmp_path: Path) -> None:
    """Random ones, of which a part is still good, then those near the limit of size."""
    for name, data in large_bombs():
        write_sparse(tmp_path / f"{name}.bomb", data)
    results = took(tmp_path, range(3000))
    good = [name for name, (what, _, _) in results.items() if what == "found"]
    assert 150 < len(good) < 600
    expected = {
        "slice of a large table",
        "slice, legacy",
        "the most numbers, doubled",
        "the most numbers of a pair",
    }
    assert {name for name in good if not name.startswith("random")} == expected
    assert len({what for what, _, _ in results.values()}) > 40, (
        "many kinds of damage are told apart"
    )


def test_torch_is_as_it_was(tmp_path: Path) -> None:
    """A ParameterDict that cannot be loaded leaves nothing allowed behind."""
    before = {*torch.serialization.get_safe_globals()}
    (tmp_path / "a").write_bytes(SEEDS["O"].replace(b"_rebuild_parameter", b"_rebuild_paramete_"))
    assert outcome(tmp_path / "a") != "found"
    data = SEEDS["O"].replace(b"archive/version", b"archive/versio_")
    (tmp_path / "a").write_bytes(data)
    assert "torch cannot load it" in outcome(tmp_path / "a")
    assert {*torch.serialization.get_safe_globals()} == before
