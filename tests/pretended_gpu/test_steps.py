"""What a training step costs on a GPU, and that a step which is undone leaves nothing behind."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RATCHET = Path(__file__).with_name("ratchet.json")
USUAL = ("sd1 bf16", "sdxl fp16")
# Beside what test_graphs.py records
GRAPHS = ("sd2 float32", "sd1 bf16 checkpointed", "sdxl bf16 fp8")


def seen_by(names: Sequence[str], out: Path) -> dict[str, Any]:
    """What happened, by name."""
    command = [sys.executable, "-m", "tests.pretended_gpu.steps", str(out), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "steps.json").read_text(encoding="utf-8"))
    return found


def check_costs(names: Sequence[str], seen: dict[str, Any]) -> None:
    """See that no figure has risen, and that what has fallen is written down."""
    allowed = json.loads(RATCHET.read_text(encoding="utf-8"))
    for name in names:
        found = seen[f"costs: {name}"]
        for what in ("waits", "kernels"):
            now, before = found[what], allowed[name][what]
            told = f"{name}: {now} {what} a step, {before} before; {found['where']}"
            assert now <= before, told
            assert now == before, f"{told}: write the lower figure to {RATCHET.name}"


def check_undone(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first == second


@pytest.mark.pretended
def test_what_a_step_costs_and_that_it_can_be_undone(tmp_path: Path) -> None:
    """In one process, which imports once."""
    undone = ["undone: sd1 bf16, unet", "undone: sd1 bf16, gradient"]
    seen = seen_by(
        [
            *(f"costs: {name}" for name in USUAL),
            *undone,
            "sampling: sd1 ddim",
        ],
        tmp_path,
    )
    assert seen["sampling: sd1 ddim"] == 0, "its tables and its times are on the CPU"
    check_costs(USUAL, seen)
    for name in undone:
        check_undone(*seen[name])
    again, refused = seen[undone[0]][0], seen[undone[1]][0]
    assert (again["step"], again["again"], again["error"]) == (4, 1, "")
    assert refused["step"] == 2
    assert "the gradient of step 3 is" in refused["error"]


@pytest.mark.slow
def test_other_ways_to_train(tmp_path: Path) -> None:
    others = [name for name in json.loads(RATCHET.read_text("utf-8")) if name not in USUAL]
    undone = [
        "undone: sdxl fp16, first gradients",
        "undone: sdxl fp16, unet",
        "undone: sd1 bf16 Directional, unet",
        "undone: sd1 bf16 clip, gradient",
    ]
    costs, waits = [f"costs: {name}" for name in others], [f"no waits: {name}" for name in GRAPHS]
    seen = seen_by([*costs, *undone, *waits], tmp_path)
    check_costs(others, seen)
    for name in undone:
        check_undone(*seen[name])
    assert seen[undone[0]][0]["error"] == ""
    assert seen[undone[0]][0]["step"] == 4
