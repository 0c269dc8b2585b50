"""The device that a run computes on, what it can do, and which precision suits it.

Torch is imported when a device is looked at, not with this module.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

log = logging.getLogger("coinage")
Capability = tuple[int, int]
AMPERE: Capability = (8, 0)  # the first NVIDIA cards whose tensor cores take bf16
# AMD's architectures whose matrix units take bf16: CDNA, and RDNA from the third on
BF16_OF_AMD = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
# sm_90, compute_90; with a letter the kernels are for that one architecture
ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([a-z]?)")
TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device, as torch tells of it.

    Attributes:
        kind: `cuda` for NVIDIA, `rocm` for AMD, else torch's name of the kind, such as `xpu` or `cpu`.
        name: of the card; its kind where it has none.
        capability: of an NVIDIA card, such as (8, 6).
        amd: architecture of an AMD card, such as `gfx1100`.
        kernels: architectures that torch was built for, such as `sm_80` and `compute_90`.
    """

    kind: str
    name: str
    capability: Capability = (0, 0)
    amd: str = ""
    kernels: tuple[str, ...] = ()

    @property
    def is_gpu(self) -> bool:
        """True where low precision is worth while: for cards of NVIDIA, AMD and Intel."""
        return self.kind in ("cuda", "rocm", "xpu")

    @property
    def computes_bf16(self) -> bool:
        """True where bf16 is the card's own; others do it in several steps of float32, if at all."""
        if self.kind == "cuda":
            return self.capability >= AMPERE
        if self.kind == "rocm":
            return self.amd.startswith(BF16_OF_AMD)
        return self.kind == "xpu"

    @property
    def best_precision(self) -> Literal["no", "fp16", "bf16"]:
        """The precision in which a run is fastest without losing anything.

        Macs compute in float32: torch scales no losses there, so that gradients in fp16 vanish.
        """
        if not self.is_gpu:
            return "no"
        return "bf16" if self.computes_bf16 else "fp16"

    @property
    def has_kernels(self) -> bool:
        """False where torch was built without kernels for the card, and cannot make them."""
        if self.kind != "cuda" or not self.kernels:
            return True
        return has_kernels(self.capability, self.kernels)


def has_kernels(capability: Capability, built_for: Sequence[str]) -> bool:
    """Return whether kernels that were built for some NVIDIA architectures run on a card.

    Machine code (`sm_80`) runs on cards of the same generation from its own number on, and
    intermediate code (`compute_80`) is compiled by the driver for every later card. What ends in a
    letter runs on its own architecture alone. CUDA C++ Programming Guide, "Application
    Compatibility".

    Args:
        capability: of the card.
        built_for: what `torch.cuda.get_arch_list` returns.
    """
    for name in built_for:
        match = ARCHITECTURE.fullmatch(name)
        if match is None:
            return True  # of a kind that is not known here
        kind, major, minor, letter = match.groups()
        architecture = int(major), int(minor)
        same_generation = architecture[0] == capability[0]
        if letter == "a":
            runs = architecture == capability
        elif letter == "f" or kind == "sm":
            runs = same_generation and architecture <= capability
        else:
            runs = architecture <= capability
        if runs:
            return True
    return False


def cpu_is_asked_for() -> bool:
    """Return whether the environment keeps a run off the GPU, by a variable of accelerate's or of CUDA's."""
    if named := os.environ.get("ACCELERATE_TORCH_DEVICE"):
        return named == "cpu"
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE:
        return True
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def cpu_computes_bf16() -> bool:
    """Return whether this processor multiplies bf16 at no less than the speed of float32, as far as is known.

    Without instructions for it, a product takes 200 times as long.
    """
    import torch

    supports = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supports is None or bool(supports())


def default_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU without one; accelerate's variables choose.

    ACCELERATE_TORCH_DEVICE names a device, and ACCELERATE_USE_CPU takes the CPU, as in training that
    accelerate has started.
    """
    import torch

    named = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if named:
        return torch.device(named)
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    if on_cpu or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def look_at(device: torch.device) -> Accelerator:
    """Return what torch tells of a device; what it does not know is left empty."""
    import torch

    if device.type != "cuda":
        return Accelerator(device.type, device.type)
    try:
        where = _numbered(device)
        properties = torch.cuda.get_device_properties(where)
        if torch.version.hip:
            return Accelerator("rocm", properties.name, amd=properties.gcnArchName)
        return Accelerator(
            "cuda",
            properties.name,
            capability=torch.cuda.get_device_capability(where),
            kernels=tuple(torch.cuda.get_arch_list()),
        )
    except (RuntimeError, AssertionError) as error:  # the run itself says what is wrong with it
        log.debug("%s: %s", device, error)
        return Accelerator(device.type, device.type)


def _numbered(device: torch.device) -> torch.device:
    """Return a CUDA device with its number: of several processes each has its own."""
    import torch

    if device.index is not None:
        return device
    rank = os.environ.get("LOCAL_RANK", "")
    number = int(rank) if rank.isdecimal() else torch.cuda.current_device()
    return torch.device("cuda", number % max(torch.cuda.device_count(), 1))


def accelerator_here() -> Accelerator:
    """Return what this process would compute on."""
    return look_at(default_device())
