"""What is refused before any room sees it, and the headers of every answer. Imports no torch.

A page that a browser shows may send requests to this computer too, and so may a stranger's name that leads
here. So a request must name this server as its host, must come from this server's own page, and must say
what it carries; and it needs the cookie, which other sites cannot make a browser send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coinage.errors import Problem
from coinage.ui.sessions import Entrance
from coinage.ui.web import RefusedError, problems_answer

MEGABYTE = 2**20
MOST_JSON = MEGABYTE
MOST_IMAGE = 100 * MEGABYTE
MOST_EMBEDDING = 64 * MEGABYTE
MOST_TAGS = 16 * MEGABYTE
SAFE = ("GET", "HEAD")
METHODS = (*SAFE, "POST", "PUT", "PATCH", "DELETE")
# Every address of ours is written in these; so nothing needs to be decoded, and no form of a path hides
NAME = rb"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
PATH = re.compile(rb"/(%s(/%s)*)?" % (NAME, NAME))
PUBLIC = ("/login", "/api/login")
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; frame-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Call:
    """The parts of a request that decide whether it is refused.

    Attributes:
        method: in capitals.
        path: as it was sent, with nothing decoded.
        headers: all of them.
        hosts: that are ours, in small letters, with their port where browsers send it.
    """

    method: str
    path: bytes
    headers: Headers
    hosts: frozenset[str]

    @property
    def is_api(self) -> bool:
        return self.path.startswith(b"/api/")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused."""

    status: int
    what: str
    hint: str = ""

    def answer(self) -> Response:
        return problems_answer([Problem(self.what, hint=self.hint)], self.status)


def refusal_of(call: Call) -> Refusal | None:
    """Return why a request is refused, whoever sends it; None if nothing speaks against it."""
    for check in CHECKS:
        if refusal := check(call):
            return refusal
    return None


def _host(call: Call) -> Refusal | None:
    """Refuse names that are not ours: a stranger's name can be made to lead here (DNS rebinding)."""
    given = call.headers.getlist("host")
    if len(given) == 1 and given[0].lower() in call.hosts:
        return None
    return Refusal(403, "this server does not go by that name", "start it with --allow-host NAME")


def _method(call: Call) -> Refusal | None:
    return None if call.method in METHODS else Refusal(405, "there is no such method here")


def _path(call: Call) -> Refusal | None:
    """Refuse paths in any but the plain form: encoded, with dots, backslashes, drives or streams."""
    return None if PATH.fullmatch(call.path) else Refusal(404, "there is no such page")


def _site(call: Call) -> Refusal | None:
    """Refuse what a page of another site sends, but for a link to the front page."""
    site = call.headers.get("sec-fetch-site", "none")
    if site in ("same-origin", "none"):
        return None
    is_link = (
        call.headers.get("sec-fetch-mode") == "navigate"
        and call.headers.get("sec-fetch-dest") == "document"
    )
    if call.method == "GET" and call.path == b"/" and is_link:
        return None
    return Refusal(403, "the request comes from another site")


def _origin(call: Call) -> Refusal | None:
    """Refuse changes that no page of ours asks for; `null` is a page without a home."""
    origins = call.headers.getlist("origin")
    if not origins and call.method in SAFE:
        return None
    host = call.headers["host"].lower()
    if len(origins) == 1 and origins[0].lower() in (f"http://{host}", f"https://{host}"):
        return None
    return Refusal(403, "the request does not come from this page")


def _content(call: Call) -> Refusal | None:
    """Refuse bodies of another kind: plain forms and texts can be sent by any site."""
    wanted = {
        "POST": "application/json",
        "PATCH": "application/json",
        "PUT": "application/octet-stream",
    }
    if call.method in wanted and call.headers.getlist("content-type") != [wanted[call.method]]:
        return Refusal(415, f"the request must be of type {wanted[call.method]}")
    return None


def _size(call: Call) -> Refusal | None:
    """Refuse bodies that are too large, as far as their header says so."""
    length = call.headers.get("content-length", "0")
    if not length.isdecimal():
        return Refusal(400, "the length of the request is no number")
    most = most_bytes(call)
    return too_large(most) if int(length) > most else None


def most_bytes(call: Call) -> int:
    """Return the largest body that a request may have, in bytes."""
    if call.method != "PUT":
        return MOST_JSON
    if call.path == b"/api/files":
        return MOST_EMBEDDING
    return MOST_TAGS if call.path.endswith(b"/captions") else MOST_IMAGE


def too_large(most: int) -> Refusal:
    """Return the refusal of a body of more than so many bytes."""
    return Refusal(
        413, f"this is too large: more than {most // MEGABYTE} MB", "send a smaller file"
    )


CHECKS: tuple[Callable[[Call], Refusal | None], ...] = (
    _host,
    _method,
    _path,
    _site,
    _origin,
    _content,
    _size,
)


class Guard:
    """The server's only door.

    Args of the constructor:
        app: that answers.
        hosts: names that are ours, with their port where browsers send it.
        entrance: who is let in.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], entrance: Entrance) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope.get("raw_path") or scope["path"].encode()
        call = Call(scope["method"], path.partition(b"?")[0], Headers(scope=scope), self._hosts)
        guarded = _with_headers(send, call)
        refused = refusal_of(call)
        answer = refused.answer() if refused else self._not_let_in(call, Request(scope))
        if answer:
            await answer(scope, receive, guarded)
        else:
            await self._app(scope, _counted(receive, most_bytes(call)), guarded)

    def _not_let_in(self, call: Call, request: Request) -> Response | None:
        """Return the answer to somebody without the cookie, or with the token; None: they are in."""
        token = request.query_params.get("token")
        if call.method == "GET" and call.path == b"/" and token is not None:
            return self._by_token(token, request)
        path = call.path.decode("ascii")
        if path in PUBLIC or path.startswith("/static/") or self._entrance.knows(request.cookies):
            return None
        if not call.is_api:
            return RedirectResponse("/login", 303)
        hint = "open the address that `coinage ui` printed, or start it again"
        return Refusal(401, "you are not let in", hint).answer()

    def _by_token(self, token: str, request: Request) -> Response:
        """Give the cookie for the token, and lead on to the page without it."""
        if self._entrance.takes_token(token):
            return RedirectResponse("/", 303, {"set-cookie": self._entrance.set_cookie})
        # A reload of the printed address, or the login page
        return RedirectResponse("/" if self._entrance.knows(request.cookies) else "/login", 303)


def _counted(receive: Receive, most: int) -> Receive:
    """Return a receiver that stops where a body turns out larger than it may be."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            refusal = too_large(most)
            raise RefusedError(refusal.status, refusal.what, hint=refusal.hint)
        return message

    return counted


def _with_headers(send: Send, call: Call) -> Send:
    """Return a sender that adds the headers of `HEADERS` where an answer has no own."""
    wanted = {**HEADERS, **({"cache-control": "no-store"} if call.is_api else {})}

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in wanted.items():
                headers.setdefault(name, value)
        await send(message)

    return guarded
