"""Find NVIDIA cards and their driver without torch, for a torch that does not see them."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SECONDS = 5  # that nvidia-smi may take; a tenth of one is usual
# Drivers before 470 do not know the last one
QUERIES = ("name,driver_version,compute_cap", "name,driver_version")
OF_LINUX = Path("/proc/driver/nvidia")
VERSION = re.compile(r"Kernel Module.*?\s(\d+\.[\d.]+)\s")
MODEL = re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Card:
    """An NVIDIA card of this machine; what could not be found out is empty.

    Attributes:
        name: such as `NVIDIA GeForce RTX 3060`.
        driver: its version, such as `535.183.01`.
        capability: such as (8, 6); None where it is not known.
        failure: what `nvidia-smi` says where the driver does not work.
    """

    name: str = "the NVIDIA card"
    driver: str = ""
    capability: tuple[int, int] | None = None
    failure: str = ""


def find_card() -> Card | None:
    """Return the first NVIDIA card of this machine; None where there is no sign of one."""
    program = shutil.which("nvidia-smi")
    if program:
        return _asked(program)
    return _of_linux() or _of_windows()


def _asked(program: str) -> Card | None:
    """Return the card that `nvidia-smi` shows; None if it shows none."""
    said = ""
    for query in QUERIES:
        try:
            done = _answered(program, query)
        except subprocess.TimeoutExpired:
            return Card(failure=f"nvidia-smi did not answer within {SECONDS} seconds")
        except OSError:
            return None
        said = _first_line(done.stdout) or _first_line(done.stderr)
        if done.returncode == 0:
            return _card_in(done.stdout)
        if "valid field" not in done.stdout + done.stderr:
            break
    return None if "no devices" in said.lower() else Card(failure=said)


def _answered(program: str, query: str) -> subprocess.CompletedProcess[str]:
    """Ask `nvidia-smi` for a table of all cards.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it does not answer.
    """
    return subprocess.run(
        [program, f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=SECONDS,
    )


def card_numbers() -> list[str]:
    """Return the numbers of this machine's NVIDIA cards, as far as `nvidia-smi` tells them."""
    program = shutil.which("nvidia-smi")
    try:
        done = _answered(program, "index") if program else None
    except (OSError, subprocess.SubprocessError):
        return []
    if done is None or done.returncode:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdecimal()]


def _card_in(answer: str) -> Card | None:
    """Return the card in the first line of a table; None without one."""
    rows = [row for row in csv.reader(answer.splitlines(), skipinitialspace=True) if len(row) > 1]
    if not rows:
        return None
    name, driver, *more = rows[0]
    major, _, minor = more[0].partition(".") if more else ("", "", "")
    known = major.isdecimal() and minor.isdecimal()
    return Card(name, driver, (int(major), int(minor)) if known else None)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _of_linux() -> Card | None:
    """Return the card that the loaded driver tells of in /proc."""
    names = []
    for file in sorted(OF_LINUX.glob("gpus/*/information")):
        names += MODEL.findall(_text(file))
    if not names:
        return None
    version = VERSION.search(_text(OF_LINUX / "version"))
    return Card(names[0], version[1] if version else "")


def _of_windows() -> Card | None:
    """Return a card without a name where the driver's library is installed."""
    if os.name != "nt":
        return None
    system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
    if (system / "nvidia-smi.exe").is_file():
        return _asked(str(system / "nvidia-smi.exe"))
    return Card() if (system / "nvcuda.dll").is_file() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
