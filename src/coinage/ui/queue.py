"""The queue of runs, on the disk: one run a GPU at a time, now, in turn, or at night. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from datetime import time as TimeOfDay
from typing import Any, Literal

from coinage.errors import CoinageError
from coinage.runs.lock import Lock, hold, is_at
from coinage.system.typed_json import decode
from coinage.ui.alone import Alone
from coinage.ui.job import Job, read_job
from coinage.ui.workspace import NotFoundError, Workspace, read_json_or, write_json

When = Literal["now", "queue", "tonight"]
NIGHT, MORNING = TimeOfDay(22), TimeOfDay(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """How a run in the queue is to be started.

    Attributes:
        when: at once, in turn, or at night in turn.
        resume: go on from the last saved state.
        steps: length of the whole run; None: as its settings say.
    """

    when: When = "queue"
    resume: bool = False
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the queue holds.

    Attributes:
        order: the ids of the words whose runs wait, the next one first.
        entries: how each is started, by the word's id.
        running: the ids of the words whose runs were started.
        paused: nothing is started but what is to start now.
        not_before: a time of day, such as "22:00": nothing in turn is started by day.
    """

    order: tuple[str, ...] = ()
    entries: Mapping[str, Entry] = field(default_factory=dict)
    running: tuple[str, ...] = ()
    paused: bool = False
    not_before: str | None = None

    def entry(self, word_id: str) -> Entry:
        """Return how a run is to be started."""
        return self.entries.get(word_id, Entry())

    def with_run(self, word_id: str, entry: Entry) -> Waiting:
        """Return the queue with one more run: at its front if it is to start now, else at its end."""
        others = tuple(other for other in self.order if other != word_id)
        order = (word_id, *others) if entry.when == "now" else (*others, word_id)
        return replace(self, order=order, entries={**self.entries, word_id: entry})

    def without_run(self, word_id: str) -> Waiting:
        """Return the queue without a run that waited."""
        order = tuple(other for other in self.order if other != word_id)
        entries = {known: entry for known, entry in self.entries.items() if known in order}
        return replace(self, order=order, entries=entries)

    def in_order(self, word_ids: Sequence[str]) -> Waiting:
        """Return the queue in another order; runs that are not named keep theirs, behind the others."""
        named = [word_id for word_id in dict.fromkeys(word_ids) if word_id in self.order]
        others = [word_id for word_id in self.order if word_id not in named]
        return replace(self, order=(*named, *others))

    @property
    def shown(self) -> dict[str, Any]:
        """What a browser is told."""
        when = {word_id: self.entry(word_id).when for word_id in self.order}
        return {**asdict(self), "order": [*self.order], "running": [*self.running], "when": when}


def is_night(now: datetime, since: TimeOfDay = NIGHT) -> bool:
    """Return whether it is night: from a time of day on, until six in the morning."""
    moment = now.time()
    if since < MORNING:
        return since <= moment < MORNING
    return moment >= since or moment < MORNING


def next_to_start(
    waiting: Waiting, jobs: Mapping[str, Job], now: datetime, places: int = 1
) -> list[str]:
    """Return the ids of the runs that are to be started, in order.

    Args:
        waiting: the queue.
        jobs: of the words that run, by their ids.
        now: local time.
        places: how many runs may be at work at once.
    """
    at_work = {word_id for word_id, job in jobs.items() if job.at_work}
    ready = []
    for word_id in waiting.order:
        if word_id not in at_work and _may_start(waiting, waiting.entry(word_id), now):
            ready.append(word_id)
    return ready[: max(places - len(at_work), 0)]


def _may_start(waiting: Waiting, entry: Entry, now: datetime) -> bool:
    if entry.when == "now":
        return True
    if waiting.paused:
        return False
    since = time_of_day(waiting.not_before) if waiting.not_before else None
    if entry.when == "tonight":
        return is_night(now, since or NIGHT)
    return since is None or is_night(now, since)


def time_of_day(text: str) -> TimeOfDay:
    """Return a time that is written as 22:00.

    Raises:
        CoinageError: it is not.
    """
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - local
    except ValueError:
        raise CoinageError(f"{text[:20]!r} is not a time of day", hint="write 22:00") from None


