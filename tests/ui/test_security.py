"""Each attack passes a server without its guard, and is refused by exactly one check."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from coinage.ui.app import create_app, guarded_app
from coinage.ui.security import (
    CHECKS,
    HEADERS,
    MOST_IMAGE,
    MOST_JSON,
    Call,
    Guard,
    refusal_of,
)
from coinage.ui.server import hosts_of
from coinage.ui.sessions import Entrance, TooManyError, kept_secret
from coinage.ui.site import Site
from tests.ui.sites import picture

HERE = "127.0.0.1:8484"
OURS = f"http://{HERE}"
JSON = "application/json"
SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Attack:
    """A request that a stranger's page makes a browser send, and the check that refuses it."""

    status: int
    check: str
    method: str = "POST"
    path: str = "/api/words"
    body: bytes = b'{"token": "stolen"}'
    headers: dict[str, str] = field(default_factory=dict)


ATTACKS = {
    "another name leads here (DNS rebinding)": Attack(
        403, "_host", headers={"host": "evil.example:8484", "origin": "http://evil.example:8484"}
    ),
    "a name that begins like ours": Attack(
        403,
        "_host",
        headers={"host": "127.0.0.1:8484.evil.example", "origin": "http://127.0.0.1:8484.evil.example"},
    ),
    "our name at another port": Attack(
        403, "_host", headers={"host": "127.0.0.1:80", "origin": "http://127.0.0.1:80"}
    ),
    "no port": Attack(403, "_host", headers={"host": "localhost", "origin": "http://localhost"}),
    "a post of another site": Attack(403, "_origin", headers={"origin": "http://evil.example"}),
    "a post of a page without a home": Attack(403, "_origin", headers={"origin": "null"}),
    "a post of another port": Attack(403, "_origin", headers={"origin": "http://127.0.0.1:8188"}),
    "a post of another of our names": Attack(403, "_origin", headers={"origin": "http://localhost:8484"}),
    "an origin that begins like ours": Attack(
        403, "_origin", headers={"origin": f"{OURS}.evil.example"}
    ),
    "a post without an origin": Attack(403, "_origin", headers={"origin": ""}),
    "a read by a page of another origin": Attack(
        403, "_origin", "GET", body=b"", headers={"origin": "http://evil.example"}
    ),
    "a request that says it is cross-site": Attack(
        403, "_site", headers={"sec-fetch-site": "cross-site"}
    ),
    "a request of a neighbour's name": Attack(403, "_site", headers={"sec-fetch-site": "same-site"}),
    "a picture of ours in another site's page": Attack(
        403, "_site", "GET", body=b"", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    ),
    "a link from another site, deep into ours": Attack(
        403,
        "_site",
        "GET",
        "/files",
        b"",
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ),
    "another site's frame around the front page": Attack(
        403,
        "_site",
        "GET",
        "/",
        b"",
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ),
    "a plain form": Attack(
        415, "_content", headers={"content-type": "application/x-www-form-urlencoded"}
    ),
    "a text, which needs no leave": Attack(415, "_content", headers={"content-type": "text/plain"}),
    "a form with a file": Attack(
        415, "_content", headers={"content-type": "multipart/form-data; boundary=x"}
    ),
    "almost JSON": Attack(415, "_content", headers={"content-type": "application/json-ish"}),
    "a huge JSON": Attack(413, "_size", body=b'{"token": "stolen"}' + b" " * MOST_JSON),
}  # fmt: skip


def sent_headers(attack: Attack) -> dict[str, str]:
    headers = {"host": HERE, "origin": OURS, "content-type": JSON} | attack.headers
    if attack.method == "GET" and "origin" not in attack.headers:
        del headers["origin"]
    return {name: value for name, value in headers.items() if value}


def guarded(site: Site, entrance: Entrance | None = None) -> TestClient:
    entrance = entrance or Entrance(SECRET, "token")
    app = guarded_app(site, hosts_of(8484), entrance)
    return TestClient(app, OURS, follow_redirects=False)


