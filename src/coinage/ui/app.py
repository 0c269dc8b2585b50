"""The page's application: the rooms' addresses, the pages, and the files that they need. Imports no torch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from coinage.errors import CoinageError
from coinage.ui import captioner, captions, drawing, events, files, images, jobs, models, words
from coinage.ui.leftovers import sweeping
from coinage.ui.security import Guard
from coinage.ui.sessions import Entrance, TooManyError
from coinage.ui.site import Site
from coinage.ui.starting import starting
from coinage.ui.tasks import working
from coinage.ui.texts import choose_language, texts_of
from coinage.ui.web import (
    RefusedError,
    coinage_error,
    http_error,
    read_as,
    unexpected_error,
)

HERE = Path(__file__).parent
# Each room's addresses
ROOMS: tuple[Callable[[Site], list[BaseRoute]], ...] = (
    lambda site: models.routes_of(site.models),
    words.routes_of,
    images.routes_of,
    captions.routes_of,
    captioner.routes_of,
    jobs.routes_of,
    events.routes_of,
    drawing.routes_of,
    files.routes_of,
)
# What works while the server runs, entered at its start and left at its end
WORKERS: tuple[Callable[[Site], AbstractAsyncContextManager[None]], ...] = (
    lambda site: working(site.tasks),
    lambda site: starting(site.queue, site.tasks.end_idle),
    lambda site: sweeping(site.workspace),
)
# Address, template
PAGES = (
    ("/", "words"),
    ("/words/{id}/edit", "edit"),
    ("/words/{id}", "run"),
    ("/try", "try"),
    ("/files", "files"),
    ("/login", "login"),
)


def create_app(site: Site, language: str | None = None) -> Starlette:
    """Return the application without its guard.

    Args:
        site: that the rooms work on.
        language: of the pages; None: the one that the browser prefers.
    """
    routes: list[BaseRoute] = []
    for routes_of in ROOMS:
        routes += routes_of(site)
    routes += _pages(site, language)
    routes.append(Mount("/static", StaticFiles(directory=HERE / "static")))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for worker in WORKERS:
                await stack.enter_async_context(worker(site))
            yield

    handlers = {
        CoinageError: coinage_error,
        HTTPException: http_error,
        Exception: unexpected_error,
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def guarded_app(
    site: Site, hosts: frozenset[str], entrance: Entrance, language: str | None = None
) -> Guard:
    """Return the application with its guard, and a door for those who have the password."""
    app = create_app(site, language)
    app.routes.append(Route("/api/login", login_of(entrance), methods=["POST"]))
    return Guard(app, hosts, entrance)


@dataclass(frozen=True, slots=True)
class Password:
    """What the login page sends."""

    password: str


def login_of(entrance: Entrance) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers the login page: the cookie for the password."""

    async def login(request: Request) -> Response:
        given = await read_as(request, Password)
        try:
            right = entrance.takes_password(given.password)
        except TooManyError as error:
            (problem,) = error.problems
            raise RefusedError(429, problem.what, hint=problem.hint) from None
        if not right:
            hint = "" if entrance.password else "open the address that `coinage ui` has printed"
            raise RefusedError(403, "this is not the password", hint=hint)
        return JSONResponse({}, headers={"set-cookie": entrance.set_cookie})

    return login


def _pages(site: Site, language: str | None) -> list[BaseRoute]:
    """Return the addresses of the pages; what they show comes through the API."""
    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)

    def page_of(name: str) -> Callable[[Request], Response]:
        def page(request: Request) -> Response:
            word_id = request.path_params.get("id", "")
            if word_id:
                site.workspace.word(word_id)
            accepted = request.headers.get("accept-language", "")
            return HTMLResponse(_drawn(templates, name, word_id, accepted, language))

        return page

    return [Route(address, page_of(name)) for address, name in PAGES]


def _drawn(
    templates: Environment, name: str, word_id: str, accepted: str, language: str | None
) -> str:
    """Return a page in the language that its reader prefers."""
    lang = choose_language(accepted, language)
    template = templates.get_template(f"{name}.html")
    return template.render(lang=lang, texts=texts_of(lang), page=name, word_id=word_id)
