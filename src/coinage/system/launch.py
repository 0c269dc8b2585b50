"""Read how this process was started, and set how it waits. Imports no torch."""

from __future__ import annotations

import os


def process_rank() -> int:
    """Return the number of this process: 0 for the first, and for a run of one process."""
    return _number("RANK", 0)


def process_count() -> int:
    """Return the number of processes that train together, at least 1."""
    return max(_number("WORLD_SIZE", 1), 1)


def leave_group() -> tuple[int, int]:
    """Make this process one of its own, whatever launcher started it.

    Returns:
        Its number among all processes, and among those of its machine; 0 without a launcher.
    """
    numbers = process_rank(), _number("LOCAL_RANK", 0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    return numbers


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def wait_asleep() -> None:
    """Make OpenMP's threads sleep while they wait for each other; call it before importing torch.

    By default they spin. If another process keeps a core busy, a spinning thread occupies the core
    that the thread it waits for needs, thousands of times a second. A value that the user has set
    in the environment stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