def inside(site: Site) -> TestClient:
    """A browser that has the cookie."""
    browser = guarded(site)
    browser.cookies.set(Entrance(SECRET, "").cookie, SECRET)
    return browser


def send(browser: TestClient, attack: Attack) -> int:
    request = browser.build_request(
        attack.method, attack.path, content=attack.body, headers=sent_headers(attack)
    )
    if "host" in attack.headers:
        request.headers["host"] = attack.headers["host"]
    return browser.send(request).status_code


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_works_without_the_guard_and_not_with_it(name: str, site: Site) -> None:
    attack = ATTACKS[name]
    unguarded = TestClient(create_app(site), OURS, follow_redirects=False)
    assert send(unguarded, attack) < 300
    stolen = set(site.workspace.word_ids())
    assert stolen == ({"stolen"} if attack.method == "POST" else set())
    assert send(inside(site), attack) == attack.status
    assert set(site.workspace.word_ids()) == stolen


@pytest.mark.parametrize("name", ATTACKS)
def test_each_check_is_needed(name: str) -> None:
    attack = ATTACKS[name]
    headers = sent_headers(attack) | {"content-length": str(len(attack.body))}
    call = Call(attack.method, attack.path.encode(), Headers(headers), hosts_of(8484))
    refusing = [check.__name__ for check in CHECKS if check(call)]
    assert refusing == [attack.check]


def test_the_same_request_from_our_own_page(site: Site) -> None:
    browser = inside(site)
    for site_header in ("same-origin", "none"):
        headers = {"origin": OURS, "content-type": JSON, "sec-fetch-site": site_header}
        answer = browser.post("/api/words", content=b'{"token": "mine"}', headers=headers)
        assert answer.status_code == 201
    navigation = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert browser.get("/", headers=navigation).status_code == 200


# Paths

PATHS = (
    "/static/../secret", "/static/%2e%2e/secret", "/static/..%2fsecret", "/static/%2e%2e%2fsecret",
    "/static/..%5csecret", "/static/%252e%252e/secret", "/static//../secret", "/%2e/secret", "/secret%00.png",
    "/C%3a/secret", "/secret%3a%3a$DATA", "/.coinage/session", "/secret.", "/secret%20", "/%73ecret",
)  # fmt: skip


