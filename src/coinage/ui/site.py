"""What every room of the page is handed. Imports no torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from coinage.ui.models import Models
from coinage.ui.queue import Queue
from coinage.ui.tasks import Tasks
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
    queue: Queue
    tasks: Tasks
    lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def of(cls, workspace: Workspace, models: Models | None = None) -> Site:
        """Return the site of a workspace; its models are those that are allowed there."""
        tasks = Tasks(workspace.own / "tasks.log")
        return cls(workspace, models or Models(workspace), Queue(workspace), tasks)
