"""Look at the graphics card, the torch that is to use it, and the computer's memory."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from coinage.checks.device import device_findings, unused_card_problems
from coinage.doctor.examination import Result
from coinage.errors import Findings
from coinage.system.accelerator import accelerator_here, cpu_computes_bf16, cpu_is_asked_for
from coinage.system.nvidia import find_card
from coinage.wording import sized

GB = 2**30
LITTLE_OF_CARD = 3 * GB  # SD 1.5 trains in 2.1 with --low_memory
LITTLE = 6 * GB  # of the computer: a model is read into it
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
MEMORY = Path("/proc/meminfo")


def look_at_device() -> Sequence[Result]:
    """Look at what a run would compute on, and why a card is not used."""
    try:
        torch = importlib.import_module("torch")
    except Exception:  # noqa: BLE001 - that it cannot be imported is told with the packages
        return [Result("graphics card", "unknown, since torch cannot be imported", Findings())]
    accelerator = accelerator_here()
    findings = device_findings(accelerator, accelerator.best_precision)
    built = torch.version.cuda and f"CUDA {torch.version.cuda}"
    built = built or (torch.version.hip and f"ROCm {torch.version.hip}") or "no graphics card"
    for_what = f"torch {torch.__version__}, built for {built}"
    if accelerator.kind == "mps":
        shared = f"{sized(_all_memory())} of memory shared with the processor"
        found = f"the GPU of a Mac (mps) on macOS {platform.mac_ver()[0]}, {shared}, float32"
        return [Result("device", f"{found}; torch {torch.__version__}", findings)]
    if not accelerator.is_gpu:
        _check_unused(findings)
        cores = os.cpu_count() or 1
        bf16 = "bf16" if cpu_computes_bf16() else "float32 only"
        return [Result("device", f"CPU with {cores} cores, {bf16}; {for_what}", findings)]
    precision = "bf16" if accelerator.computes_bf16 else "fp16"
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    memory = f"{sized(free)} of {sized(total)} free, " if total else ""
    if total and free < LITTLE_OF_CARD:
        what = f"only {sized(free)} of the card's memory are free"
        findings.warn(
            what, hint="close other programs that use the card, such as a browser or a UI"
        )
    return [Result("device", f"{accelerator.name}, {memory}{precision}; {for_what}", findings)]


def _check_unused(findings: Findings) -> None:
    """Warn of a card that the environment hides; `device_findings` finds the other reasons."""
    if not cpu_is_asked_for():
        if not findings.warnings:
            findings.warnings += unused_card_problems()
        return
    card = find_card()
    if card:
        what = f"the environment keeps runs off {card.name}"
        hint = "unset CUDA_VISIBLE_DEVICES, ACCELERATE_USE_CPU and ACCELERATE_TORCH_DEVICE"
        findings.warn(what, hint=hint)


def look_at_memory() -> Sequence[Result]:
    """Look at how much of the computer's memory is free."""
    findings = Findings()
    free = free_memory()
    if free is None:
        return [Result("memory", "unknown", findings)]
    if free < LITTLE:
        what = f"only {sized(free)} of memory are free: loading SD 1.5 takes about 4 GB, SDXL 10 GB"
        findings.warn(what, hint="close other programs, or enlarge the swap file")
    return [Result("memory", f"{sized(free)} free", findings)]


def _all_memory() -> int:
    """Return the bytes of memory of a computer that is not Windows."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int | None:
    """Return the bytes of memory that a program may still take; None where they are not known."""
    limits = [size for size in (_free_of_linux(), _free_of_container()) if size is not None]
    if limits:
        return min(limits)
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _free_of_linux() -> int | None:
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _free_of_container() -> int | None:
    try:
        limit = LIMIT.read_text(encoding="ascii").strip()
        used = LIMIT.with_name("memory.current").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return int(limit) - int(used) if limit.isdecimal() else None
