"""What happens to a word, as server-sent events made from its files alone. Imports no torch.

All pages that show one word share one look at its files, twice a second, and only while there are any;
many are told less often.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from coinage.errors import CoinageError
from coinage.ui.actions import current_job
from coinage.ui.previews import list_previews
from coinage.ui.site import Site
from coinage.ui.workspace import WordFolder, read_json_or

LOOKS = 0.5  # seconds between looks at the files
MANY = 16  # pages of one word, above which all are told less often: a run needs the processor more
HEARTBEAT = 15.0  # seconds without an event, after which a comment keeps the connection open
MOST_POINTS = 2000  # steps that a page gets at once
MOST_PRINTED = 200  # lines of what was printed that it gets at first
MARK = 64  # bytes before a place in the log by which that is known again
MOST_UNREAD = 500  # events that wait for one page; it then has to ask anew
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
START = "0-00000000"
Page = asyncio.Queue[bytes | None]  # what a page that is shown is to be told; None at its end


def event(name: str, value: Any, event_id: str = "") -> bytes:
    """Return a server-sent event."""
    lines = [f"event: {name}", f"data: {json.dumps(value, ensure_ascii=False)}"]
    if event_id:
        lines.insert(0, f"id: {event_id}")
    return ("\n".join(lines) + "\n\n").encode()


@dataclass(slots=True)
class Tail:
    """A file that grows, and how far it was read.

    A place in it has a mark, made of the bytes before it: a file that began anew, or was cut and
    written again, has other bytes there.
    """

    path: Path
    place: int = 0
    mark: str = START

    def read(self, until: int | None = None) -> tuple[bool, list[bytes]]:
        """Return the whole lines that have come since; and whether the file began anew before them.

        Args:
            until: place up to which to read; None: the end.
        """
        try:
            if self.path.is_symlink():  # nobody writes one here, and it may lead anywhere
                raise FileNotFoundError
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                began_anew = mark_at(file, self.place) != self.mark
                if began_anew:
                    self.place = 0
                if size == self.place and not began_anew:
                    return False, []
                file.seek(self.place)
                new = file.read(-1 if until is None else max(until - self.place, 0))
                whole = new[: new.rfind(b"\n") + 1]
                self.place += len(whole)
                self.mark = mark_at(file, self.place)
                return began_anew, whole.splitlines()
        except OSError:
            began_anew = self.place > 0
            self.place, self.mark = 0, START
            return began_anew, []


def mark_at(file: Any, place: int) -> str:
    """Return the mark of a place in a file that is open: its bytes, and a checksum of those before it."""
    start = max(place - MARK, 0)
    file.seek(start)
    return f"{place}-{zlib.crc32(file.read(place - start)):08x}"


def points_of(lines: Sequence[bytes], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Return the entries of at most so many lines of a log, evenly spread, the last one included."""
    count = len(lines)
    shown = min(count, most)
    entries = []
    for number in range(1, shown + 1):
        line = lines[number * count // shown - 1]
        with suppress(ValueError):
            entry = json.loads(line, parse_constant=lambda _: None)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


@dataclass(slots=True)
class Seen:
    """What the files of a word said at the last look."""

    job: Any = None
    previews: Any = None
    log: Tail = field(default_factory=lambda: Tail(Path()))
    printed: Tail = field(default_factory=lambda: Tail(Path()))


class Watch:
    """Looks at the files of one word for all pages that show it."""

    def __init__(self, site: Site, folder: WordFolder) -> None:
        self._site, self._folder = site, folder
        self._pages: set[Page] = set()
        self._seen = Seen(log=Tail(log_of(folder)), printed=Tail(folder.printed))
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a page is shown."""
        return bool(self._pages)

    def join(self, last_id: str) -> Page:
        """Add a page: it gets what there is, and then what comes.

        Args:
            last_id: of the last event that it had; "" for a page that has nothing.
        """
        self._send(self._look())  # so that all pages are at the same place
        page: Page = asyncio.Queue(MOST_UNREAD)
        page.put_nowait(b"".join(self._first(last_id)))
        self._pages.add(page)
        if self._task is None:
            self._task = asyncio.create_task(self._keep_looking())
        return page

    def leave(self, page: Page) -> None:
        """Remove a page; without any, nothing looks at the files."""
        self._pages.discard(page)
        if not self._pages and self._task:
            self._task.cancel()
            self._task = None

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOKS * max(len(self._pages) / MANY, 1))
            if not self._folder.path.is_dir():  # the word was deleted
                for page in self._pages:
                    close(page)
                return
            self._send(self._look())

    def _send(self, said: Sequence[bytes]) -> None:
        """Tell all pages several things at once, which costs less than one after the other."""
        if not said:
            return
        whole = b"".join(said)
        for page in list(self._pages):
            try:
                page.put_nowait(whole)
            except asyncio.QueueFull:  # it sleeps; when it wakes it asks for what it lacks
                self._pages.discard(page)
                close(page)

    def _first(self, last_id: str) -> list[bytes]:
        """Return all that a new page lacks, up to the place that the others have come to."""
        seen = self._seen
        log = Tail(seen.log.path)
        place, _, _ = last_id.partition("-")
        if place.isdecimal() and int(place) < 2**53:
            log.place, log.mark = int(place), last_id
        began_anew, lines = log.read(seen.log.place)
        printed = Tail(seen.printed.path)
        reset = event("reset", {"steps": began_anew or not last_id, "log": True})
        said = [reset, event("job", seen.job), event("previews", seen.previews)]
        said.append(event("steps", points_of(lines), log.mark))
        said.append(event("log", _texts(printed.read(seen.printed.place)[1][-MOST_PRINTED:])))
        return said

    def _look(self) -> list[bytes]:
        """Return an event for everything that has changed since the last look."""
        seen, said = self._seen, []
        log_path = log_of(self._folder)
        if log_path != seen.log.path:
            seen.log.path = log_path
        job, previews = job_of(self._site, self._folder)
        if job != seen.job:
            seen.job = job
            said.append(event("job", job))
        if previews != seen.previews:
            seen.previews = previews
            said.append(event("previews", previews))
        began_anew, lines = seen.log.read()
        if began_anew:
            said.append(event("reset", {"steps": True, "log": False}))
        if lines or began_anew:
            said.append(event("steps", points_of(lines), seen.log.mark))
        began_anew, lines = seen.printed.read()
        if lines:
            said.append(event("log", _texts(lines[-MOST_PRINTED:])))
        return said


def log_of(folder: WordFolder) -> Path:
    """Return the log of the word's run, which need not be there yet."""
    logs = [p for p in folder.output.glob("*-log.jsonl") if p.is_file() and folder.holds(p)]
    newest = max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest or folder.output / f"{folder.id}-log.jsonl"


def job_of(site: Site, folder: WordFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the job with its progress, and the previews."""
    job = current_job(site, folder)
    progress: dict[str, Any] = {}
    with suppress(CoinageError):
        progress = read_json_or(folder.progress, {})
    return {**job.as_json(), "progress": progress}, list_previews(folder, job.since)


def _texts(lines: Sequence[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines]


class Watches:
    """The looks at all words that are shown."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._watches: dict[str, Watch] = {}

    async def stream(self, folder: WordFolder, last_id: str) -> AsyncIterator[bytes]:
        """Yield the events of a word until the page, the word or the server is gone."""
        watch = self._watches.setdefault(folder.id, Watch(self._site, folder))
        page = watch.join(last_id)
        try:
            async for said in until_closed(page, self._site.tasks.closed):
                yield said
        finally:
            watch.leave(page)
            if not watch.busy:
                self._watches.pop(folder.id, None)


async def until_closed(page: Page, closed: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield what comes, and a comment when nothing does for long; end with None, or with the server."""
    ends = asyncio.create_task(closed.wait())
    ends.add_done_callback(lambda _: close(page))
    try:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    said = await page.get()
            except TimeoutError:
                said = b": still here\n\n"
            if said is None:
                return
            yield said
    finally:
        ends.cancel()


def close(page: Page) -> None:
    """End the stream of a page, whatever waits for it."""
    while not page.empty():
        page.get_nowait()
    page.put_nowait(None)


def sse(stream: AsyncIterator[bytes]) -> Response:
    """Return a stream of events as an answer."""
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the address of a word's events."""
    watches = Watches(site)

    async def events(request: Request) -> Response:
        folder = site.workspace.word(request.path_params["id"])
        return sse(watches.stream(folder, request.headers.get("last-event-id", "")))

    return [Route("/api/words/{id}/events", events, methods=["GET"])]
