"""Train two steps of the built-in model on each device, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.run import MODEL
from coinage.doctor.examination import Result
from coinage.errors import Findings

PATIENCE = 300  # seconds; ten are usual
WORD = "zibu"
HIDING = ("CUDA_VISIBLE_DEVICES", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU")


def train_everywhere() -> Sequence[Result]:
    """Train on the CPU and on each graphics card that torch can use."""
    return [train_on(name, variables) for name, variables in devices().items()]


def devices() -> dict[str, Mapping[str, str]]:
    """Return the devices that torch can use, each with the variables that choose it."""
    found: dict[str, Mapping[str, str]] = {"CPU": {"ACCELERATE_USE_CPU": "1"}}
    try:
        import torch

        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        kind = torch.accelerator.current_accelerator() if count else None
    except Exception:  # noqa: BLE001 - that torch cannot be imported is told with the packages
        return found
    if kind is not None:
        for number in range(count):
            found[f"{kind.type} {number}"] = {"ACCELERATE_TORCH_DEVICE": f"{kind.type}:{number}"}
    return found


def train_on(device: str, variables: Mapping[str, str]) -> Result:
    """Train a word for two steps in a process of its own, and tell how long that took."""
    findings = Findings()
    subject = f"training on {device}"
    environment = {name: text for name, text in os.environ.items() if name not in HIDING}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.monotonic()
        try:
            done = subprocess.run(  # noqa: S603 - ours
                _command(Path(folder)),
                env={**environment, **variables, "PYTHONUTF8": "1"},
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            hint = "look for another program that keeps this computer busy"
            findings.error(f"{subject} did not end within {PATIENCE} seconds", hint=hint)
            return Result(subject, "too slow", findings)
        seconds = time.monotonic() - began
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("error: ")]
        reason = (errors or lines[-1:])[0].removeprefix("error: ")
        hint = "mend what is said above first; if nothing is, please report this with all of it"
        findings.error(f"{subject} failed: {reason}", hint=hint)
        return Result(subject, "failed", findings)
    return Result(subject, f"2 steps and a word saved in {seconds:.0f} s", findings)


def _command(folder: Path) -> list[str]:
    dataset = write_dataset(folder / "dataset", CONCEPTS["moon"], WORD, seed=0)
    return [
        *(sys.executable, "-m", "coinage.cli.main", "train"),
        f"--pretrained_model_name_or_path={MODEL}",
        f"--dataset_config={dataset}",
        f"--output_dir={folder / 'output'}",
        f"--token_string={WORD}",
        "--init_word=shape",
        "--max_train_steps=2",
        "--sample_every_n_steps=0",
        "--on_problem=warn",
        "--quiet",
    ]
