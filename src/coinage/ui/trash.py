"""What is deleted in the page is moved aside, never erased. Imports no torch."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from coinage.errors import CoinageError
from coinage.ui.workspace import Workspace


def to_trash(workspace: Workspace, paths: Iterable[Path]) -> Path:
    """Move files or folders of the workspace to a new folder in its trash, and return that.

    They keep their places below it, so that they can be put back by hand; what is not there is left out.

    Raises:
        CoinageError: one cannot be moved.
    """
    folder = workspace.trash / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    for path in paths:
        if not path.exists():
            continue
        place = folder / path.relative_to(workspace.root)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)
        except OSError as error:
            what = f"it cannot be deleted: {error.strerror}"
            raise CoinageError(what, str(path), "close programs that use it") from error
    return folder
