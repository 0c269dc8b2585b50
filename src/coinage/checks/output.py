"""Checks of what a run writes: folders, file names, room on the disk, trackers. Imports no torch."""

from __future__ import annotations

import netrc
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from coinage.config import LogConfig
from coinage.errors import Problem
from coinage.runs.lock import claim
from coinage.runs.names import name_problems
from coinage.system.text_files import is_file, is_folder, is_there

if TYPE_CHECKING:
    from coinage.checks.plan import Draft

OTHER_FOLDER = "choose another folder"
# Modes of W&B that send nothing, so that no key is needed
OFFLINE = ("offline", "disabled", "dryrun")
WANDB_HOST = "https://api.wandb.ai"


def check_names(draft: Draft) -> None:
    """Find an output name that a file cannot have."""
    draft.findings.errors += name_problems(draft.config)


def check_folders(draft: Draft) -> None:
    """Find folders that cannot be written: hours later would be too late. None is made here."""
    config = draft.config
    draft.findings.errors += folder_problems(config.save.output_dir)
    if config.log.dir:
        draft.findings.errors += folder_problems(config.log.dir, "--logging_dir")


def check_lock(draft: Draft) -> None:
    """Take the run's name, and warn of an earlier run's files that are in the way."""
    draft.lock = claim(draft.config, draft.state, draft.findings)


def check_trackers(draft: Draft) -> None:
    """Find W&B without a key, where nobody can be asked for one."""
    log = draft.config.log
    if "wandb" in log.trackers and _needs_key(log) and not _has_key(log):
        hint = "use wandb login, --wandb_api_key or WANDB_MODE=offline"
        draft.findings.error("--log_with wandb: no API key of W&B was found", hint=hint)


def folder_problems(folder: Path, flag: str = "--output_dir") -> list[Problem]:
    """Try to write in a folder, or in the nearest one above it that is there."""
    places = (folder, *folder.absolute().parents)
    place = next((place for place in places if is_there(place)), folder)
    if not is_folder(place):
        name = "this" if place == folder else str(place)
        what = f"{flag}: cannot write there: {name} is a file, not a folder"
        return [Problem(what, str(folder), OTHER_FOLDER)]
    return _write_problems(place, folder, flag)


def make_folder(folder: Path, flag: str = "--output_dir") -> list[Problem]:
    """Make a folder, and try to write in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "this is a file, not a folder" if is_file(folder) else error.strerror
        what = f"{flag}: cannot write there: {reason}"
        return [Problem(what, str(folder), OTHER_FOLDER)]
    return _write_problems(folder, folder, flag)


def _write_problems(place: Path, folder: Path, flag: str) -> list[Problem]:
    try:
        with tempfile.TemporaryFile(dir=place):
            return []
    except OSError as error:
        what = f"{flag}: cannot write there: {error.strerror}"
        return [Problem(what, str(folder), OTHER_FOLDER)]


def _needs_key(log: LogConfig) -> bool:
    """Return whether W&B would fail without a key: not offline, and not where it can ask at a terminal."""
    arguments = log.arguments.get("wandb", {})
    settings = arguments.get("settings")
    modes = [os.environ.get("WANDB_MODE"), arguments.get("mode")]
    if isinstance(settings, Mapping):
        modes.append(settings.get("mode"))
        if "api_key" in settings or "base_url" in settings:
            return False  # W&B knows better what becomes of these
    offline = any(mode in OFFLINE for mode in modes)
    return not offline and not sys.stdin.isatty()


def _has_key(log: LogConfig) -> bool:
    """Return whether a key of W&B is given, or stored by `wandb login`."""
    if log.wandb_key or os.environ.get("WANDB_API_KEY"):
        return True
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_HOST)).hostname or ""
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if not file:
            continue
        try:
            if netrc.netrc(Path(file).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, RuntimeError):
            continue
    return False
