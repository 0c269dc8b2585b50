"""Check that files can have their names: signs that no system takes, and lengths. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from coinage.config import TrainConfig
from coinage.errors import Problem

NAME_MAX = 255  # bytes of a name, where the system does not say
PATH_MAX = 259 if os.name == "nt" else None  # characters of a whole path on Windows
EPOCH, STEP = "-000000", "-step00000000"
# Windows keeps these names for devices, whatever stands behind a dot: what is written there is lost.
DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE)
PREVIEW = "_e000000_00_00000000000000_0000000000.png"  # epoch, prompt, time, seed


def name_problems(config: TrainConfig) -> list[Problem]:
    """Find out whether the output name can be a file's, with all that the run puts behind it."""
    name = config.word.output_name
    if problem := sign_problem(name, windows=os.name == "nt"):
        return [problem]
    folder = config.save.output_dir
    return length_problems(name, endings(config), folder, _name_limit(folder), PATH_MAX)


def sign_problem(name: str, *, windows: bool) -> Problem | None:
    """Return why a name cannot be that of a file, None where it can."""
    if not name or re.search(r'[<>:"/\\|?*\x00-\x1f]', name):
        return Problem(
            f"--output_name {name!r} is not a file name", hint="use letters, digits, - and _"
        )
    if windows and DEVICES.fullmatch(name):
        return Problem(
            f"--output_name {name!r} is the name of a device on Windows",
            hint=f"for example {name.split('.', maxsplit=1)[0]}x",
        )
    return None


def endings(config: TrainConfig) -> list[str]:
    """Return what stands behind the name in the files that a run may write."""
    save, state, preview = config.save, config.state, config.preview
    moments = [""]
    if save.every_n_steps:
        moments.append(STEP)
    if save.every_n_epochs or save.n_epoch_ratio:
        moments.append(EPOCH)
    names = [f"{moment}.{save.format}" for moment in moments]
    names += ["-log.jsonl", "-report.html"]
    if state.save:
        names += [f"{moment}-state" for moment in moments]
    elif state.at_end:
        names.append("-state")
    if save.keep_best:
        names.append(f"-best.{save.format}")
    if config.loop.autopilot:
        names.append("-autopilot.json")
    if preview.automatic or preview.at_first or preview.every_n_steps or preview.every_n_epochs:
        names.append(PREVIEW)
    return names


def length_problems(
    name: str,
    behind: Sequence[str],
    folder: Path,
    most: int,
    most_path: int | None,
) -> list[Problem]:
    """Find names that are too long.

    Args:
        name: of the word's files.
        behind: what stands behind it in each.
        folder: where they are.
        most: bytes that a name may have.
        most_path: characters that a whole path may have; None: any number.
    """
    ending = max(behind, key=len)
    over = len(os.fsencode(name + ending)) - most
    if over > 0:
        what = f"--output_name is too long: with {ending} behind it, it has {most + over} bytes"
        shorter = f"give an --output_name that is {over} bytes shorter"
        hint = f"{shorter}; letters beyond a to z take 2 to 4 bytes each"
        return [Problem(f"{what}, and the file system takes {most}", _short(name), hint)]
    over = len(str((folder / (name + ending)).absolute())) - (most_path or 0)
    if most_path and over > 0:
        both = "--output_dir and --output_name are too long together"
        length = f"with {ending} they have {most_path + over} characters"
        what = f"{both}: {length}, and Windows takes {most_path}"
        return [Problem(what, str(folder), f"shorten them by {over}")]
    return []


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}..."


def _name_limit(folder: Path) -> int:
    """Return the bytes that a name may have in a folder, or in the nearest one that is there."""
    existing = folder.absolute()
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    try:
        return os.pathconf(existing, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has none
        return NAME_MAX
