"""The folder for what can be made again, shared by all runs of a user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder, which need not exist: `COINAGE_CACHE`, or else the user's cache of programs.

    Raises:
        RuntimeError: the user has no home.
    """
    own = os.environ.get("COINAGE_CACHE")
    if own:
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME")
    return Path(caches or Path.home() / ".cache") / "coinage"
