"""How this process was started, and how it shares the machine. Imports no torch."""

from __future__ import annotations

import os


def process_rank() -> int:
    """This process's number, 0 for the first one and for a run of one process."""
    return _number("RANK", 0)


def process_count() -> int:
    """How many processes run together, at least 1."""
    return max(_number("WORLD_SIZE", 1), 1)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def wait_asleep() -> None:
    """Have the threads of OpenMP sleep while they wait for each other, unless the user has chosen; call it before torch is imported.

    By default they spin. Where another process keeps a core busy, a thread that spins takes the core that the thread it waits
    for needs, thousands of times a second.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
