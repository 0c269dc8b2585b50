"""A word that cannot be written to its place is kept elsewhere; test_full_disk.py has the disks."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.embeddings.reading import read
from coinage.embeddings.word import Word
from coinage.errors import CoinageError
from coinage.system.files import temporary_of, write_bytes
from coinage.training.observers.saver import Saver
from coinage.training.rescue import bring_to_safety
from coinage.training.results import Best
from coinage.training.run import Run
from tests.helpers import prepared, rows_of

NAMES = {
    "too long": "a" * 250,
    "too long in bytes": "ミ" * 82,
    "no text": "\ud800",
    "not to be written": "a\0b",
    "a folder that is missing, below a file": "file/zibu",
}


@pytest.fixture(scope="module")
def run(moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return prepared(moon_dataset, tmp_path_factory.mktemp("run"))


def saver_for(run: Run, folder: Path, name: str, precision: str = "float") -> Saver:
    config = replace(run.config, word=replace(run.config.word, output_name=name))
    save = replace(config.save, output_dir=folder, precision=precision)  # type: ignore[arg-type]
    return Saver(replace(config, save=save))


@pytest.mark.parametrize("kind", NAMES)
def test_whatever_its_name_does_to_it_the_last_save_is_somewhere(
    kind: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CoinageError) as caught:
        saver_for(run, tmp_path, NAMES[kind]).finished(run)
    (problem,) = caught.value.problems
    assert problem.what.startswith("cannot write the file: ")
    (kept,) = tmp_path.glob("coinage-*/*.safetensors")
    assert problem.hint == f"the word is safe in {kept}: copy it from there"
    assert torch.equal(rows_of(read(kept)), run.rows_to_save()[0])


def test_the_best_word_is_brought_to_safety_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        run.results, "best", Best(2, 1, 0.1, [rows + 1 for rows in run.rows_to_save()])
    )
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CoinageError, match=r"the word is safe in .*/zibu\.safetensors"):
        saver_for(run, tmp_path / "file", "zibu").finished(run)
    (kept,) = tmp_path.glob("coinage-*/zibu-best.safetensors")
    assert f"the word is safe in {kept}" in caplog.text
    assert torch.equal(rows_of(read(kept)), run.rows_to_save()[0] + 1)


def test_a_name_as_long_as_the_file_system_takes_is_written(run: Run, tmp_path: Path) -> None:
    for name in ("a" * 243, "ミ" * 81):
        saver_for(run, tmp_path, name).finished(run)
        assert (tmp_path / f"{name}.safetensors").is_file()
    path = tmp_path / ("b" * 255)
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    for length in (1, 64, 65, 255):
        assert len(os.fsencode(temporary_of(tmp_path / ("c" * length)).name)) <= 80
    with pytest.raises(CoinageError, match="cannot write the file: File name too long"):
        write_bytes(tmp_path / ("b" * 256), b"x")


def test_numbers_that_the_asked_precision_cannot_hold_are_kept_in_float(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with torch.no_grad():
        before = run.rows[0].clone()
        run.rows[0][0, 0] = 1e6
    with pytest.raises(CoinageError, match="not finite in fp16"):
        saver_for(run, tmp_path / "out", "zibu", "fp16").finished(run)
    (kept,) = tmp_path.glob("coinage-*/zibu.safetensors")
    assert rows_of(read(kept))[0, 0] == 1e6
    with torch.no_grad():
        run.rows[0].copy_(before)


def test_a_word_that_is_not_finite_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = Word({"emb_params": torch.full((1, 4), torch.nan)}, "zibu", 1, {})
    error = CoinageError("why", "where", "what to do")
    assert bring_to_safety(tmp_path / "zibu.pt", file, error) is error
    assert not list(tmp_path.iterdir())


# Commands whose streams are not read, or full, end with the code that tells what became of the word


def ended(act: str, out: str, error: str) -> int:
    """The exit code of a command whose streams go to `out` and `error`."""
    code = (
        "import sys\nfrom coinage.cli.console import exit_code_of\nfrom coinage.errors import CoinageError\n"
        "from coinage.terminal.messages import print_result\nimport logging\n"
        f"def act():\n    logging.getLogger('coinage').info('told')\n    {act}\nsys.exit(exit_code_of(act))"
    )
    return subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" {out} {error}', sys.executable, code], check=False
    ).returncode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("print_result('saved.pt')", 0),
        ("raise CoinageError('not saved')", 1),
        ("sys.exit(143)", 143),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_exit_codes_hold_where_nothing_can_be_said(act: str, code: int) -> None:
    for out, error in ((">/dev/full", "2>/dev/full"), (">/dev/full", ""), (">&-", "2>&-")):
        assert ended(act, out, error) == code, (out, error)


def test_a_reader_that_has_gone_is_no_failure() -> None:
    code = (
        "from coinage.cli.console import exit_code_of\n"
        "from coinage.terminal.messages import print_result\nimport sys, time\n"
    )
    code += "time.sleep(0.3)\nsys.exit(exit_code_of(lambda: print_result('saved.pt')))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told) == (0, b"")
