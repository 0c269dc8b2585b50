"""The API of runs: check, start, stop, go on, previews and saves now, and the queue. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.errors import ConfigError, Problem
from coinage.ui.form import read_form, run_of, write_run
from coinage.ui.job import PREVIEW, SAVE, STOP, Job, ask, is_asked, read_job, write_job
from coinage.ui.previews import picture
from coinage.ui.processes import ask_to_stop, kill
from coinage.ui.queue import Entry, Waiting, When, time_of_day
from coinage.ui.site import Site
from coinage.ui.tasks import while_asked
from coinage.ui.web import RefusedError, in_thread, read_as
from coinage.ui.workspace import NotFoundError, WordFolder

POSSIBLE = {
    "draft": "it was never started: start it",
    "queued": "it waits in the queue: cancel it, or start it now",
    "starting": "it is just being started: stop it, or wait for its first step",
    "running": "it runs: ask for previews or a save, or stop it",
    "stopping": "it is stopping: wait, or stop it again to end it at once",
    "ended": "it has ended: start it again, or go on with more steps",
    "stopped": "it was stopped: go on, or start it again",
    "failed": "it has failed: go on from the last state, or start it again",
    "killed": "it was killed: go on from the last state, or start it again",
}
MAY_START = ("draft", "queued", "ended", "stopped", "failed", "killed")
MAY_GO_ON = ("ended", "stopped", "failed", "killed")
MAY_STOP = ("starting", "running", "stopping")
# What a report may do in a page of its own: its own script and style, and nothing else
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
LENGTH = re.compile(r"^max_train_epochs\s*=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Start:
    """When a run is to start."""

    when: When = "now"


@dataclass(frozen=True, slots=True)
class GoOn:
    """How a run goes on: to how many steps in all; None: as long as before."""

    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed in the queue; what is None stays."""

    order: list[str] | None = None
    paused: bool | None = None
    not_before: str | Literal[False] | None = None


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of runs and of the queue."""

    def of_word(
        work: Callable[[Request, WordFolder], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await work(request, site.workspace.word(request.path_params["id"]))

        return answer

    async def check(request: Request, folder: WordFolder) -> Response:
        return JSONResponse(await while_asked(request, checked(site, folder)))

    async def start(request: Request, folder: WordFolder) -> Response:
        asked = await read_as(request, Start)
        return _shown(await in_thread(start_word, site, folder, asked.when))

    async def stop(_: Request, folder: WordFolder) -> Response:
        return _shown(await in_thread(stop_word, site, folder))

    async def go_on(request: Request, folder: WordFolder) -> Response:
        asked = await read_as(request, GoOn)
        return _shown(await in_thread(continue_word, site, folder, asked.steps))

    async def cancel(_: Request, folder: WordFolder) -> Response:
        return _shown(await in_thread(cancel_word, site, folder))

    def wish(what: str) -> Callable[[Request, WordFolder], Awaitable[Response]]:
        async def asked(_: Request, folder: WordFolder) -> Response:
            return _shown(await in_thread(ask_word, site, folder, what))

        return asked

    async def preview(request: Request, folder: WordFolder) -> Response:
        path = picture(folder, request.path_params["name"])
        if path is None:
            raise NotFoundError("picture")
        return FileResponse(path, media_type="image/png", headers={"cache-control": "no-cache"})

    async def report(_: Request, folder: WordFolder) -> Response:
        return await in_thread(report_of, folder)

    async def queue(_: Request) -> Response:
        return JSONResponse(site.queue.read().shown)

    async def change_queue(request: Request) -> Response:
        asked = await read_as(request, Change)
        changed = await in_thread(site.queue.change, lambda waiting: changed_by(waiting, asked))
        return JSONResponse(changed.shown)

    posts = {
        "check": check, "start": start, "stop": stop, "continue": go_on, "cancel": cancel,
        "preview": wish(PREVIEW), "save": wish(SAVE),
    }  # fmt: skip
    routes: list[BaseRoute] = [
        Route(f"/api/words/{{id}}/{name}", of_word(work), methods=["POST"])
        for name, work in posts.items()
    ]
    routes += [
        Route("/api/words/{id}/previews/{name}", of_word(preview), methods=["GET"]),
        Route("/api/words/{id}/report", of_word(report), methods=["GET"]),
        Route("/api/queue", queue, methods=["GET"]),
        Route("/api/queue", change_queue, methods=["POST"]),
    ]
    return routes


def _shown(job: Job) -> Response:
    return JSONResponse({"job": job.as_json()})


def current_job(site: Site, folder: WordFolder) -> Job:
    """Return the job of a word; one is queued only as long as the queue has it."""
    job = read_job(folder)
    if job.state == "queued" and not site.queue.is_waiting(folder.id):
        return job.not_queued()
    return job


def refuse_unless(job: Job, states: Sequence[str], what: str) -> None:
    """Refuse what the state of a run does not allow, and say what it does.

    Raises:
        RefusedError: 409.
    """
    if job.state not in states:
        raise RefusedError(409, f"the run cannot {what} now: {POSSIBLE[job.state]}")


def start_word(site: Site, folder: WordFolder, when: When) -> Job:
    """Put the run of a word into the queue: at its front if it is to start now.

    Raises:
        RefusedError: it runs already.
        CoinageError: its form is wrong: all that is.
    """
    with site.lock:
        job = current_job(site, folder)
        refuse_unless(job, MAY_START, "be started")
        problems = write_run(folder, read_form(folder), site.models)
        if problems:
            raise ConfigError(problems)
        return _queue(site, folder, job, Entry(when=when))


def continue_word(site: Site, folder: WordFolder, steps: int | None) -> Job:
    """Put the run of a word into the queue, to go on from its last state.

    Raises:
        RefusedError: it runs, or there is no state to go on from.
    """
    with site.lock:
        job = current_job(site, folder)
        refuse_unless(job, MAY_GO_ON, "go on")
        if not any(folder.output.glob("*-state")):
            what = "the run cannot go on: it has saved no state yet; start it again"
            raise RefusedError(409, what)
        if job.state == "ended" and steps is None:
            what = "the run has ended: say with how many steps in all it is to go on"
            raise RefusedError(409, what)
        return _queue(site, folder, job, Entry(when="now", resume=True, steps=steps))


def _queue(site: Site, folder: WordFolder, job: Job, entry: Entry) -> Job:
    site.queue.change(lambda waiting: waiting.with_run(folder.id, entry))
    queued = job.queued()
    write_job(folder, queued)
    return queued


def cancel_word(site: Site, folder: WordFolder) -> Job:
    """Take the run of a word out of the queue.

    Raises:
        RefusedError: it does not wait there.
    """
    with site.lock:
        job = current_job(site, folder)
        refuse_unless(job, ["queued"], "be cancelled")
        site.queue.change(lambda waiting: waiting.without_run(folder.id))
        job = job.not_queued()
        write_job(folder, job)
        return job


def stop_word(site: Site, folder: WordFolder) -> Job:
    """Ask a run to stop with all saved; asked again, end it at once. A queued one is cancelled.

    Raises:
        RefusedError: it does not run.
    """
    job = current_job(site, folder)
    if job.state == "queued":
        return cancel_word(site, folder)
    refuse_unless(job, MAY_STOP, "be stopped")
    process = job.known_process
    if process is None:
        raise RefusedError(409, "the run is just being started; try again in a second")
    if is_asked(folder, STOP):
        kill(process)
    else:
        ask(folder, STOP)
        ask_to_stop(process)
    return replace(job, state="stopping")


def ask_word(site: Site, folder: WordFolder, what: str) -> Job:
    """Ask a run for previews or for a save after its next step.

    Raises:
        RefusedError: it does not run.
    """
    job = current_job(site, folder)
    names = {PREVIEW: "draw previews", SAVE: "save"}
    refuse_unless(job, ["running"], names[what])
    ask(folder, what)
    return job


def changed_by(waiting: Waiting, asked: Change) -> Waiting:
    """Return the queue as it is asked to be.

    Raises:
        CoinageError: the time of day is none.
    """
    if asked.order is not None:
        waiting = waiting.in_order(asked.order)
    if asked.paused is not None:
        waiting = replace(waiting, paused=asked.paused)
    if asked.not_before:
        time_of_day(asked.not_before)
        waiting = replace(waiting, not_before=asked.not_before)
    elif asked.not_before is not None:
        waiting = replace(waiting, not_before=None)
    return waiting


async def checked(site: Site, folder: WordFolder) -> Mapping[str, Any]:
    """Return what the checks of `coinage train --dry_run` find; nothing is started.

    Raises:
        CoinageError: the checks could not be made.
    """

    def settings() -> tuple[str, Sequence[Problem]]:
        form = read_form(folder)
        run = run_of(folder, form, site.models)
        return run.toml, run.problems

    toml, problems = await in_thread(settings)
    told = [{"what": p.what, "where": p.where, "hint": p.hint} for p in problems]
    if told:
        return {"problems": told, "warnings": [], "notes": [], "facts": [], "images": {}}
    payload = {"toml": toml, "folder": str(folder.path)}
    result: Mapping[str, Any] = await site.tasks.run("check", payload)
    return result


def report_of(folder: WordFolder) -> Response:
    """Return the page that a word's run has written; it may do nothing beside showing itself.

    Raises:
        NotFoundError: there is none yet.
    """
    newest = max(
        folder.output.glob("*-report.html"), key=lambda path: path.stat().st_mtime_ns, default=None
    )
    if newest is None:
        raise NotFoundError("report")
    return HTMLResponse(newest.read_bytes(), headers={"content-security-policy": REPORT_POLICY})
