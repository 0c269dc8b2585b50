"""Errors that mean that the memory of a device is full, in the words of each kind of device. Imports no torch."""

from __future__ import annotations

from coinage.errors import Problem

WORDS = (
    "out of memory",  # CUDA, XPU and MPS
    "alloc_failed",  # cuBLAS and cuDNN, which find no room for themselves
    "not enough memory",  # a CPU on Windows
    "can't allocate memory",  # a CPU elsewhere
)


def is_full(error: BaseException) -> bool:
    """Whether an error, of torch, of a library below it or of Python, says that there is no memory left."""
    named = any(
        kind.__name__ in ("OutOfMemoryError", "MemoryError") for kind in type(error).__mro__
    )
    return named or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)
    )


def full_memory(error: BaseException, where: str = "", hint: str = "") -> Problem:
    """What an error that `is_full` means for a user: the GPU's memory is full, or the computer's own."""
    whose = (
        "the computer's"
        if isinstance(error, MemoryError) or "cpuallocator" in str(error).lower()
        else "the GPU's"
    )
    return Problem(
        f"{whose} memory is full",
        where,
        hint or "use a lower precision or a smaller size, or close what else needs it",
    )
