"""Events made of files that a run would write."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from coinage.ui import events
from coinage.ui.events import MOST_POINTS, Tail, Watches, event, mark_at, points_of
from coinage.ui.job import Job, write_job
from coinage.ui.site import Site
from coinage.ui.workspace import WordFolder, Workspace, write_json


def line(step: int) -> bytes:
    return json.dumps({"step": step, "loss": step / 1000}).encode() + b"\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(events, "LOOKS", 0.01)
    workspace = Workspace(tmp_path)
    (workspace.words / "zibu" / "output" / "sample").mkdir(parents=True)
    workspace.own.mkdir()
    return Site.of(workspace)


def folder_of(site: Site) -> WordFolder:
    return site.workspace.word("zibu")


class Page:
    """Reads events as a browser does."""

    def __init__(self, watches: Watches, folder: WordFolder, last_id: str = "") -> None:
        self._stream: AsyncIterator[bytes] = watches.stream(folder, last_id)
        self.last_id = last_id
        self._unread: list[str] = []

    async def next(self) -> tuple[str, Any]:
        while not self._unread:
            async with asyncio.timeout(30):
                text = (await anext(self._stream)).decode()
            self._unread = text.removesuffix("\n\n").split("\n\n")
        fields = dict(part.split(": ", 1) for part in self._unread.pop(0).split("\n"))
        self.last_id = fields.get("id", self.last_id)
        return fields["event"], json.loads(fields["data"])

    async def until(self, name: str) -> Any:
        while True:
            got, value = await self.next()
            if got == name:
                return value

    async def close(self) -> None:
        await self._stream.aclose()  # type: ignore[attr-defined]


def test_a_page_gets_what_there_is_and_then_what_comes(site: Site) -> None:
    folder = folder_of(site)
    log = folder.output / "zibu-log.jsonl"
    log.write_bytes(line(1) + line(2) + line(3)[:-5])
    folder.printed.write_text("one\ntwo\n")
    write_job(folder, Job(state="ended"))
    write_json(folder.progress, {"step": 2})

    async def work() -> None:
        page = Page(Watches(site), folder)
        assert await page.next() == ("reset", {"steps": True, "log": True})
        name, job = await page.next()
        assert (name, job["state"], job["progress"]) == ("job", "ended", {"step": 2})
        assert await page.next() == ("previews", [])
        name, steps = await page.next()
        assert [entry["step"] for entry in steps] == [1, 2]  # half a line is none
        assert page.last_id.startswith(f"{len(line(1)) + len(line(2))}-")
        assert await page.next() == ("log", ["one", "two"])
        with log.open("ab") as file:
            file.write(line(3)[-5:])
        assert [entry["step"] for entry in await page.until("steps")] == [3]
        (folder.output / "sample" / "zibu_000003_00_20261130220000_1.png").write_bytes(b"")
        (preview,) = await page.until("previews")
        assert (preview["step"], preview["index"], preview["best"]) == (3, 0, False)
        with folder.printed.open("a") as file:
            file.write("three\n")
        assert await page.until("log") == ["three"]
        write_job(folder, Job(state="failed", reason="<b>why</b>"))
        assert (await page.until("job"))["reason"] == "<b>why</b>"
        await page.close()

    asyncio.run(work())


def test_a_page_that_comes_back_gets_exactly_what_it_lacks(site: Site) -> None:
    folder = folder_of(site)
    log = folder.output / "zibu-log.jsonl"
    log.write_bytes(b"".join(map(line, range(1, 11))))

    async def work() -> None:
        watches = Watches(site)
        page = Page(watches, folder)
        await page.until("steps")
        await page.close()
        with log.open("ab") as file:
            file.write(line(11) + line(12))
        again = Page(watches, folder, page.last_id)
        assert await again.next() == ("reset", {"steps": False, "log": True})
        assert [entry["step"] for entry in await again.until("steps")] == [11, 12]
        await again.close()

    asyncio.run(work())


@pytest.mark.parametrize("steps", [5, 15])
def test_a_log_that_began_anew_is_noticed(site: Site, steps: int) -> None:
    folder = folder_of(site)
    log = folder.output / "zibu-log.jsonl"
    log.write_bytes(b"".join(map(line, range(1, 11))))

    async def work() -> None:
        watches = Watches(site)
        page = Page(watches, folder)
        await page.until("log")
        left = Page(watches, folder)
        await left.until("log")
        await left.close()
        log.rename(folder.output / "zibu-log-1.jsonl")
        log.write_bytes(b"".join(line(100 + number) for number in range(steps)))
        assert await page.until("reset") == {"steps": True, "log": False}
        assert (await page.until("steps"))[0]["step"] == 100
        again = Page(watches, folder, left.last_id)
        assert await again.next() == ("reset", {"steps": True, "log": True})
        assert len(await again.until("steps")) == steps
        await page.close()
        await again.close()

    asyncio.run(work())


def test_a_log_that_a_resumed_run_has_cut_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(map(line, range(1, 11))))
    tail = Tail(path)
    assert len(tail.read()[1]) == 10
    assert tail.read() == (False, [])
    path.write_bytes(b"".join(map(line, range(1, 6))) + b"".join(line(s * 7) for s in range(6, 20)))
    began_anew, lines = tail.read()
    assert began_anew
    assert len(lines) == 19
    path.unlink()
    assert tail.read() == (True, [])
    assert tail.read() == (False, [])


def test_a_mark_knows_its_place(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 100 + b"b")
    with path.open("rb") as file:
        assert mark_at(file, 0) == events.START
        assert mark_at(file, 100) == mark_at(file, 100) != mark_at(file, 101)
    path.write_bytes(b"a" * 40)
    with path.open("rb") as file:  # the file is shorter than the place
        assert mark_at(file, 100) != events.START


def test_many_steps_are_thinned_evenly_with_the_last_one() -> None:
    points = points_of([line(step) for step in range(1, 100_001)])
    steps = [point["step"] for point in points]
    assert len(steps) == MOST_POINTS
    assert steps[-1] == 100_000
    assert {b - a for a, b in pairwise(steps)} == {50}
    assert points_of([b'{"step": 1, "loss": NaN}', b"broken", b"[]"]) == [{"step": 1, "loss": None}]


def test_all_pages_of_a_word_share_one_look(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(site)
    looks = 0
    look = events.Watch._look

    def counted(self: events.Watch) -> list[bytes]:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(events.Watch, "_look", counted)

    async def work() -> None:
        watches = Watches(site)
        pages = [Page(watches, folder) for _ in range(50)]
        for page in pages:
            await page.until("log")
        before = looks
        (folder.output / "zibu-log.jsonl").write_bytes(line(1))
        for page in pages:
            assert len(await page.until("steps")) == 1
        assert looks - before < 10
        for page in pages:
            await page.close()
        before = looks
        await asyncio.sleep(0.05)
        assert looks == before  # nobody is there

    asyncio.run(work())


def test_a_page_that_reads_nothing_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(site)
    monkeypatch.setattr(events, "MOST_UNREAD", 8)

    async def work() -> None:
        page = Page(Watches(site), folder)
        await page.next()
        for number in range(20):
            with folder.printed.open("a") as file:
                file.write(f"{number}\n")
            await asyncio.sleep(0.03)
        with pytest.raises(StopAsyncIteration):
            await page.until("never")

    asyncio.run(work())


def test_streams_end_with_their_word(site: Site) -> None:
    folder = folder_of(site)

    async def work() -> None:
        page = Page(Watches(site), folder)
        await page.until("log")
        folder.path.rename(site.workspace.root / "gone")
        with pytest.raises(StopAsyncIteration):
            await page.until("never")

    asyncio.run(work())


def test_what_comes_between_two_looks_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(1))
    first = Tail(path)
    assert len(first.read()[1]) == 1
    path.write_bytes(line(1) + line(2))
    assert Tail(path).read(first.place) == (False, [line(1).strip()])
    assert first.read() == (False, [line(2).strip()])


def test_streams_end_with_the_server_and_say_that_they_are_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)

    async def work() -> list[bytes]:
        said = []
        async for part in Watches(site).stream(folder_of(site), ""):
            said.append(part)
            if part.startswith(b":"):
                site.tasks.end_soon()
        return said

    assert asyncio.run(work())[-1] == b": still here\n\n"


def test_an_event_is_one_block_whatever_it_holds() -> None:
    assert event("log", ["a\nb\r\n\u2028"], "5-x").count(b"\n") == 4
    assert event("log", "é").endswith(b'data: "\xc3\xa9"\n\n')
