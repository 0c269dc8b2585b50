"""Words: the list, making, changing and deleting one. Imports no torch."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.ui.site import Site


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of words."""

    def listed(_: Request) -> Response:
        return JSONResponse([{"id": word_id} for word_id in site.workspace.word_ids()])

    return [Route("/api/words", listed, methods=["GET"])]
