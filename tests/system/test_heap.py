"""Freed memory is kept for the next step."""

import subprocess
import sys

import pytest

LARGE = """
import resource
import torch
from coinage.system.heap import keep_freed_memory

assert keep_freed_memory()

def step():
    return [torch.empty(2**20).fill_(1) for _ in range(20)][0]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_pages_are_not_fetched_again() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000  # of 20,480
