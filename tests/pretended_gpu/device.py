"""The part of the pretended GPU that torch looks for when it is imported.

It is compiled once, and loaded before torch.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")
# Which one is pretended: cuda, or mps as on a Mac
KIND = os.environ.get("PRETENDED_GPU", "cuda")
BUILDS = Path(__file__).parents[2] / "build" / "pretended_gpu"


class CannotBuildError(Exception):
    """There is no compiler, or it cannot compile the device; the message says why."""


def built() -> Path:
    """Compile the device against the torch that is installed, unless that has been done. Imports no torch.

    Raises:
        CannotBuildError: it cannot be compiled here.
    """
    compiler, spec = shutil.which("g++"), find_spec("torch")
    if compiler is None:
        raise CannotBuildError("there is no g++")
    if spec is None or spec.origin is None:
        raise CannotBuildError("there is no torch")
    torch = Path(spec.origin).parent
    content = SOURCE.read_bytes() + (torch / "version.py").read_bytes() + f"{torch}{KIND}".encode()
    library = BUILDS / f"device-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    BUILDS.mkdir(parents=True, exist_ok=True)
    # Several processes may compile it at the same time
    half = library.with_suffix(f".{os.getpid()}")
    options = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch / 'include'}"]
    options += ["-DPRETENDED_MPS"] if KIND == "mps" else []
    links = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
    done = subprocess.run(
        [compiler, *options, str(SOURCE), "-o", str(half), *links],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        half.unlink(missing_ok=True)
        raise CannotBuildError(
            f"g++ cannot compile it: {next(iter(done.stderr.splitlines()), 'it says nothing')}"
        )
    half.replace(library)
    return library


def load(library: Path) -> None:
    """Load the compiled device. To be called before torch is imported, which looks for devices once.

    Raises:
        RuntimeError: torch has been imported.
    """
    if "torch" in sys.modules:
        raise RuntimeError("the pretended GPU must be loaded before torch")
    ctypes.CDLL(str(library))
