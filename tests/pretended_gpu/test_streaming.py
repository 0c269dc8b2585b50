"""On a GPU streamed weights are copied behind what is computed: nothing waits, nothing comes too late."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretended_gpu.device import built

ROOT = Path(__file__).parents[2]
PASSES = """
import os, sys
from pathlib import Path
from tests.pretended_gpu import device
device.load(Path(sys.argv[1]))
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from coinage.models import streaming
from coinage.models.bit_sums import sum_of_bits
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.streaming import stream
from tests.pretended_gpu.tensors import ONLY, pretended_gpu

def module(eight_bits):
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16)) for _ in range(6)]
    made = nn.ModuleList(parts).requires_grad_(False)
    if eight_bits:
        keep_in_eight_bits(made)
    return made

x = torch.linspace(-1, 1, 48).reshape(3, 16)

def passed(parts, x, checkpointed):
    made = x = x.requires_grad_()
    for part in parts:
        made = checkpoint(part, made, use_reentrant=False) if checkpointed else part(made)
    loss = made.square().sum()
    with torch.no_grad():
        for part in parts:
            part(made)
    return made, torch.autograd.grad(loss, x)[0]

for eight_bits in (False, True):
    for checkpointed in (False, True):
        expected = passed(module(eight_bits), x, checkpointed)
        with pretended_gpu() as gpu:
            parts = module(eight_bits)
            stream(parts, ONLY, limit=8192, least=0)
            parts.to(ONLY)
            assert not parts[0][0].weight.is_cuda and parts[0][0].bias.is_cuda
            moved = x.detach().to(ONLY)
            passed(parts, moved, checkpointed)
            bits = sum_of_bits([*parts.parameters()])
            for _ in range(2):
                gpu.reset()
                with gpu.no_waits():
                    made, gradient = passed(parts, moved, checkpointed)
                assert not gpu.waits and gpu.kernels > 40
                assert torch.equal(made.cpu(), expected[0])
                torch.testing.assert_close(gradient.cpu(), expected[1], rtol=1e-5, atol=1e-10)
            assert sum_of_bits([*parts.parameters()]) == bits
            parts[0][0].weight[0, 0] += 1
            assert sum_of_bits([*parts.parameters()]) != bits
with pretended_gpu() as gpu:
    streaming._Buffer.acquire = lambda buffer: None
    parts = module(True)
    stream(parts, ONLY, limit=8192, least=0)
    parts.to(ONLY)
    made, _ = passed(parts, x.detach().to(ONLY), False)
    assert not torch.equal(made.cpu(), expected[0]), "what does not wait for a copy is wrong here"
os._exit(0)
"""


@pytest.mark.pretended
def test_copies_are_made_behind_what_is_computed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASSES, str(built())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
