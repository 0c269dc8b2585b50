"""On a GPU everything is as on a CPU: the losses, what is checked at the end, and what is told."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.pretended_gpu.device import built
from tests.pretended_gpu.variants import USUAL, VARIANTS

ROOT = Path(__file__).parents[2]
# Lines that tell of time, of the device, or of numbers that rounding may put in another order; one
# that a CPU alone has.
DIFFER = re.compile(
    r"step \d|device |start |encoding images|drawing|--mixed_precision fp16 is for GPUs"
    r"|note: computing in |warning: --mixed_precision bf16: this processor|hint: use --mixed_precision no"
)
CHECKED = (
    "works in AUTOMATIC1111, Forge, ComfyUI, InvokeAI, "
    "SD.Next, diffusers (prompts encode exactly as in training)"
)


def seen_by(names: Sequence[str], out: Path) -> dict[str, Any]:
    """What variants did on both devices, by their names."""
    command = [sys.executable, "-m", "tests.pretended_gpu.variants", str(out), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "seen.json").read_text(encoding="utf-8"))
    return found


def lines(told: Sequence[str]) -> set[str]:
    """What was told, numbers aside."""
    return {re.sub(r"\d[\d.e+-]*", "#", line) for line in told if not DIFFER.match(line)}


def check(gpu: dict[str, Any], cpu: dict[str, Any]) -> None:
    """See that a GPU did what a CPU did."""
    assert set(gpu["codes"]) == {0}, "\n".join(map(str, gpu["codes"]))
    assert set(cpu["codes"]) == {0}
    assert gpu["losses"].keys() == cpu["losses"].keys() != set()
    for name, due in cpu["losses"].items():
        assert len(due) == 2
        assert gpu["losses"][name] == pytest.approx(due, rel=0.02)
    assert lines(gpu["told"]) == lines(cpu["told"])
    assert any(
        line.startswith("device ") and line.endswith(" on Pretended GPU") for line in gpu["told"]
    )
    assert not [
        line for line in gpu["told"] if "could not be" in line or "does not work in" in line
    ]
    checked = [line for line in gpu["told"] if line.startswith("works in ")]
    assert checked, "each word that is learned is tried in other tools"
    assert set(checked) == {CHECKED}
    assert (
        len(checked)
        == len([line for line in cpu["told"] if line.startswith("works in ")])
        >= len(cpu["losses"])
    )
    assert not set(gpu["warned"]) - set(cpu["warned"])  # lines of the model libraries among them
    assert gpu["pictures"] == cpu["pictures"]
    assert gpu["kernels"] > gpu["waits"] > 0
    assert cpu["kernels"] == cpu["waits"] == 0


@pytest.mark.pretended
def test_a_gpu_does_what_a_cpu_does(tmp_path: Path) -> None:
    """In one process, which imports once."""
    seen = seen_by(USUAL, tmp_path)
    for name in USUAL:
        check(**seen[name])


@pytest.mark.slow
def test_all_other_variants(tmp_path: Path) -> None:
    others = [name for name in VARIANTS if name not in USUAL]
    seen = seen_by(others, tmp_path)
    for name in others:
        check(**seen[name])


RULES = """
import os, sys
from pathlib import Path
from tests.pretended_gpu import device
device.load(Path(sys.argv[1]))
import torch
from tests.pretended_gpu.tensors import ONLY, WaitError, pretended_gpu

def refused(work, words):
    try:
        work()
    except (RuntimeError, TypeError) as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")

with pretended_gpu() as gpu:
    numbers, layer = torch.arange(6.0, device="cuda").reshape(2, 3), torch.nn.Linear(3, 2).to("cuda")
    assert numbers.is_cuda and numbers.device == ONLY and layer.weight.device == ONLY
    with torch.autocast("cuda", torch.bfloat16):
        made = layer(numbers)
        assert made.dtype == torch.bfloat16
        assert made.softmax(1).dtype == torch.float32, "in CUDA's list, not in a CPU's"
    made.float().sum().backward()
    assert layer.weight.grad.is_cuda and layer.weight.grad.cpu().tolist() == [[3, 5, 7], [3, 5, 7]]
    refused(lambda: numbers + torch.ones(3), "all tensors to be on the same device")
    refused(lambda: layer(torch.ones(1, 3)), "all tensors to be on the same device")
    refused(lambda: torch.ones(2, 3)[numbers[0, :2].long()], "all tensors to be on the same device")
    refused(lambda: numbers.numpy(), "can't convert cuda:0")
    refused(lambda: torch.randn(2, device="cuda", generator=torch.Generator()), "for generator")
    assert (numbers + torch.tensor(1.0)).is_cuda, "a number may come from the CPU"
    assert numbers[torch.tensor([1])].cpu().tolist() == [[3, 4, 5]], "and an index"
    gpu.reset()
    views = numbers.view(6)[1:].t(), numbers.detach(), torch.empty(3, device="cuda")
    assert gpu.kernels == 0 and not gpu.waits
    with gpu.no_waits():
        numbers * 2 @ layer.weight.t()
        torch.ones(3, pin_memory=True).to("cuda", non_blocking=True)
    assert gpu.kernels == 3 and not gpu.waits
    for work in (numbers[0, 0].item, numbers.tolist, numbers.cpu, numbers.nonzero,
                 lambda: numbers[numbers > 1],
                 lambda: torch.ones(3).to("cuda"), lambda: torch.ones(3).to("cuda", non_blocking=True),
                 lambda: bool(numbers.any()),
                 lambda: torch.equal(numbers, numbers),
                 torch.cuda.synchronize, lambda: numbers[torch.tensor([0])]):
        before = gpu.waits.total()
        work()
        assert gpu.waits.total() == before + 1, work
        with gpu.no_waits():
            refused(work, "waits for the GPU")
    graph, stream, pool = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    given, total = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        assert torch.cuda.is_current_stream_capturing()
        doubled = given.view(2, 1).mul(2).flatten()
        total.add_(doubled)
        kept = doubled.clone()
        refused(total.tolist, "waits for the GPU")
    assert total.tolist() == [1, 1] and kept.isnan().all(), "recording computes nothing"
    for number in (1, 2):
        given.fill_(number)
        gpu.reset()
        graph.replay()
        assert gpu.kernels == 1
        assert kept.tolist() == [2 * number] * 2
    assert total.tolist() == [7, 7]
assert not torch.cuda.is_available()
os._exit(0)
"""


def test_the_rules_of_cuda() -> None:
    """Without them the variants would show nothing."""
    done = subprocess.run(
        [sys.executable, "-c", RULES, str(built())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
