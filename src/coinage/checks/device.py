"""Check the device before the model is loaded, and choose the precision that suits it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from coinage.checks.plan import Draft
from coinage.config import AUTO_PRECISION, ModelConfig, Precision
from coinage.errors import Findings, Problem
from coinage.runs.states import named_state, read_summary
from coinage.settings.scripts import Script
from coinage.system.accelerator import (
    Accelerator,
    Capability,
    accelerator_here,
    cpu_computes_bf16,
    cpu_is_asked_for,
)
from coinage.system.nvidia import Card, find_card

NAMES: dict[Precision, str] = {"no": "float32", "fp16": "fp16", "bf16": "bf16"}
OTHERWISE = "--mixed_precision chooses another"
PAGES = "https://download.pytorch.org/whl/"  # with builds of torch
TURING: Capability = (7, 5)
BLACKWELL: Capability = (10, 0)
FIRST_DRIVERS = {13: 580, 12: 525, 11: 450}  # for each CUDA, by its first number
DRIVERS = "https://www.nvidia.com/drivers"
FOUND_VERSION = re.compile(r"found version (\d+)")


def settle_precision(draft: Draft) -> None:
    """Choose the precision where none was given: that of the state to go on from, else the device's best."""
    model = draft.config.model
    if model.precision != AUTO_PRECISION:
        return
    before = _precision_before(draft)
    accelerator = accelerator_here()
    precision = before or _best_for(model, accelerator)
    draft.config = replace(draft.config, model=replace(model, precision=precision))
    name = NAMES[precision]
    if before and before != _best_for(model, accelerator):
        draft.findings.note(f"computing in {name}, as the run did so far; {OTHERWISE}")
    elif accelerator.is_gpu:
        draft.findings.note(f"computing in {name}, which suits {accelerator.name}; {OTHERWISE}")


def _best_for(model: ModelConfig, accelerator: Accelerator) -> Precision:
    """Return the best precision of a device; bf16 on a CPU where weights of 8 bits need a low one."""
    best = accelerator.best_precision
    return "bf16" if model.fp8_unet and best == "no" else best


def _precision_before(draft: Draft) -> Precision | None:
    """Return the precision of the state that a run goes on from; None without a state."""
    config = draft.config
    state = named_state(config.state.resume, config.save.output_dir, config.word.output_name)
    summary = read_summary(state) if state else None
    said = summary.fingerprint.get("precision") if summary else None
    known = [precision for precision in NAMES if precision == said]
    return known[0] if known else None


def check_device(drafts: Sequence[Draft], findings: Findings) -> None:
    """Find a GPU that torch cannot use, and a precision that is slow on the one that it uses."""
    accelerator, config = accelerator_here(), drafts[0].config
    found = device_findings(accelerator, config.model.precision)
    findings.errors += found.errors
    findings.warnings += found.warnings
    script = config.values.script if config.values else None
    of_sd_scripts = script in (Script.SD, Script.SDXL)
    if of_sd_scripts and config.model.precision == "no" and accelerator.is_gpu:
        best = accelerator.best_precision
        findings.note(
            "computing in float32, the default of sd-scripts, which leaves the matrix units of "
            f"{accelerator.name} unused: --mixed_precision {best} takes half the memory, and less than "
            "half the time where these are the limit"
        )


def device_findings(accelerator: Accelerator, precision: str) -> Findings:
    """Return what is wrong with the device of a run, or with a GPU that it leaves aside.

    Args:
        accelerator: what the run computes on.
        precision: that it computes in.
    """
    findings = Findings()
    if accelerator.kind == "cpu" and not cpu_is_asked_for():
        findings.warnings += unused_card_problems()
    if not accelerator.has_kernels:
        findings.errors.append(_no_kernels(accelerator))
    elif precision == "bf16" and accelerator.is_gpu and not accelerator.computes_bf16:
        what = (
            f"--mixed_precision bf16: {accelerator.name} has no bf16 units, and emulates it slowly"
        )
        findings.warn(what, hint="use --mixed_precision fp16")
    elif precision in ("bf16", "fp16") and accelerator.kind == "cpu" and not cpu_computes_bf16():
        # fp16 becomes bf16 on a CPU
        what = f"--mixed_precision {precision}: this processor has no instructions for bf16, and takes "
        findings.warn(f"{what}many times as long as in float32", hint="use --mixed_precision no")
    return findings


