"""On a Mac's GPU, as far as it can be pretended, everything is as on a CPU: no float64, no pinned memory."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.pretended_gpu.test_variants import CHECKED, lines

ROOT = Path(__file__).parents[2]
USUAL = ("sd1 in what suits the device",)
OTHERS = (
    "sd1 bf16, previews, resume, generate, verify",
    "sdxl bf16, fp8, checkpointing",
    "sd2 fp16, uncached",
    "sd1 bf16, low memory, previews",
    "sd1 bf16, search, early stop",
)
REFUSED = """
from tests.pretended_gpu import device
device.load(device.built())
import torch
from tests.pretended_gpu.tensors import pretended_gpu
with pretended_gpu():
    row = torch.ones(2, 3, device="mps")
    print(torch.accelerator.current_accelerator(), row.device, float(row.sum()))
    for refused in (
        lambda: row.double(),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.zeros(2, pin_memory=True),
        lambda: row.to(torch.float8_e4m3fn),
        lambda: row + torch.ones(3),
        lambda: torch.randn(2, device="mps", generator=torch.Generator()),
        lambda: row.norm(dim=1, dtype=torch.float32),
    ):
        try:
            refused()
        except (TypeError, RuntimeError, ValueError) as error:
            print(type(error).__name__)
        else:
            print("done")
"""


def on_mac(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with the pretended GPU of a Mac."""
    environment = {**os.environ, "PRETENDED_GPU": "mps"}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def check_variants(names: Sequence[str], out: Path) -> None:
    """See that a Mac does what a CPU does."""
    on_mac(["-m", "tests.pretended_gpu.variants", str(out), *names])
    seen = json.loads((out / "seen.json").read_text(encoding="utf-8"))
    for name in names:
        mac, cpu = seen[name]["gpu"], seen[name]["cpu"]
        check(name, mac, cpu)


def check(name: str, mac: dict[str, Any], cpu: dict[str, Any]) -> None:
    assert set(mac["codes"]) == {0}, "\n".join(map(str, mac["codes"]))
    assert mac["losses"].keys() == cpu["losses"].keys() != set()
    for log, due in cpu["losses"].items():
        assert mac["losses"][log] == pytest.approx(due, rel=0.02)
    assert lines(mac["told"]) == lines(cpu["told"])
    dtypes = {"bf16": "bfloat16", "fp16": "float16"}
    dtype = next(
        (dtypes[word] for word in name.replace(",", "").split() if word in dtypes), "float32"
    )
    assert f"device  {dtype} on mps" in mac["told"]
    assert CHECKED in mac["told"]
    assert mac["pictures"] == cpu["pictures"]
    assert mac["kernels"] > mac["waits"] > 0


@pytest.mark.pretended
def test_a_mac_does_what_a_cpu_does(tmp_path: Path) -> None:
    check_variants(USUAL, tmp_path)


@pytest.mark.slow
def test_other_ways_on_a_mac(tmp_path: Path) -> None:
    check_variants(OTHERS, tmp_path)


@pytest.mark.pretended
def test_what_a_mac_refuses() -> None:
    told = on_mac(["-c", REFUSED]).stdout.splitlines()
    assert told[0] == "mps mps:0 6.0"
    assert told[1:] == [
        "TypeError",
        "TypeError",
        "RuntimeError",
        "TypeError",
        "RuntimeError",
        "RuntimeError",
        "ValueError",
    ]
