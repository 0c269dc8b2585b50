"""The API of runs: check, start, stop, go on, previews and saves now, and the queue. Imports no torch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.errors import Problem
from coinage.system.files import write_bytes
from coinage.ui.actions import (
    Change,
    ask_word,
    cancel_word,
    changed_by,
    continue_word,
    start_word,
    stop_word,
)
from coinage.ui.form import read_form, run_of, write_run
from coinage.ui.job import PREVIEW, SAVE, Job
from coinage.ui.previews import picture
from coinage.ui.queue import When
from coinage.ui.site import Site
from coinage.ui.speeds import known_speed
from coinage.ui.tasks import while_asked
from coinage.ui.web import in_thread, read_as
from coinage.ui.workspace import NotFoundError, WordFolder

Work = Callable[[Request, WordFolder], Awaitable[Response]]
# What a report may do in a page of its own: its own script and style, and nothing else
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


@dataclass(frozen=True, slots=True)
class Start:
    """When a run is to start."""

    when: When = "now"


@dataclass(frozen=True, slots=True)
class GoOn:
    """How a run goes on: to how many steps in all; None: as long as before."""

    steps: int | None = None


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of runs and of the queue."""
    return [*_of_runs(site), *_of_what_runs_wrote(site), *_of_queue(site)]


def _of_runs(site: Site) -> list[BaseRoute]:
    """Return what is posted to a word: each a function that gets the request and the word's folder."""

    async def check(request: Request, folder: WordFolder) -> Response:
        return JSONResponse(await while_asked(request, checked(site, folder)))

    async def start(request: Request, folder: WordFolder) -> Response:
        asked = await read_as(request, Start)
        return _shown(await in_thread(start_word, site, folder, asked.when))

    async def go_on(request: Request, folder: WordFolder) -> Response:
        asked = await read_as(request, GoOn)
        return _shown(await in_thread(continue_word, site, folder, asked.steps))

    def simple(action: Callable[[Site, WordFolder], Job]) -> Work:
        async def done(_: Request, folder: WordFolder) -> Response:
            return _shown(await in_thread(action, site, folder))

        return done

    works: dict[str, Work] = {
        "check": check,
        "start": start,
        "continue": go_on,
        "stop": simple(stop_word),
        "cancel": simple(cancel_word),
        "preview": simple(lambda site, folder: ask_word(site, folder, PREVIEW)),
        "save": simple(lambda site, folder: ask_word(site, folder, SAVE)),
    }
    return [
        Route(f"/api/words/{{id}}/{name}", _of_word(site, work), methods=["POST"])
        for name, work in works.items()
    ]


def _of_word(site: Site, work: Work) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await work(request, site.workspace.word(request.path_params["id"]))

    return answer


def _of_what_runs_wrote(site: Site) -> list[BaseRoute]:
    def preview(request: Request) -> Response:
        folder = site.workspace.word(request.path_params["id"])
        path = picture(folder, request.path_params["name"])
        if path is None:
            raise NotFoundError("picture")
        return FileResponse(path, media_type="image/png", headers={"cache-control": "no-cache"})

    def report(request: Request) -> Response:
        return report_of(site.workspace.word(request.path_params["id"]))

    return [
        Route("/api/words/{id}/previews/{name}", preview, methods=["GET"]),
        Route("/api/words/{id}/report", report, methods=["GET"]),
    ]


def _of_queue(site: Site) -> list[BaseRoute]:
    def shown(_: Request) -> Response:
        return JSONResponse(site.queue.read().shown)

    async def changed(request: Request) -> Response:
        asked = await read_as(request, Change)
        after = await in_thread(site.queue.change, lambda waiting: changed_by(waiting, asked))
        return JSONResponse(after.shown)

    return [
        Route("/api/queue", shown, methods=["GET"]),
        Route("/api/queue", changed, methods=["POST"]),
    ]


def _shown(job: Job) -> Response:
    return JSONResponse({"job": job.as_json()})


async def checked(site: Site, folder: WordFolder) -> Mapping[str, Any]:
    """Return what the checks of `coinage train --dry_run` find; nothing is started.

    Raises:
        CoinageError: the checks could not be made.
    """
    toml, problems = await in_thread(_settings, site, folder)
    told = [{"what": p.what, "where": p.where, "hint": p.hint} for p in problems]
    if told:
        return {"problems": told, "warnings": [], "notes": [], "facts": [], "images": {}}
    speed = await in_thread(known_speed, site.workspace, toml)
    known = asdict(speed) if speed else None
    payload = {"toml": toml, "folder": str(folder.path), "speed": known}
    result: Mapping[str, Any] = await site.tasks.run("check", payload)
    return result


def _settings(site: Site, folder: WordFolder) -> tuple[str, Sequence[Problem]]:
    """Return the settings of a run as the form is now, and what is wrong with it.

    What a run reads beside its settings is written; those of the last run stay, to go on with.
    """
    with site.lock:
        form = read_form(folder)
        kept = folder.run_settings.read_bytes() if folder.run_settings.is_file() else None
        try:
            problems = write_run(folder, form, site.models)
        finally:
            if kept is not None:
                write_bytes(folder.run_settings, kept)
        return run_of(folder, form, site.models).toml, problems


def report_of(folder: WordFolder) -> Response:
    """Return the page that a word's run has written; it may do nothing beside showing itself.

    Raises:
        NotFoundError: there is none yet.
    """
    found = [path for path in folder.output.glob("*-report.html") if folder.holds(path)]
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        raise NotFoundError("report")
    return HTMLResponse(newest.read_bytes(), headers={"content-security-policy": REPORT_POLICY})
