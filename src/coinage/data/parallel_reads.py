"""Read many small files: one by one from a fast disk, by threads from a slow one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
TRIAL = 64  # reads that show how fast the disk is
# Seconds per read. From the system's cache it takes a fifth, and threads would only be in the way.
SLOW = 50e-6
THREADS = 8
CHUNK = 64  # reads per task: a task for each would cost more than the read


def read_many(read: Callable[[T], R], items: Sequence[T]) -> list[R | OSError]:
    """Return the results of `read` for all items, in order; an OSError where it fails."""

    def read_chunk(chunk: Sequence[T]) -> list[R | OSError]:
        results: list[R | OSError] = []
        for item in chunk:
            try:
                results.append(read(item))
            except OSError as error:
                results.append(error)
        return results

    start = time.perf_counter()
    results = read_chunk(items[:TRIAL])
    if time.perf_counter() - start < SLOW * len(results):
        return results + read_chunk(items[TRIAL:])
    chunks = [items[i : i + CHUNK] for i in range(TRIAL, len(items), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk_results in pool.map(read_chunk, chunks):
            results += chunk_results
    return results
