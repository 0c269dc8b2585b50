"""The demo over concepts and seeds: `python benchmarks/demo.py --concepts moon drop --seeds 0 1 2`.

Each run is `coinage demo` as a user starts it. Prints one row a run, and the averages against the
gate: S_before at most 0.15, S_after at least 0.75, E_after at least 0.85, no single run under 0.55.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from coinage.demo.score import passes_gate

KEYS = ("S_before", "S_after", "E_before", "E_after")


def demo(family: str, concept: str, seed: int, steps: int | None) -> dict[str, float]:
    """Run the demo once; its result.json, with the whole time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "coinage.cli.main",
            "demo",
            f"--family={family}",
            f"--concept={concept}",
            f"--seed={seed}",
        ]
        start = time.monotonic()
        done = subprocess.run(
            [*command, *([f"--steps={steps}"] if steps else []), f"--output={folder}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        result: dict[str, float] = json.loads(
            (Path(folder) / "result.json").read_text(encoding="utf-8")
        )
        return result | {"total": time.monotonic() - start}


def main() -> int:
    """Print the table; exit 1 if the gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", nargs="+", default=["moon", "red-striped-cross", "checkered"])
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="default: the demo's own")
    args = parser.parse_args()
    print(
        "| concept | seed | S before | S after | E before | E after | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    results = []
    for concept in args.concepts:
        for seed in args.seeds:
            result = demo(args.family, concept, seed, args.steps)
            results.append(result)
            row = " | ".join(f"{result[key]:.2f}" for key in KEYS)
            print(f"| {concept} | {seed} | {row} | {result['total']:.0f} |", flush=True)
    average = {key: mean(result[key] for result in results) for key in KEYS}
    print(
        "| **mean** | | "
        + " | ".join(f"**{average[key]:.2f}**" for key in KEYS)
        + f" | {mean(r['total'] for r in results):.0f} |"
    )
    passed = average["S_before"] <= 0.15 and passes_gate(
        [(r["S_after"], r["E_after"]) for r in results]
    )
    print("gate passed" if passed else "gate missed")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
