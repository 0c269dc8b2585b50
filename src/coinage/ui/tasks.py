"""Work that needs torch, in processes of its own: JSON lines in and out. Imports no torch itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from starlette.requests import Request

from coinage.errors import CoinageError, ConfigError, Problem

log = logging.getLogger("coinage")
T = TypeVar("T")
AT_ONCE = 2  # tasks that are worked on
IDLE = 300.0  # seconds that a process is kept warm without work
TIMEOUT = 900.0  # seconds that a task may take
LONGEST_LINE = 2**26  # bytes of an answer
MOST_LOGGED = 2**20  # bytes of what processes print, before the file begins anew
LOOKS = 0.5  # seconds between looks whether a client is still there
TO_END = 2.0  # seconds that a process has to end by itself
Told = Callable[[Mapping[str, Any]], None]
DRAW = "draw"


class Tasks:
    """Runs tasks, a few at once, in processes that stay warm for a while.

    Drawing has processes of its own, since they hold a model.

    Args of the constructor:
        printed: file that gets what the processes print; None: nothing does.
        at_once: how many tasks are worked on.
        idle: seconds that a process without work is kept.

    Attributes:
        closed: the server ends; streams end with it.
    """

    def __init__(
        self, printed: Path | None = None, at_once: int = AT_ONCE, idle: float = IDLE
    ) -> None:
        self.closed = asyncio.Event()
        self._printed, self._idle = printed, idle
        self._room = asyncio.Semaphore(at_once)
        self._warm: dict[str, list[_Worker]] = {}
        self._busy: set[_Worker] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def run(
        self,
        kind: str,
        payload: Mapping[str, Any],
        timeout: float = TIMEOUT,  # noqa: ASYNC109 - ends a process
        told: Told = lambda _: None,
    ) -> Any:
        """Have a task done, and return its result.

        If the caller is cancelled, the process is killed.

        Args:
            kind: of the task, as `task_process.KINDS` has it.
            payload: its values, as JSON.
            timeout: seconds after which it is given up.
            told: called with each report of progress.

        Raises:
            CoinageError: what the task found wrong; or it took too long, or its process has ended.
        """
        async with self._room:
            if self.closed.is_set():
                raise CoinageError("the server ends", hint="start it again")
            worker = await self._worker(_lane(kind))
            self._busy.add(worker)
            try:
                async with asyncio.timeout(timeout):
                    result = await worker.ask(kind, payload, told)
            except TimeoutError:
                what = f"this took more than {timeout:.0f} seconds and was given up"
                raise CoinageError(what, hint="try again when the computer is less busy") from None
            finally:
                self._busy.discard(worker)
                self._keep(_lane(kind), worker)
            return result

    async def end_idle(self) -> None:
        """End the processes that have no work, so that a training has the memory for itself.

        One that draws goes on, and ends when it is done.
        """
        for worker in self._busy:
            worker.used_up = True
        for workers in self._warm.values():
            while workers:
                await workers.pop().end()

    def end_soon(self) -> None:
        """Have streams end, and take no further task: the server ends."""
        self.closed.set()

    async def close(self) -> None:
        """End all processes at once."""
        self.end_soon()
        workers = [*self._busy, *(worker for warm in self._warm.values() for worker in warm)]
        self._warm.clear()
        for worker in workers:
            self._end(worker)
        while self._ending:
            await asyncio.wait(self._ending)

    async def _worker(self, lane: str) -> _Worker:
        warm = self._warm.setdefault(lane, [])
        while warm:
            worker = warm.pop()
            worker.wake()
            if worker.usable:
                return worker
        begun = asyncio.create_task(_Worker.begun(self._printed))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            self._in_background(self._end_begun(begun))
            raise

    async def _end_begun(self, begun: asyncio.Task[_Worker]) -> None:
        """End a process that nobody waits for any more, as soon as it has begun."""
        with suppress(CoinageError):
            worker = await begun
            worker.kill()
            await worker.end()

    def _end(self, worker: _Worker) -> None:
        """Kill a process, and wait until it is gone, in the background."""
        worker.kill()
        self._in_background(worker.end())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _keep(self, lane: str, worker: _Worker) -> None:
        """Keep a process for the next task; one that was left in the middle of its work is killed."""
        if not worker.usable or worker.used_up or self.closed.is_set():
            self._end(worker)
            return
        warm = self._warm.setdefault(lane, [])
        warm.append(worker)

        def end() -> None:
            if worker in warm:
                warm.remove(worker)
                self._end(worker)

        worker.rest(self._idle, end)


def _lane(kind: str) -> str:
    return DRAW if kind == DRAW else "other"


class _Worker:
    """One process that does tasks, one after the other."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._between = True  # no task is half done
        self._ends: asyncio.TimerHandle | None = None
        self.used_up = False

    @classmethod
    async def begun(cls, printed: Path | None) -> _Worker:
        file = _opened(printed)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "coinage.ui.task_process",
                stdin=PIPE, stdout=PIPE, stderr=file or DEVNULL,
                limit=LONGEST_LINE, start_new_session=os.name != "nt",
            )  # fmt: skip
        except OSError as error:
            what = f"a process cannot be started: {error.strerror}"
            raise CoinageError(what, hint="close other programs, and try again") from None
        finally:
            if file:
                file.close()
        return cls(process)

    @property
    def usable(self) -> bool:
        """Whether it can take a task."""
        return self._between and self._process.returncode is None

    async def ask(self, kind: str, payload: Mapping[str, Any], told: Told) -> Any:
        """Have it do a task; errors as `Tasks.run`."""
        streams = self._process
        assert streams.stdin is not None  # noqa: S101 - they are pipes
        assert streams.stdout is not None  # noqa: S101
        self._between = False
        line = json.dumps({"kind": kind, "payload": payload}).encode() + b"\n"
        with suppress(ConnectionError):  # then it answers nothing either
            streams.stdin.write(line)
            await streams.stdin.drain()
        while answer := await streams.stdout.readline():
            message = json.loads(answer)
            if "progress" in message:
                told(message["progress"])
                continue
            self._between = True
            if "problems" in message:
                problems = [Problem(**problem) for problem in message["problems"]]
                raise ConfigError(problems)
            return message["result"]
        code = await streams.wait()
        what = f"the process that did this has ended (exit code {code})"
        raise CoinageError(what, hint="there may be too little memory; try again")

    def rest(self, seconds: float, end: Callable[[], None]) -> None:
        """Be called to its end after so many seconds, unless it is woken before."""
        self._ends = asyncio.get_running_loop().call_later(seconds, end)

    def wake(self) -> None:
        """Have work again."""
        if self._ends:
            self._ends.cancel()
            self._ends = None

    def kill(self) -> None:
        """End it at once."""
        self.wake()
        with suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """End it, and wait until it is gone."""
        self.wake()
        if self._process.stdin:
            self._process.stdin.close()  # then it ends by itself
        try:
            async with asyncio.timeout(TO_END):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()


def _opened(printed: Path | None) -> IO[bytes] | None:
    """Open the file of what processes print; None where that cannot be."""
    if printed is None:
        return None
    try:
        is_long = printed.is_file() and printed.stat().st_size > MOST_LOGGED
        return printed.open("wb" if is_long else "ab")
    except OSError:
        return None


async def while_asked(request: Request, work: Awaitable[T]) -> T:
    """Return what some work results in; it is cancelled if the client has gone meanwhile.

    The request's body must have been read by then.

    Raises:
        CoinageError: the client has gone; nobody reads the answer.
    """
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait([task], timeout=LOOKS)
            if done:
                return task.result()
            if await request.is_disconnected():
                raise CoinageError("the browser has gone")
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, CoinageError):
                await task


@asynccontextmanager
async def working(tasks: Tasks) -> AsyncIterator[None]:
    """End all processes when the server ends."""
    try:
        yield
    finally:
        await tasks.close()
