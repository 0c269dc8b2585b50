"""Check Coinage on a GPU: `make gpu-check`, or `python tools/gpu_check.py --results FOLDER`.

First the tests that need a GPU, then `benchmarks/gpu_matrix.py`, also where a test has failed. It
needs no network and installs nothing: packages that this Python lacks may lie in folders of
PYTHONPATH, such as one that `pip install --no-deps --target FOLDER WHEEL` has filled elsewhere.

A call ends within `--minutes` or a few minutes more. Rows of the matrix that are left are done by
the next call; `--only` chooses a part, and what follows `--` is for the matrix.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NEEDED = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub", "numpy",
    "PIL", "pytest",
)  # fmt: skip
TESTS = (
    "-m", "pytest", "tests/test_gpu.py", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider",
    "-q", "-rs",
)  # fmt: skip
PARTS = ("tests", "matrix")


def missing(names: Sequence[str] = NEEDED) -> list[str]:
    """Packages that this Python does not find."""
    return [name for name in names if find_spec(name) is None]


def environment() -> dict[str, str]:
    """This process's environment, in which the product and the benchmarks are found, without network."""
    places = [str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def shown(words: Sequence[str], log: Path, values: Mapping[str, str], seconds: float) -> int:
    """Run this Python with some words, show and keep what it prints, and return its exit code.

    Args:
        words: of the command line.
        log: gets the same text.
        values: of the environment.
        seconds: after which it is ended, with exit code 124.
    """
    command = [sys.executable, "-u", *words]
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(command, cwd=ROOT, env=values, stdout=file, stderr=file) as process,
        log.open(encoding="utf-8", errors="replace") as text,
    ):
        end = time.monotonic() + seconds
        while process.poll() is None:
            sys.stdout.write(text.read())
            sys.stdout.flush()
            if time.monotonic() > end:
                process.kill()
                process.wait()
                print(f"\nended after {seconds / 60:.0f} minutes")
                return 124
            time.sleep(0.2)
        sys.stdout.write(text.read())
        return process.returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; return 0 if all of them did well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, default=RESULTS, help="folder of what is printed and measured")
    add("--only", choices=PARTS, help="this part alone")
    add("--minutes", type=float, default=7, help="of the whole call")
    add("matrix", nargs="*", metavar="ARGUMENT", help="of the matrix, after --")
    args = parser.parse_args(argv)
    lacking = missing()
    if lacking:
        print(f"this Python has no {', '.join(lacking)}: put folders with them into PYTHONPATH")
        return 2
    args.results.mkdir(parents=True, exist_ok=True)
    results, start = args.results.resolve(), time.monotonic()
    codes = []
    if args.only != "matrix":
        log = results / "tests.txt"
        codes.append(shown(TESTS, log, environment(), 60 * args.minutes))
    if args.only != "tests":
        left = max(args.minutes - (time.monotonic() - start) / 60, 0)
        words = [str(ROOT / "benchmarks" / "gpu_matrix.py"), f"--results={results}"]
        words += [f"--minutes={left:.2f}", *args.matrix]
        # Rows that have begun are ended only if they hang
        codes.append(shown(words, results / "matrix.txt", environment(), 60 * (left + 10)))
    return max(codes, key=abs)


if __name__ == "__main__":
    raise SystemExit(main())
