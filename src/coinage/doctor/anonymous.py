"""Take a user's paths and names out of a text that is to be shown to strangers. Imports no torch."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
import tempfile
from pathlib import Path


def anonymous(text: str) -> str:
    """Return a text with `~`, `.` and the like for folders of the user's, and without their name.

    Folders that are no user's own, such as those of the system, stay.
    """
    for folder, shown in _folders():
        for written in {str(folder), folder.as_posix(), str(folder).replace("\\", "\\\\")}:
            text = text.replace(written, shown)
    for name, shown in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(name) > 2 and name != "root":
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", shown, text)
    return text


def _folders() -> list[tuple[Path, str]]:
    """Return the user's folders, the longest first, each with what is written in its place."""
    known = {Path(sys.prefix): "PYTHON", Path(tempfile.gettempdir()): "TEMP"}
    for find, shown in ((Path.cwd, "."), (Path.home, "~")):
        try:
            known[find()] = shown
        except (OSError, RuntimeError):  # it was deleted, or the user has no home
            continue
    for variable in ("HF_HOME", "HF_HUB_CACHE", "COINAGE_CACHE", "XDG_CACHE_HOME"):
        if os.environ.get(variable):
            known[Path(os.environ[variable])] = variable
    long = [(folder, shown) for folder, shown in known.items() if len(folder.parts) > 1]
    return sorted(long, key=lambda pair: -len(str(pair[0])))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
