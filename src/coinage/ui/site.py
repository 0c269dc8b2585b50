"""What every room of the page is handed. Imports no torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from coinage.ui.models import Models
from coinage.ui.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Site:
    """The folder that is served, and what works in it.

    Attributes:
        workspace: the folder.
        models: those that may be chosen.
        queue: of runs.
        tasks: processes that answer one question each.
        lock: held while a list on the disk is read, changed and written.
    """

    workspace: Workspace
    models: Models
    queue: Any = None
    tasks: Any = None
    lock: threading.RLock = field(default_factory=threading.RLock)
