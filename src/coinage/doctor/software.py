"""Look at Python, at installed packages, and at settings of the environment. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import locale
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from coinage import __version__
from coinage.doctor.examination import Result
from coinage.errors import Findings

NAME = "coinage-ti"
OLDEST = (3, 11)
PATIENCE = 180  # seconds that all imports may take
# Imported by every training; the others only where they are used
IMPORTED = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "tokenizers")
IMPORTED_IF_THERE = ("bitsandbytes", "xformers")
# Prints why each of some modules cannot be imported
IMPORT_ALL = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(failed))
"""
# Variables that change what a run computes on, or where it looks
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ACCELERATE_USE_CPU",
    "ACCELERATE_TORCH_DEVICE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    "WANDB_MODE",
)
USE_CPU = re.compile(r"^use_cpu:\s*true\s*$", re.MULTILINE | re.IGNORECASE)


def look_at_python() -> Sequence[Result]:
    """Look at Python's version and width, and at the console's letters."""
    findings = Findings()
    bits = 64 if sys.maxsize > 2**32 else 32
    version = platform.python_version()
    if sys.version_info < OLDEST:
        findings.error(f"Python {version} is too old", hint="install Python 3.11 or newer")
    if bits == 32:
        findings.error(
            "this Python has 32 bits, for which there is no torch", hint="install a 64-bit one"
        )
    encoding = getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding(
        do_setlocale=False
    )
    if encoding.lower().replace("-", "") != "utf8":
        hint = "set the environment variable PYTHONUTF8 to 1"
        findings.warn(
            f"the console writes {encoding}: some letters will be shown as escapes", hint=hint
        )
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    found = f"{version}, {bits} bits, on {system}, console in {encoding}"
    return [Result("Python", found, findings)]


def look_at_packages() -> Sequence[Result]:
    """Look for packages that are missing, too old, or cannot be imported."""
    findings = Findings()
    versions = {}
    for requirement in _requirements():
        wanted = f"{requirement.name}{requirement.specifier}"
        install = f'pip install "{wanted}"'
        try:
            versions[requirement.name] = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if not requirement.marker or "extra" not in str(requirement.marker):
                findings.error(f"{requirement.name} is not installed", hint=install)
            continue
        if not requirement.specifier.contains(versions[requirement.name], prereleases=True):
            what = (
                f"{requirement.name} {versions[requirement.name]} does not suit: {wanted} is needed"
            )
            findings.error(what, hint=install)
    for name, reason in _broken_imports().items():
        findings.error(f"{name} cannot be imported: {reason}", hint=_mended(name, reason))
    shown = ", ".join(f"{name} {versions[name]}" for name in IMPORTED if name in versions)
    return [Result("packages", f"coinage {__version__}; {shown}", findings), _look_at_extras()]


def _requirements() -> Iterator[Requirement]:
    """Yield what this package needs; what only its extras need is tried where it is installed."""
    try:
        lines = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder
        return
    for line in lines:
        requirement = Requirement(line)
        for extra in ("", "optimizers", "ui", "wandb"):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement
                break


def _broken_imports() -> dict[str, str]:
    """Return why packages that are installed cannot be imported, by name; a crash names all."""
    names = [name for name in (*IMPORTED, *IMPORTED_IF_THERE) if _is_there(name)]
    try:
        done = subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-c", IMPORT_ALL, *names],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return {", ".join(names): f"it took more than {PATIENCE} seconds"}
    try:
        failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {", ".join(names): f"Python ended with code {done.returncode}"}
    return {name: (reason.splitlines() or [""])[0] for name, reason in failed.items()}


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _mended(name: str, reason: str) -> str:
    """Return how an import is mended."""
    for other in ("torchvision", "torchaudio", "xformers", "bitsandbytes", "flash_attn"):
        if other in reason:
            return (
                f"it does not suit this torch, and Coinage does not need it: pip uninstall {other}"
            )
    if name in IMPORTED_IF_THERE:
        return f"pip install --force-reinstall {name}, or pip uninstall {name}"
    if "DLL" in reason:
        return "install Microsoft's Visual C++ Redistributable, then start the computer again"
    return f"pip install --force-reinstall {name}"


def _look_at_extras() -> Result:
    """Tell what may be installed beside it, and what it would add."""
    there = {
        "the page": all(map(_is_there, ("starlette", "uvicorn"))),
        "8-bit optimizers": _is_there("bitsandbytes"),
        "Prodigy": _is_there("prodigyopt"),
        "W&B": _is_there("wandb"),
    }
    shown = ", ".join(f"{name}: {'yes' if is_there else 'no'}" for name, is_there in there.items())
    findings = Findings()
    if not there["the page"]:
        findings.warn("coinage ui is not installed", hint=f'pip install "{NAME}[ui]"')
    return Result("extras", shown, findings)


def look_at_settings() -> Sequence[Result]:
    """Look at variables of the environment and at accelerate's own settings."""
    findings = Findings()
    shown = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    caches = os.environ.get("HF_HOME") or str(
        Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    )
    file = Path(caches).expanduser() / "accelerate" / "default_config.yaml"
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if text:
        shown.append("accelerate has settings of its own")
    if USE_CPU.search(text):
        hint = "write use_cpu: false there, or run `accelerate config`"
        findings.warn("accelerate launch is set to use the CPU", str(file), hint)
    return [Result("settings", ", ".join(shown) or "none that change a run", findings)]
