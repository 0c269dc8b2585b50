"""A Hugging Face hub of our own on the loopback: repositories, commits, downloads, refusals."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from coinage.hub import THREAD

KEY = "hf_" + "k" * 30
COMMIT = "c" * 40


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@dataclass
class FakeHub:
    """What is on the hub, and how it answers."""

    repos: dict[str, Repo] = field(default_factory=dict)  # by "models/owner/name"
    refuses: bool = False  # every key
    failing: int = 0  # commits that fail before one succeeds
    requests: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)  # commits wait for it
    url: str = ""

    def __post_init__(self) -> None:
        self.held.set()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub  # given to the subclass of each server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass

    def _answer(
        self, status: int, body: object = None, headers: dict[str, str] | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {KEY}" and not self.hub.refuses

    def do_POST(self) -> None:
        body, path = self._read(), urlsplit(self.path).path
        self.hub.requests.append(f"POST {path}")
        if not self._may_write():
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            owner = f"{asked['organization']}/" if asked.get("organization") else ""
            name = f"{asked.get('type') or 'model'}s/{owner}{asked['name']}"
            self.hub.repos[name] = Repo(
                asked.get("private") or asked.get("visibility") == "private"
            )
            self._answer(200, {"url": f"{self.hub.url}/{owner}{asked['name']}"})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        else:
            self._commit(path, body)

    def _commit(self, path: str, body: bytes) -> None:
        self.hub.held.wait()
        if self.hub.failing:
            self.hub.failing -= 1
            self._answer(500, {"error": "the hub is ill"})
            return
        name = path.removeprefix("/api/").split("/commit/")[0]
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                self.hub.repos[name].messages.append(entry["value"]["summary"])
            else:
                self.hub.repos[name].files[entry["value"]["path"]] = base64.b64decode(
                    entry["value"]["content"]
                )
        self._answer(
            200,
            {
                "commitUrl": f"{self.hub.url}/x/y/commit/{COMMIT}",
                "commitOid": COMMIT,
                "hookOutput": "",
            },
        )

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/"):
            self._about(path.removeprefix("/api/"))
            return
        kind, path = (
            ("datasets", path.removeprefix("/datasets"))
            if path.startswith("/datasets/")
            else ("models", path)
        )
        repo, _, rest = path.strip("/").partition("/resolve/")
        known = self.hub.repos.get(f"{kind}/{repo}")
        data = known.files.get(rest.partition("/")[2]) if known else None
        if known is not None and known.gated:
            self._refuse(403, "GatedRepo")
        elif known is None or data is None:
            self._refuse(404, "RepoNotFound" if known is None else "EntryNotFound")
        else:
            self._answer(
                200,
                data,
                {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT},  # noqa: S324
            )

    def _about(self, path: str) -> None:
        name, rest = "/".join(path.split("/")[:3]), path.split("/")[3:]
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._may_write()):
            self._refuse(404, "RepoNotFound")
        elif rest[:1] == ["tree"]:
            self._answer(
                200,
                [
                    {"type": "file", "path": p, "size": len(d), "oid": COMMIT}
                    for p, d in repo.files.items()
                ],
            )
        else:
            siblings = [{"rfilename": path} for path in repo.files]
            info = {
                "_id": "0",
                "id": name.partition("/")[2],
                "sha": COMMIT,
                "siblings": siblings,
                "tags": [],
                "private": repo.private,
            }
            self._answer(200, info)


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[FakeHub]:
    """Let huggingface_hub talk to a hub of our own, with an empty cache and no stored login."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/no-token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.held.set()
        # Without its hub, an upload would try again and close the connections of the next test
        for thread in threading.enumerate():
            if thread.name == THREAD:
                thread.join()
        server.shutdown()
        server.server_close()
