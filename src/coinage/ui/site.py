"""What every room of the page is handed. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from coinage.ui.alone import Alone
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
        lock: held while something on the disk is read, changed and written.
    """

    workspace: Workspace
    models: Models
    queue: Queue
    tasks: Tasks
    lock: Alone

    @classmethod
    def of(cls, workspace: Workspace, models: Models | None = None) -> Site:
        """Return the site of a workspace; its models are those that are allowed there."""
        tasks = Tasks(workspace.own / "tasks.log")
        lock = Alone(workspace.own / ".lists.lock")
        return cls(workspace, models or Models(workspace), Queue(workspace), tasks, lock)
