"""Many small reads: one by one from a fast disk, by threads from one that makes us wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
TRIAL = 64  # reads that tell how fast the disk is
# Seconds per read; from the system's cache it takes a fifth, and threads would only get in each other's way
SLOW = 50e-6
THREADS = 8
CHUNK = 64  # reads per task: a task for each would cost more than the read


def read_many(read: Callable[[T], R], items: Sequence[T]) -> list[R | OSError]:
    """What `read` makes of each item, in order; an OSError where it fails."""

    def read_chunk(chunk: Sequence[T]) -> list[R | OSError]:
        results: list[R | OSError] = []
        for item in chunk:
            try:
                results.append(read(item))
            except OSError as error:
                results.append(error)
        return results

    start = time.perf_counter()
    found = read_chunk(items[:TRIAL])
    if time.perf_counter() - start < SLOW * len(found):
        return found + read_chunk(items[TRIAL:])
    chunks = [items[i : i + CHUNK] for i in range(TRIAL, len(items), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        return found + [result for results in pool.map(read_chunk, chunks) for result in results]


def read_bytes(path: str) -> bytes:
    """A file's contents; faster than pathlib, which counts when every image has a caption file."""
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()
