"""Consoles that know few letters, as those of Windows: every command shows the others as escapes."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from coinage.cli.main import COMMANDS, main

# Of a console in Japan, in Western Europe, of cmd.exe in the USA, and of a service without any
ENCODINGS = ("cp932", "cp1252", "cp437", "ascii")
STRANGE = "日本語 é 😀 한국"
MISTAKES: dict[str, list[str]] = {
    "command": [STRANGE],
    "demo": ["demo", f"--concept={STRANGE}"],
    "ui": ["ui", "--host", STRANGE, "--port", STRANGE],
    "train": ["train", f"--dataset_config=HERE/{STRANGE}.toml", f"--token_string={STRANGE}"],
    "dataset": ["dataset", "HERE"],
    "dataset without its file": ["dataset", f"HERE/{STRANGE}.toml"],
    "generate": ["generate", f"HERE/{STRANGE}", STRANGE],
    "evaluate": ["evaluate", f"HERE/{STRANGE}", f"--embedding=HERE/{STRANGE}.pt"],
    "inspect": ["inspect", f"HERE/{STRANGE}.safetensors"],
    "convert": ["convert", f"HERE/{STRANGE}.pt", f"HERE/{STRANGE}.safetensors"],
    "verify": ["verify", f"HERE/{STRANGE}.pt"],
    "report": ["report", f"HERE/{STRANGE}"],
    "doctor": ["doctor", f"--{STRANGE}"],
}


def shown(words: Sequence[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run a command on a console; return its exit code and what the console shows."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    try:
        code = main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    for stream in streams:
        stream.flush()
    text = b"".join(stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
    return code, text.decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_help_of_every_command(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(["--help"], encoding, monkeypatch)[0] == 0
    for command in COMMANDS:
        code, text = shown([command, "--help"], encoding, monkeypatch)
        assert code == 0, command
        assert f"coinage {command}" in text
        assert "Traceback" not in text


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_errors_that_name_what_the_console_cannot_show(
    mistake: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{STRANGE}.txt").write_text(STRANGE, encoding="utf-8")
    words = [word.replace("HERE", str(tmp_path)) for word in MISTAKES[mistake]]
    code, text = shown(words, encoding, monkeypatch)
    assert code in (1, 2)
    assert "error:" in text
    assert "Traceback" not in text
    assert "UnicodeEncodeError" not in text
