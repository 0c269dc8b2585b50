"""Which process this is, as accelerate, torchrun and their like tell it. Imports no torch."""

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
