"""Serve a workspace to a browser: address, port, start and end. Imports no torch."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from coinage.errors import CoinageError
from coinage.ui.app import guarded_app
from coinage.ui.ending import ask_runs, runs_ended
from coinage.ui.models import Models
from coinage.ui.security import Guard
from coinage.ui.sessions import Entrance, kept_secret
from coinage.ui.site import Site
from coinage.ui.workspace import Workspace

log = logging.getLogger("coinage")
PORT = 8484
MOST_TRIED = 20  # ports above `PORT`
LOOPBACK = "127.0.0.1"
SECONDS_TO_END = 2  # that open streams have when the server ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a workspace is served.

    Attributes:
        folder: the workspace; it is made if need be.
        port: None: the first free one from 8484 on.
        listen: address of this computer that others may reach; "": this computer alone.
        password: that others need; "" only without `listen`.
        names: further names that this server goes by.
        models: folders whose models may be chosen; they are remembered.
        language: of the pages; None: what the browser prefers.
        ends_runs: the runs end with the server, with all saved.
    """

    folder: Path
    port: int | None = None
    listen: str = ""
    password: str = ""
    names: Sequence[str] = ()
    models: Sequence[Path] = ()
    language: str | None = None
    ends_runs: bool = False


def hosts_of(port: int, listen: str = "", names: Sequence[str] = ()) -> frozenset[str]:
    """Return the names that a browser's requests may give, exactly.

    Args:
        port: that the server answers at.
        listen: address beside this computer's own.
        names: further ones, with a port or, as behind a proxy, without.
    """
    hosts = {f"{LOOPBACK}:{port}", f"localhost:{port}", f"[::1]:{port}"}
    if listen and not _is_any(listen):
        hosts.add(f"{_in_address(listen)}:{port}")
    for name in names:
        hosts |= {name.lower(), f"{name.lower()}:{port}"}
    return frozenset(hosts)


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_any(listen: str) -> bool:
    """Return whether an address stands for all of this computer's addresses."""
    try:
        return ipaddress.ip_address(listen).is_unspecified
    except ValueError:
        return False


def opened_socket(settings: Settings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        CoinageError: the port is in use, or the address is none of this computer's.
    """
    host = settings.listen or LOOPBACK
    if settings.port is not None:
        return _bound(host, settings.port)
    for port in range(PORT, PORT + MOST_TRIED):
        try:
            return _bound(host, port)
        except CoinageError as error:
            if _reason(error) != errno.EADDRINUSE:
                raise
    return _bound(host, 0)


def _reason(error: CoinageError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, so that asyncio sends small answers at once
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # On Windows the option would let two programs share a port
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            what, hint = f"port {port} is in use", "choose another one with --port"
        else:
            what = f"cannot listen on {host}, port {port}: {error.strerror}"
            hint = "give an address of this computer, and a port above 1023"
        raise CoinageError(what, hint=hint) from error
    return bound


def site_of(settings: Settings) -> Site:
    """Return what the rooms work on; the workspace's folders are made.

    Raises:
        CoinageError: they cannot be made.
    """
    root = settings.folder.expanduser().absolute()
    workspace = Workspace(root)
    try:
        for folder in (workspace.own, workspace.models, workspace.words):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "name another folder: coinage ui FOLDER"
        what = f"cannot make the folder: {error.strerror}"
        raise CoinageError(what, str(root), hint) from error
    models = Models(workspace)
    models.allow(list(settings.models))
    return Site.of(workspace, models)


def serve(settings: Settings, started: Callable[[str], None]) -> None:
    """Serve a workspace until the process is told to end.

    Args:
        settings: what, where and to whom.
        started: called with the address that opens the page once, as soon as it does.

    Raises:
        CoinageError: the folder cannot be used, or the port.
    """
    site = site_of(settings)
    with opened_socket(settings) as bound:
        port = bound.getsockname()[1]
        token = secrets.token_urlsafe(32)
        secret = kept_secret(site.workspace.own / "session")
        entrance = Entrance(secret, token, settings.password)
        hosts = hosts_of(port, settings.listen, settings.names)
        app = guarded_app(site, hosts, entrance, settings.language)
        shown = LOOPBACK if not settings.listen or _is_any(settings.listen) else settings.listen
        address = f"http://{_in_address(shown)}:{port}/?token={token}"
        runs = site.workspace if settings.ends_runs else None
        _Server(app, lambda: started(address), site.tasks.end_soon, runs).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Says when it has started. It logs no requests, since addresses may hold the token.

    Args of the constructor:
        app: that answers.
        started: called when it does.
        ending: called before it ends.
        runs: workspace whose runs end with it; None: they go on.
    """

    def __init__(
        self,
        app: Guard,
        started: Callable[[], None],
        ending: Callable[[], None],
        runs: Workspace | None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_config=None,
            log_level="error",  # its warnings are about what strangers send
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
        super().__init__(config)
        self._has_started, self._ends, self._runs = started, ending, runs

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._has_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; streams that would go on for ever are told so first."""
        self._ends()
        if self._runs:  # they save while streams end
            asked = await asyncio.to_thread(ask_runs, self._runs)
            if asked:
                log.warning("waiting until runs are saved: %s", ", ".join(asked))
        await super().shutdown(sockets)
        if self._runs:
            await runs_ended(self._runs)
