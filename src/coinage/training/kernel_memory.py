"""Attention kernels whose gradient was right before, remembered from run to run.

A file for each combination of device, versions and sizes; deleting it, or the folder, has the
gradient computed and compared again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import torch
import torch.nn.functional as F

from coinage import __version__
from coinage.errors import CoinageError
from coinage.models.attention import attention_of
from coinage.system.cache_folder import cache_folder
from coinage.system.files import write_bytes
from coinage.training.batches import Batch
from coinage.training.run import Run

log = logging.getLogger("coinage")
Facts = Mapping[str, str]
FOLDER = "attention"
PACKAGES = ("diffusers", "transformers")
DRIVER = Path("/proc/driver/nvidia/version")
# Packages whose attention is torch's, and changes with their version
KNOWN = ("coinage", *PACKAGES)
SWITCHES = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")


def kernel_facts(run: Run, batch: Batch) -> Facts | None:
    """Return all that the choice and the gradient of attention kernels depend on.

    None where something else than torch and the model libraries computes attention: nothing is
    known of it.

    Args:
        run: with the model.
        batch: for which the gradient is computed.
    """
    parts: Sequence[Any] = (run.parts.denoiser, *run.parts.text_encoders)
    attention = attention_of(run.parts)
    foreign = [each for each in attention if each.partition(".")[0] not in KNOWN]
    # What replaces torch's own function is written in Python
    if foreign or not isinstance(F.scaled_dot_product_attention, BuiltinFunctionType):
        return None
    facts = {
        "coinage": __version__,
        "torch": f"{torch.__version__}, {torch.version.cuda}, {torch.version.hip}",
        "device": _device(run.parts.device),
        "attention": ", ".join(attention),
        "switches": ", ".join(name for name in SWITCHES if _is_on(name)),
        "dtypes": f"{run.dtype}, {run.parts.dtype}, {run.config.model.fp8_unet}",
        "checkpointing": str(run.config.model.gradient_checkpointing),
        "sizes": ", ".join(_digest(part.config) for part in parts),
        "latents": f"{tuple(batch.moments.shape)}, {run.parts.chunks}",
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def were_right(facts: Facts | None) -> bool:
    """Return whether kernels had a right gradient under exactly these facts."""
    if facts is None:
        return False
    try:
        return bool(json.loads(_file_of(facts).read_text(encoding="utf-8")) == facts)
    except (OSError, ValueError, RuntimeError, RecursionError):
        return False  # not there, damaged, or out of reach


def remember(facts: Facts | None) -> None:
    """Note that kernels have a right gradient; where nothing can be written, the next run checks again."""
    if facts is None:
        return
    try:
        write_bytes(_file_of(facts), json.dumps(facts, indent=1).encode(), sync=False)
    except (CoinageError, OSError, RuntimeError) as error:
        log.debug("that the attention kernels are right cannot be remembered: %s", error)


def _file_of(facts: Facts) -> Path:
    text = json.dumps(facts, sort_keys=True)
    return cache_folder() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _is_on(name: str) -> bool:
    enabled = getattr(torch.backends.cuda, f"{name}_enabled", None)
    return enabled is None or bool(enabled())


def _device(device: torch.device) -> str:
    """Return the kind of a device with its driver; of a GPU, which one it is."""
    if device.type == "cpu":
        return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    facts = [device.type, platform.platform()]
    if properties is not None:
        facts.append(str(properties(device)))
    if device.type == "cuda":
        with contextlib.suppress(OSError, ValueError):
            facts.append(DRIVER.read_text(encoding="utf-8").strip())
    return "; ".join(facts)


def _digest(config: Any) -> str:
    """Return a digest of a part's sizes and settings, which leaves out where it was loaded from."""
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {name: value for name, value in settings.items() if not name.startswith("_")}
    return hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()[:16]
