"""A disk that fills up costs no embedding: what was saved stays, and the run says what to do."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coinage.cli.console import set_up_log
from coinage.embeddings.reading import read
from coinage.training.observers.journal import Journal
from tests.helpers import prepared, rows_of

ROOT = Path(__file__).parents[2]
needs_full = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs a device that is always full"
)
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(
        [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def test_a_disk_that_fills_up(moon_dataset: Path, tmp_path: Path) -> None:
    disk, rescue = tmp_path / "disk", tmp_path / "rescue"
    disk.mkdir()
    rescue.mkdir()
    if not can_mount(disk):
        pytest.skip("needs a system that lets its users mount a disk in memory")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(rescue)}
    words = [
        *NAMESPACE,
        sys.executable,
        "-m",
        "tests.training.full_disk",
        str(disk),
        str(moon_dataset),
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    results = json.loads(done.stdout.splitlines()[-1])

    one = results["for a while"]
    assert (one["code"], one["same"], one["steps"]) == (0, True, [1, 2, 3, 4, 5, 6])
    stems = ["zibu", "zibu-step00000002", "zibu-step00000006"]  # that of step 4 had no room
    states = [f"{stem}-state/{file}" for stem in stems for file in ("state.json", "state.pt")]
    assert one["names"] == sorted(
        ["zibu-log.jsonl", "zibu-report.html", *(f"{stem}.safetensors" for stem in stems), *states]
    )
    assert done.stderr.count("the run continues; earlier files are unchanged") == 1
    assert (
        done.stderr.count(
            "preview 0 failed; training continues: cannot write the file: No space left on device"
        )
        == 1
    )
    assert done.stderr.count("TensorBoard failed and gets no more data; training continues") == 1

    # Full to the end: what could not be written is in another place, and the last state is whole.
    two = results["to the end"]
    assert (two["code"], two["rescued"], two["state"]) == (1, [True], 2)
    assert "error: cannot write the file: No space left on device" in done.stderr
    assert f"the word is safe in {rescue}" in done.stderr
    assert not [name for name in two["names"] if name.endswith(".tmp")]
    assert (two["again"], two["same"]) == (0, True)

    # Each of the folders that may take the word is enough; without any, it is on the terminal.
    three = results["nowhere"]
    for name in ("temporary", "work", "home", "runtime", "memory"):
        told, same = three["kept"][name]
        assert f"the word is safe in {tmp_path / 'places' / name}" in told or (
            name == "memory" and "in /dev/shm/coinage-" in told
        )
        assert same == [True]
    assert three["kept"]["None"][1] == []
    assert "the word is printed above as text" in three["kept"]["None"][0]
    assert three["left"] == []
    assert three["code"] == 1
    assert done.stderr.count("the word could not be saved in any folder") == 2
    for number, rows in ((0, torch.arange(64.0).reshape(2, 32)), (1, None)):
        for way in (0, 1):
            found = made_of_text(done.stderr, number, way, tmp_path / f"from-text-{number}{way}")
            assert found.shape == (2, 32) if rows is not None else len(found)
            assert rows is None or torch.equal(found, rows)


def made_of_text(told: str, number: int, way: int, folder: Path) -> torch.Tensor:
    """What the commands that are told make of the lines on the terminal, as a user would follow them."""
    ruler = "-" * 76
    before, text = told.split(f"{ruler}\n")[2 * number : 2 * number + 2]
    commands = [
        line.strip() for line in before.splitlines() if line.startswith("  ") and "word.txt" in line
    ][-2:]
    folder.mkdir()
    # As PowerShell saves what it shows
    (folder / "word.txt").write_text(text, encoding="utf-16" if way else "utf-8")
    command = commands[way].replace("python", sys.executable, 1) if way else commands[way]
    subprocess.run(command, shell=True, cwd=folder, check=True)  # noqa: S602 - it is ours
    return rows_of(read(folder / "zibu.safetensors"))


@needs_full
def test_the_log_is_whole_again_once_it_can_be_written(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(moon_dataset, tmp_path)
    path = tmp_path / "log.jsonl"
    log = Journal(path)
    log.started(run)
    disk = log._file
    with Path("/dev/full").open("r+b", buffering=0) as full:
        for run.progress.step in (1, 2, 3, 4):
            run.last.loss = run.step / 10
            log._file = full if run.step in (2, 3) else disk
            log.stepped(run)
            if run.step == 3:
                with path.open("ab") as file:
                    file.write(b'{"step": 2, "ep')  # half a line, as a full disk leaves it
    log.close(run)
    assert caplog.text.count("cannot write the log; training continues") == 1
    assert [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()] == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]


@needs_full
def test_a_log_file_that_cannot_be_written_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_log(file=Path("/dev/full"))
    for number in range(3):
        logging.getLogger("coinage").info("line %d", number)
    set_up_log()
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "warning: cannot write the log file: /dev/full"
    assert rest == ["line 0", "line 1", "line 2"], "and goes to stderr instead"


def test_a_log_file_takes_any_name(tmp_path: Path) -> None:
    set_up_log(file=tmp_path / "log.txt")
    logging.getLogger("coinage").info("a name like \udce9.png")
    logging.getLogger("coinage").info("the next")
    set_up_log()
    assert (tmp_path / "log.txt").read_text(
        encoding="utf-8"
    ) == "a name like \\udce9.png\nthe next\n"
