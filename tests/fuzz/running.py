"""Run a training command in this process, and say what must not happen to anybody."""

import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import safetensors
import torch

from coinage.cli.train import train_command
from tests.helpers import captured

LIMIT = 10  # seconds of the processor; a machine that is busy with other things counts as it should
PATIENCE = 120  # seconds of the clock, for what waits without computing
# Flags with which nothing is trained
STOPS = ("--dry_run", "--debug_dataset", "--output_config", "--help", "-h")


class HangError(BaseException):
    """Not an Exception, since the program may catch those of libraries."""


@dataclass(frozen=True)
class Result:
    """What a command came to; `trouble` is empty where all is as it should be."""

    words: tuple[str, ...]
    code: int
    told: str
    trouble: str

    def __str__(self) -> str:
        return f"{self.trouble}\n  {' '.join(map(repr, self.words))}\n  " + "\n  ".join(
            self.told.splitlines()[-12:]
        )


@contextmanager
def limited() -> Iterator[None]:
    """End with HangError what takes too long."""

    def ring(number: int, _frame: FrameType | None) -> None:
        raise HangError(f"hangs ({signal.Signals(number).name})")

    before = {number: signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def result_of(words: Sequence[str], out: Path, script: str = "coinage") -> Result:
    """Run a command.

    Args:
        words: its flags.
        out: its output folder, unless it names another.
        script: "sd", "sdxl" or "coinage".
    """
    begun, code, told = time.process_time(), -1, ""
    try:
        with limited():
            done = captured(lambda: exit_code(script, words))
        code, told = done.returncode, done.stdout + done.stderr
        trouble = "" if code in (0, 1, 2) else f"exit code {code}"
        # Which asks for one
        if "Traceback (most recent call last)" in told and "--verbose" not in words:
            trouble = "traceback"
        elif (
            not trouble and code == 0 and not any(word.partition("=")[0] in STOPS for word in words)
        ):
            trouble = broken_word(told, out)
    except HangError as error:
        trouble = str(error)
    except Exception as error:  # noqa: BLE001 - exactly what must not happen
        trouble = f"{type(error).__name__}: {error}"
    if not trouble and time.process_time() - begun > LIMIT:
        trouble = f"takes {time.process_time() - begun:.0f} s of the processor"
    return Result(tuple(words), code, told, trouble)


def exit_code(script: str, words: Sequence[str]) -> int:
    """Train; argparse ends `--help` by SystemExit."""
    try:
        return train_command(script, list(words), prog="coinage train")
    except SystemExit as ended:
        return int(ended.code or 0)


def broken_word(told: str, out: Path) -> str:
    """What is wrong with the file of a run that ended well."""
    named = re.findall(r"^saved (.*)$", told, re.MULTILINE)
    files = [Path(name) for name in named] or sorted(out.rglob("*.safetensors"))
    if not files:
        return (
            ""
            if any(out.rglob("*.pt")) or any(out.rglob("*.ckpt"))
            else "ends well and has written no word"
        )
    for path in files:
        if path.suffix == ".safetensors" and path.is_file():
            with safetensors.safe_open(path, framework="pt") as file:
                if not all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys()):  # noqa: SIM118
                    return f"the word in {path.name} is not finite"
    return ""


def told_of(results: Sequence[Result]) -> str:
    """All trouble, one after the other; empty where there is none."""
    wrong = [result for result in results if result.trouble]
    return "\n\n".join(map(str, wrong[:20])) + (
        f"\n\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
    )