class Queue:
    """The queue of a workspace. Several servers may serve one workspace; one of them starts the runs.

    Args of the constructor:
        workspace: with the queue's file.
        clock: the local time.
        devices: a name for each GPU, such as "0"; ("",) where there is one or none.
    """

    def __init__(
        self,
        workspace: Workspace,
        clock: Callable[[], datetime] = datetime.now,
        devices: Sequence[str] = ("",),
    ) -> None:
        self.workspace = workspace
        self.devices = devices
        self._clock = clock
        self._lead: Lock | None = None
        self._alone = Alone(workspace.own / ".queue.lock")

    def read(self) -> Waiting:
        """Return what the queue holds; one that is damaged is empty."""
        try:
            value = read_json_or(self._file, {})
            return _decoded(value)
        except (CoinageError, ValueError, TypeError):
            return Waiting()

    def change(self, change: Callable[[Waiting], Waiting]) -> Waiting:
        """Change the queue, and return it; no change of another server is lost.

        Raises:
            CoinageError: it cannot be written.
        """
        with self._alone:
            before = self.read()
            after = change(before)
            if after != before:
                write_json(self._file, asdict(after))
            return after

    def is_waiting(self, word_id: str) -> bool:
        """Return whether the run of a word waits in the queue."""
        return word_id in self.read().order

    def due(self) -> list[tuple[str, Entry, str]]:
        """Return the runs that are to be started now: the word's id, how, and the device.

        Only one server of a workspace gets any; another one takes over when that is gone.
        """
        if not self._leads():
            return []
        waiting = self._settled()
        jobs = {word_id: self._job(word_id) for word_id in waiting.running}
        ids = next_to_start(waiting, jobs, self._clock(), len(self.devices))
        taken = {job.device for job in jobs.values() if job.at_work}
        free = [device for device in self.devices if device not in taken]
        return [
            (word_id, waiting.entry(word_id), device)
            for word_id, device in zip(ids, free, strict=False)
        ]

    def started(self, word_id: str) -> None:
        """Note that a run has begun.

        Raises:
            CoinageError: it cannot be written.
        """
        self.change(lambda w: replace(w.without_run(word_id), running=(*w.running, word_id)))

    def close(self) -> None:
        """Leave the start of runs to other servers."""
        if self._lead:
            self._lead.release()
            self._lead = None

    @property
    def _file(self) -> Any:
        return self.workspace.own / "queue.json"

    def _leads(self) -> bool:
        if self._lead and _is_replaced(self._lead):
            self._lead = None
        if self._lead is None:
            self._lead = hold(self.workspace.own / ".starter.lock")
        return self._lead is not None

    def _settled(self) -> Waiting:
        """Return the queue without words that are gone, and without runs that have ended."""
        waiting = self.read()
        there = [word_id for word_id in waiting.order if self._is_there(word_id)]
        going = tuple(word_id for word_id in waiting.running if self._job(word_id).at_work)
        if len(there) == len(waiting.order) and going == waiting.running:
            return waiting

        def settle(now: Waiting) -> Waiting:
            for word_id in set(waiting.order) - set(there):
                now = now.without_run(word_id)
            ended = set(waiting.running) - set(going)
            return replace(now, running=tuple(i for i in now.running if i not in ended))

        return self.change(settle)

    def _is_there(self, word_id: str) -> bool:
        try:
            self.workspace.word(word_id)
        except NotFoundError:
            return False
        return True

    def _job(self, word_id: str) -> Job:
        try:
            return read_job(self.workspace.word(word_id))
        except NotFoundError:
            return Job()


def _is_replaced(lock: Lock) -> bool:
    """Return whether the folder of a lock was deleted or replaced; such a lock is let go."""
    if lock.file is None:  # the file system knows no locks
        return False
    if is_at(lock.path, lock.file):
        return False
    lock.release()
    return True


def _decoded(value: Any) -> Waiting:
    """Return the queue that its file holds; JSON has lists where it has tuples."""
    read = decode(_File, value)
    return Waiting(
        order=tuple(dict.fromkeys(read.order)),
        entries={word_id: read.entries.get(word_id, Entry()) for word_id in read.order},
        running=tuple(dict.fromkeys(read.running)),
        paused=read.paused,
        not_before=read.not_before,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The queue as its file has it."""

    order: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    paused: bool = False
    not_before: str | None = None
