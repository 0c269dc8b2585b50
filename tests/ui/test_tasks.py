"""Tasks in processes of their own: real ones, which import torch once for all of this file's tests."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from coinage.errors import CoinageError
from coinage.system.files import write_bytes
from coinage.ui.tasks import Tasks, while_asked
from tests.ui.worlds import wait_for


def in_loop(work: Callable[[Tasks], Awaitable[Any]], tasks: Tasks) -> Any:
    async def run() -> Any:
        try:
            return await work(tasks)
        finally:
            await tasks.close()

    return asyncio.run(run())


def pids_of(tasks: Tasks) -> list[int]:
    workers = [*tasks._busy, *(worker for warm in tasks._warm.values() for worker in warm)]
    return [worker._process.pid for worker in workers]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_process_does_one_task_after_the_other_and_ends_when_idle(tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    write_bytes(bad, b"<html>")

    async def work(tasks: Tasks) -> None:
        with pytest.raises(CoinageError, match="a web page, not an embedding"):
            await tasks.run("inspect", {"path": str(bad)})
        (first,) = pids_of(tasks)
        with pytest.raises(CoinageError) as caught:
            await tasks.run("inspect", {"path": str(tmp_path / "none.pt")})
        assert caught.value.problems[0].where == str(tmp_path / "none.pt")
        assert pids_of(tasks) == [first]
        with pytest.raises(CoinageError, match="the task failed: KeyError: 'path'"):
            await tasks.run("inspect", {})  # a fault of ours is told too, with its place in the log
        assert pids_of(tasks) == [first]
        await tasks.end_idle()
        assert gone(first)

    printed = tmp_path / "tasks.log"
    in_loop(work, Tasks(printed))
    assert "Traceback" in printed.read_text()


def test_the_process_of_a_client_that_has_gone_is_killed(tmp_path: Path) -> None:
    async def work(tasks: Tasks) -> None:
        task = asyncio.create_task(tasks.run("inspect", {"path": str(tmp_path)}))
        await asyncio.to_thread(wait_for, lambda: pids_of(tasks))
        (pid,) = pids_of(tasks)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_for, lambda: gone(pid) or None)
        with pytest.raises(CoinageError, match="took more than 0 seconds"):
            await tasks.run("inspect", {"path": str(tmp_path)}, timeout=0.05)
        assert pids_of(tasks) == []

    in_loop(work, Tasks())


def test_a_process_that_dies_is_one_clear_problem(tmp_path: Path) -> None:
    async def work(tasks: Tasks) -> None:
        task = asyncio.create_task(tasks.run("inspect", {"path": str(tmp_path)}))
        await asyncio.to_thread(wait_for, lambda: pids_of(tasks))
        os.kill(pids_of(tasks)[0], 9)
        with pytest.raises(CoinageError, match=r"has ended \(exit code -9\)"):
            await task

    in_loop(work, Tasks())


@pytest.mark.parametrize("is_there", [True, False])
def test_work_is_given_up_when_its_client_has_gone(
    is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.ui.tasks.LOOKS", 0.01)
    ended = []

    async def receive() -> dict[str, object]:
        if is_there:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def work() -> int:
        try:
            await asyncio.sleep(0.1 if is_there else 60)
        finally:
            ended.append(True)
        return 5

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    if is_there:
        assert asyncio.run(while_asked(request, work())) == 5
    else:
        with pytest.raises(CoinageError, match="the browser has gone"):
            asyncio.run(while_asked(request, work()))
    assert ended == [True]


def test_no_task_is_taken_when_the_server_ends(tmp_path: Path) -> None:
    async def work(tasks: Tasks) -> None:
        await tasks.close()
        with pytest.raises(CoinageError, match="the server ends"):
            await tasks.run("inspect", {"path": str(tmp_path)})

    in_loop(work, Tasks())
