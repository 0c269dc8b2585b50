"""Recognise the errors by which each kind of device reports full memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from coinage.errors import Problem

T = TypeVar("T")

FULL_MEMORY_TEXTS = (
    "out of memory",  # CUDA, XPU and MPS
    "alloc_failed",  # cuBLAS and cuDNN, when they cannot get memory for themselves
    "not enough memory",  # a CPU on Windows
    "can't allocate memory",  # a CPU elsewhere
)


def is_full(error: BaseException) -> bool:
    """Return whether an error of torch, of a library below it or of Python means full memory."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"OutOfMemoryError", "MemoryError"}:
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(text in message for text in FULL_MEMORY_TEXTS)


def tried(work: Callable[[], T]) -> T | None:
    """Return the result of `work`; None where memory runs out.

    The error is gone then, and with it the tensors of its frames.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_full(error):
            raise
    return None


def full_memory(error: BaseException, where: str = "", hint: str = "") -> Problem:
    """Explain an error for which `is_full` is true: the GPU's memory is full, or the computer's.

    Args:
        error: as it was raised.
        where: the place that the problem names.
        hint: how to fix it; general advice if empty.
    """
    on_cpu = isinstance(error, MemoryError) or "cpuallocator" in str(error).lower()
    owner = "the computer's" if on_cpu else "the GPU's"
    advice = "use a lower precision or a smaller size, or close other programs that use it"
    return Problem(f"{owner} memory is full", where, hint or advice)