def naive(root: Path) -> object:
    """A server that opens whatever a path leads to."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = unquote(unquote(scope["path"])).replace("\\", "/").partition("\0")[0]
        path = path.replace("::$DATA", "").removeprefix("/C:").rstrip(". ")
        file = root / path.lstrip("/")
        found = file.is_file()
        await Response(file.read_bytes() if found else b"", 200 if found else 404)(
            scope, receive, send
        )

    return app


@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_any_but_the_plain_form_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / ".coinage").mkdir()
    (tmp_path / ".coinage" / "session").write_text("a secret")
    (tmp_path / "secret").write_text("a secret")
    app = naive(tmp_path)
    entrance = Entrance(SECRET, "")
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (b"host", HERE.encode()),
            (b"cookie", f"{entrance.cookie}={SECRET}".encode()),
        ],
    }
    assert status_of(app, scope) == 200
    assert status_of(Guard(app, hosts_of(8484), entrance), scope) == 404  # type: ignore[arg-type]


def status_of(app: object, scope: dict[str, object]) -> int:
    import asyncio

    statuses = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        statuses.append(message.get("status"))

    asyncio.run(app(dict(scope), receive, send))  # type: ignore[operator]
    assert isinstance(statuses[0], int)
    return statuses[0]


def test_a_long_path_is_judged_at_once() -> None:
    path = b"/" + b"a" * 100_000 + b"!"
    call = Call("GET", path, Headers({"host": HERE}), hosts_of(8484))
    refusal = refusal_of(call)
    assert refusal is not None
    assert refusal.status == 404


def test_a_websocket_is_closed(site: Site) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), inside(site).websocket_connect("/api/words"):
        pass


# Sizes that no header tells


def test_a_body_that_grows_too_large_on_its_way(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.ui.security.MOST_IMAGE", 100_000)
    browser = inside(site)
    headers = {"origin": OURS, "content-type": "application/octet-stream"}
    browser.post("/api/words", json={"token": "zibu"}, headers={"origin": OURS})

    def parts() -> object:
        yield picture()
        for _ in range(20):
            yield b"\0" * 10_000

    answer = browser.put("/api/words/zibu/images", content=parts(), headers=headers)
    assert answer.status_code == 413
    assert "too large" in answer.json()["problems"][0]["what"]
    assert [path.name for path in (site.workspace.words / "zibu").iterdir()] == ["word.json"]
    assert MOST_IMAGE == 100 * 2**20


# Headers


@pytest.mark.parametrize(
    "path", ["/", "/login", "/api/words", "/api/none", "/static/none.js", "/static/%2e"]
)
def test_every_answer_has_the_headers(path: str, site: Site) -> None:
    answer = inside(site).get(path)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert (answer.headers.get("cache-control") == "no-store") == path.startswith("/api/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not any(name.startswith("access-control") for name in answer.headers)


# Who is let in


def test_the_token_opens_once(site: Site) -> None:
    browser = guarded(site)
    assert browser.get("/").headers["location"] == "/login"
    assert browser.get("/api/words").status_code == 401
    assert browser.head("/?token=token").status_code == 303  # a look ahead does not use it up
    assert browser.get("/?token=wrong").headers["location"] == "/login"
    opened = browser.get("/?token=token")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert browser.get("/api/words").status_code == 200
    assert browser.get("/?token=token").headers["location"] == "/"
    stranger = guarded(site, Entrance(SECRET, ""))
    assert stranger.get("/?token=").headers["location"] == "/login"
    browser.cookies.clear()
    again = browser.get("/?token=token")
    assert again.headers["location"] == "/login"
    assert "set-cookie" not in again.headers


def test_the_login_page_and_what_it_needs_are_open(site: Site) -> None:
    browser = guarded(site)
    assert browser.get("/login").status_code == 200
    assert browser.get("/static/none.css").status_code == 404
    assert browser.get("/files").headers["location"] == "/login"


def test_a_password(site: Site) -> None:
    now = [0.0]
    entrance = Entrance(SECRET, "", "open sesame", lambda: now[0])
    browser = guarded(site, entrance)

    def login(password: object) -> int:
        return browser.post(
            "/api/login", json={"password": password}, headers={"origin": OURS}
        ).status_code

    assert login(["open sesame"]) == 400
    assert [login("Open sesame") for _ in range(6)] == [403] * 5 + [429]
    assert login("open sesame") == 429  # the right one too: nobody can try on
    now[0] = 61.0
    assert login("open sesame") == 200
    assert browser.get("/api/words").status_code == 200


def test_no_password_is_no_password(site: Site) -> None:
    browser = guarded(site)
    answer = browser.post("/api/login", json={"password": ""}, headers={"origin": OURS})
    assert answer.status_code == 403
    assert "printed" in answer.json()["problems"][0]["hint"]
    entrance = Entrance(SECRET, "")
    assert not entrance.takes_token("")
    for _ in range(5):
        entrance.takes_password("é\ud800")
    with pytest.raises(TooManyError, match="too many"):
        entrance.takes_password("")


def test_the_secret_is_kept_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "own" / "session"
    secret = kept_secret(path)
    assert kept_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("short")
    assert len(kept_secret(path)) == 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_names_of_the_server() -> None:
    assert hosts_of(80) == {"127.0.0.1:80", "localhost:80", "[::1]:80"}
    more = hosts_of(80, "fe80::1", ["Box.local", "proxy:443"])
    assert {"[fe80::1]:80", "box.local", "box.local:80", "proxy:443"} < more
    assert "[::]:80" not in hosts_of(80, "::", ["box"])
