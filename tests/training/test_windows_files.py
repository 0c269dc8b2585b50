"""A run under Windows' rules for open files: it trips over none of its own, and lives with others'."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from coinage.cli.train import train_command
from coinage.system import files
from tests.helpers import captured, flags
from tests.windows import held_open, windows_files

EVERYTHING = (
    "--max_train_steps=3",
    "--save_every_n_steps=1",
    "--save_last_n_steps=1",
    "--save_state",
    "--save_last_n_steps_state=1",
    "--sample_every_n_steps=3",
    "--cache_latents_to_disk",
    "--keep_best",
    "--output_name=zibu",
)
PROMPT = "a zibu --w 64 --h 64 --s 1 --d 1\n"


def words_of(dataset: Path, out: Path, *more: str) -> list[str]:
    prompts = out.parent / "prompts.txt"
    prompts.write_text(PROMPT, encoding="utf-8")
    return flags(dataset, out, *EVERYTHING, f"--sample_prompts={prompts}", *more)


@pytest.mark.slow
def test_a_run_replaces_renames_and_deletes_nothing_that_it_has_open(
    moon_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with windows_files() as refused:
        for more in (("--max_train_steps=2",), ("--resume=latest",), ("--seed=1",)):
            words = words_of(moon_dataset, out, *more)
            done = captured(partial(train_command, "coinage", words))
            assert done.returncode == 0, done.stderr
            assert "cannot" not in done.stderr
    # Elsewhere than on Windows a lock is deleted before it is closed
    assert set(refused) <= {str(out / ".zibu.lock")}
    assert (out / "zibu-log-1.jsonl").is_file(), "the third run begins anew and sets it aside"
    assert (out / "zibu-step00000003.safetensors").is_file()
    assert not (out / "zibu-step00000001.safetensors").is_file(), "older saves are deleted"


def test_a_run_goes_on_beside_programs_that_read_its_files(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    out = tmp_path / "out"
    out.mkdir()
    report, older, word = (
        out / name
        for name in ("zibu-report.html", "zibu-step00000001.safetensors", "zibu.safetensors")
    )
    for path in (report, older, word):
        path.write_bytes(b"being read")
    words = words_of(moon_dataset, out, "--sample_every_n_steps=0")
    with windows_files(), held_open(report), held_open(older), held_open(word):
        done = captured(lambda: train_command("sd", words))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    held = "another program has it open, or it is read-only\n  --> "
    assert f"{held}{report}" in done.stderr
    assert "an older save cannot be deleted, and stays: " in done.stderr
    assert f"  --> {older}" in done.stderr
    assert f"{held}{word}" in done.stderr
    assert word.read_bytes() == b"being read"
    rescued = re.search(r"the word is safe in (\S+):", done.stderr)
    assert rescued, "what was learned is not lost"
    shutil.rmtree(Path(rescued[1]).parent)
