"""Measure what a busy neighbour costs: `python benchmarks/busy.py`.

Of another command: `python benchmarks/busy.py --runs 5 -- COMMAND ...`.

Runs a command (`coinage demo` unless another is given) in turns on the machine as it is, and beside
processes that keep some cores busy. Prints the seconds of both, their medians, and how many times
as long the command took. The machine should have nothing else to do meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

DEMO = [sys.executable, "-m", "coinage.cli.main", "demo"]
SPIN = [sys.executable, "-c", "while True: pass"]


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep so many cores busy for a while."""
    neighbours = [subprocess.Popen(SPIN) for _ in range(cores)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def seconds(command: Sequence[str], cores: int) -> float:
    """Run a command in an empty folder beside so many busy processes; return its seconds."""
    with tempfile.TemporaryDirectory() as folder, busy(cores):
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        took = time.monotonic() - start
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}\nfailed with exit code {done.returncode}")
    return took


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="of each kind, in turns")
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside the command")
    parser.add_argument("command", nargs="*", help="the command, after --")
    args = parser.parse_args(argv)
    command = args.command or DEMO
    pairs = [(seconds(command, 0), seconds(command, args.busy)) for _ in range(args.runs)]
    print(f"{os.cpu_count()} cores, {args.busy} kept busy: {shlex.join(command)}\n")
    print("| run | alone s | beside s | times as long |\n|---|---|---|---|")
    for number, (alone, beside) in enumerate(pairs, 1):
        print(f"| {number} | {alone:.1f} | {beside:.1f} | {beside / alone:.2f} |")
    alone, beside = (median(side) for side in zip(*pairs, strict=True))
    print(f"| median | {alone:.1f} | {beside:.1f} | {median(b / a for a, b in pairs):.2f} |")


if __name__ == "__main__":
    main()