def _no_kernels(accelerator: Accelerator) -> Problem:
    """Say that torch was built for other cards."""
    import torch

    major, minor = accelerator.capability
    what = f"this torch was built without kernels for {accelerator.name} (sm_{major}{minor})"
    where = f"torch {torch.__version__}, with {', '.join(accelerator.kernels)}"
    return Problem(what, where, f"install one that has them: {_install(accelerator.capability)}")


def unused_card_problems() -> list[Problem]:
    """Find out why an NVIDIA card of this machine is not used; nothing is found where there is none."""
    import torch

    if torch.version.hip or torch.cuda.is_available():
        return []
    card = find_card()
    if card is None:
        return []
    where = f"torch {torch.__version__}"
    if torch.version.cuda is None:
        what = f"this torch is built without CUDA: the run uses the CPU, and not {card.name}"
        return [Problem(what, where, _install(card.capability, cuda=cuda_of(card.driver)))]
    return [_driver_problem(card, torch.version.cuda, _cuda_error(), where)]


def _driver_problem(card: Card, built_for: str, reason: str, where: str) -> Problem:
    """Say why a torch with CUDA does not find a card."""
    if "too old" not in reason:
        what = f"torch cannot use {card.name}: the run uses the CPU ({card.failure or reason})"
        hint = f"restart the computer, or install the driver again: {DRIVERS}"
        return Problem(what, where, hint)
    found = FOUND_VERSION.search(reason)
    version = int(found[1]) if found else None
    known = f", for CUDA {version // 1000}.{version % 1000 // 10}," if version else ""
    driver = f"the NVIDIA driver {card.driver}".rstrip() + known
    what = (
        f"{driver} is too old for this torch, which is built for CUDA {built_for}: the run uses the CPU, "
        f"and not {card.name}"
    )
    cuda = version // 1000 if version else cuda_of(card.driver)
    hint = f"update the driver ({DRIVERS}), or {_install(card.capability, cuda=cuda)}"
    return Problem(what, where, hint)


def _cuda_error() -> str:
    """Return why torch cannot start CUDA."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return "CUDA starts, but finds no device"


def _install(capability: Capability | None, *, cuda: int = 0) -> str:
    """Return the command that installs a torch for a card and the CUDA of its driver, 0 if not known."""
    return f"pip install --force-reinstall torch --index-url {PAGES}{build_for(capability, cuda)}"


def build_for(capability: Capability | None, cuda: int) -> str:
    """Return the build of torch that has kernels for a card and runs with its driver.

    Builds for CUDA 12 run with every driver for CUDA 12 or 13. Those for 12.6 have kernels for cards
    from Maxwell to Hopper; those for 12.8, which end with torch 2.11, and for 13.0 for Turing and newer.

    Args:
        capability: of the card, such as (8, 6); None where it is not known.
        cuda: what the driver is for, such as 12; 0 where it is not known.
    """
    if cuda and cuda < 12:
        return "cu118"
    if capability is None or capability < TURING:
        return "cu126"
    if cuda >= 13:
        return "cu130"
    return "cu128" if capability >= BLACKWELL else "cu126"


def cuda_of(driver: str) -> int:
    """Return the CUDA, by its first number, that a driver such as `535.183.01` is for; 0 if not known."""
    first = driver.partition(".")[0]
    number = int(first) if first.isdecimal() else 0
    return next((cuda for cuda, least in FIRST_DRIVERS.items() if number >= least), 0)
