"""The bare command: help in all its spellings, and commands that are not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from coinage.cli.main import COMMANDS, main
from tests.helpers import captured


def shown(*words: str) -> tuple[int, str, str]:
    """What a command that shows its help prints: its exit code, stdout, stderr."""
    codes: list[object] = []

    def run() -> int:
        try:
            codes.append(main(words))
        except SystemExit as ended:
            codes.append(ended.code or 0)
        return 0

    done = captured(run)
    assert isinstance(codes[0], int)
    return codes[0], done.stdout, done.stderr


@pytest.mark.parametrize("words", [("help",), ("--help",), ("-h",), ()])
def test_help_shows_the_commands(words: tuple[str, ...]) -> None:
    code, out, error = shown(*words)
    assert (code, error) == (0, "")
    assert all(f"\n  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str) -> None:
    assert shown("help", command) == shown(command, "--help")
    code, out, _ = shown("help", command)
    assert code == 0
    assert f"coinage {command}" in out


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trian", "did you mean `train`?"),
        ("generat", "did you mean `generate`?"),
        ("Report", "did you mean `report`?"),
        ("lora", f"the commands are {', '.join(COMMANDS)}"),
        ("\x1b[2J", f"the commands are {', '.join(COMMANDS)}"),
        ("train_textual_inversion.py", f"the commands are {', '.join(COMMANDS)}"),
    ],
)
def test_a_mistyped_command(word: str, hint: str) -> None:
    for words in ((word, "--seed=1"), ("help", word)):
        code, out, error = shown(*words)
        assert (code, out) == (2, "")
        assert "is not a command of coinage" in error
        assert f"hint: {hint}" in error
        assert "\x1b" not in error


def test_a_reader_that_has_seen_enough_gets_no_traceback(moon_dataset: Path) -> None:
    words = [sys.executable, "-m", "coinage.cli.main", "dataset", str(moon_dataset), "--token=zibu"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141


def test_a_program_ends_without_looking_for_garbage() -> None:
    code = (
        "import gc; gc.set_debug(gc.DEBUG_STATS); from coinage.cli.main import main; main(['help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    frozen = [line for line in done.stderr.splitlines() if "permanent generation" in line]
    assert int(frozen[-1].rpartition(" ")[2]) > 10_000
