"""`coinage ui` as people start it: a process, a port, an address."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from coinage.cli.main import main
from coinage.errors import CoinageError
from coinage.ui.form import Form, write_form
from coinage.ui.images import store_image
from coinage.ui.server import PORT, Settings, opened_socket, site_of
from coinage.ui.workspace import WordFolder
from tests.helpers import captured
from tests.ui.serving import ui_command
from tests.ui.sites import picture

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@contextmanager
def served(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `coinage ui`; yields the process and the address that it prints."""
    command = ui_command(folder, "--port=0", *words)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def browser(address: str) -> httpx.Client:
    url = httpx.URL(address)
    base = f"http://{url.netloc.decode()}"
    return httpx.Client(base_url=base, follow_redirects=True, headers={"origin": base}, timeout=30)


def ended(process: subprocess.Popen[str], how: signal.Signals) -> tuple[float, str]:
    """End the server; return the seconds that it took, and what it had printed."""
    start = time.monotonic()
    process.send_signal(how)
    _, error = process.communicate(timeout=20)
    return time.monotonic() - start, error


def test_start_use_and_restart(tmp_path: Path) -> None:
    with served(tmp_path / "work") as (process, address), browser(address) as first:
        assert first.get(address).status_code == 200
        assert first.get("/api/words").json() == []
        made = first.post("/api/words", json={"token": "zibu"})
        assert made.status_code == 201
        assert "server" not in made.headers
        with browser(address) as second:
            assert str(second.get(address).url).endswith("/login")
            assert second.get("/api/words").status_code == 401
        cookies = dict(first.cookies)
        _, error = ended(process, signal.SIGINT)
        assert process.returncode == 0
        assert "token" not in error
        assert "GET" not in error
    with served(tmp_path / "work") as (process, again), browser(again) as reloaded:
        assert again != address
        reloaded.cookies.update(cookies)
        assert [word["token"] for word in reloaded.get("/api/words").json()] == ["zibu"]


def raw(address: str, request: str, body: bytes = b"") -> bytes:
    """Send a request that no library would."""
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=20) as link:
        link.sendall(request.replace("\n", "\r\n").encode() + body)
        answer = link.recv(65536)
        head, _, start = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        while length and len(start) < int(length[1]):
            start += link.recv(65536)
    return head + start


def test_requests_that_no_browser_sends(tmp_path: Path) -> None:
    with served(tmp_path / "work") as (_, address):
        host = httpx.URL(address).netloc.decode()
        assert raw(address, f"GET /login HTTP/1.1\nHost: {host}\n\n").startswith(b"HTTP/1.1 200")
        requests = {
            f"GET http://evil/ HTTP/1.1\nHost: {host}\nHost: evil\n\n": b" 400",
            "GET / HTTP/1.0\n\n": b" 403",
            f"GET /static/../../secret HTTP/1.1\nHost: {host}\n\n": b" 404",
            f"GET /static\\..\\x HTTP/1.1\nHost: {host}\n\n": b" 404",
            f"PUT /api/words/x/images HTTP/1.1\nHost: {host}\nOrigin: http://{host}\n"
            "Content-Type: application/octet-stream\nContent-Length: 5000000000\n\n": b" 413",
            f"OPTIONS /api/words HTTP/1.1\nHost: {host}\nOrigin: http://evil\n\n": b" 405",
        }
        for request, status in requests.items():
            assert raw(address, request).split(b"\r\n")[0][8:].startswith(status), request


def test_too_large_a_file_is_answered_though_it_is_being_sent(tmp_path: Path) -> None:
    """Browsers send all of a file before they read an answer, and call anything else a lost connection."""
    with served(tmp_path / "work") as (_, address), browser(address) as client:
        client.get(address)
        host = httpx.URL(address).netloc.decode()
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        size = 101 * 2**20
        request = (
            f"PUT /api/words/zibu/images HTTP/1.1\nHost: {host}\nOrigin: http://{host}\nCookie: {cookie}\n"
            f"Content-Type: application/octet-stream\nContent-Length: {size}\n\n"
        )
        answer = raw(address, request, bytes(size))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"more than 100 MB" in answer


def test_a_stream_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    with served(tmp_path / "work") as (process, address), browser(address) as client:
        client.get(address)
        client.post("/api/words", json={"token": "zibu"})
        with client.stream("GET", "/api/words/zibu/events") as stream:
            assert stream.status_code == 200
            next(stream.iter_raw())
            seconds, _ = ended(process, signal.SIGTERM)
    assert seconds < 15


def test_the_server_imports_no_torch() -> None:
    code = "import sys, coinage.cli.cmd_ui, coinage.ui.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "diffusers", "transformers", "accelerate", "huggingface_hub"}
    assert not heavy & set(done.stdout.split())


# The command


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--listen", "192.168.1.5"], "needs a password"),
        (["--listen", "::", "--password-file", "{short}"], "needs a password"),
        (
            ["--listen", "::", "--password-file", "{long}"],
            "does not say how this computer is called",
        ),
        (["--allow-host", "*.example"], "--allow-host *.example is not a name"),
        (["--allow-host", "http://x"], "is not a name"),
        (["--port", "70000"], "--port 70000 is not a port"),
        (["--models", "{none}"], "this is no folder"),
        (["--password-file", "{none}", "--listen", "::1"], "file not found"),
        (["--lang", "xx"], "xx"),
    ],
)
def test_wrong_flags(words: list[str], part: str, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("secret")
    (tmp_path / "long").write_text("a long secret\n")
    places = {name: tmp_path / name for name in ("short", "long", "none")}
    command = [
        "ui",
        str(tmp_path / "work"),
        "--no-browser",
        *(word.format(**places) for word in words),
    ]
    done = captured(lambda: main(command))
    assert done.returncode in (1, 2)
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with opened_socket(Settings(folder=tmp_path, port=0)) as taken:
        port = taken.getsockname()[1]
        done = captured(
            lambda: main(["ui", str(tmp_path / "work"), "--no-browser", f"--port={port}"])
        )
        assert done.returncode == 1
        assert f"port {port} is in use" in done.stderr
        assert "--port" in done.stderr
    with (
        opened_socket(Settings(folder=tmp_path)) as first,
        opened_socket(Settings(folder=tmp_path)) as second,
    ):
        ports = [bound.getsockname()[1] for bound in (first, second)]
    assert ports[0] != ports[1]
    assert all(port >= PORT or port > 1023 for port in ports)
    with pytest.raises(CoinageError, match="cannot listen"):
        opened_socket(Settings(folder=tmp_path, port=0, listen="192.0.2.1"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CoinageError, match="cannot make the folder"):
        site_of(Settings(folder=tmp_path / "file" / "work"))


def test_listening_for_others_needs_the_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a long secret\n")
    words = ("--listen", "127.0.0.1", "--password-file", str(tmp_path / "password"))
    with served(tmp_path / "work", *words) as (_, address), browser(address) as client:
        assert client.post("/api/login", json={"password": "wrong one"}).status_code == 403
        assert client.post("/api/login", json={"password": "a long secret"}).status_code == 200
        assert client.get("/api/words").status_code == 200


def test_the_password_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COINAGE_PASSWORD", "from the environment")
    words = ("--listen", "127.0.0.1")
    with served(tmp_path / "work", *words) as (_, address), browser(address) as client:
        assert os.environ["COINAGE_PASSWORD"] not in address
        login = client.post("/api/login", json={"password": "from the environment"})
        assert login.status_code == 200


def test_a_container_is_told_by_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of the file\n")
    monkeypatch.setenv("COINAGE_PASSWORD", "of the variable")
    monkeypatch.setenv("COINAGE_PASSWORD_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("COINAGE_HOSTS", "box.example localhost")
    with served(tmp_path / "work", "--listen", "::") as (_, address), browser(address) as page:
        named = {"host": "box.example", "origin": "https://box.example"}
        wrong = page.post("/api/login", json={"password": "of the variable"}, headers=named)
        right = page.post("/api/login", json={"password": "of the file"}, headers=named)
        other = page.post("/api/login", json={"password": "x"}, headers={"host": "evil.example"})
    assert (wrong.status_code, right.status_code, other.status_code) == (403, 200, 403)


def test_a_container_without_a_password_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COINAGE_HOSTS", "localhost")
    monkeypatch.setenv("COINAGE_PASSWORD", "")
    command = ["ui", str(tmp_path / "work"), "--listen", "::", "--no-browser"]
    done = captured(lambda: main(command))
    assert done.returncode != 0
    assert "set COINAGE_PASSWORD" in done.stderr
    monkeypatch.setenv("COINAGE_PASSWORD_FILE", str(tmp_path / "none"))
    done = captured(lambda: main(command))
    assert "COINAGE_PASSWORD_FILE: file not found" in done.stderr
    assert not (tmp_path / "work").exists()


def test_what_strangers_send_prints_nothing(tmp_path: Path) -> None:
    with served(tmp_path / "work") as (process, address), browser(address) as client:
        client.get(address)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        host = httpx.URL(address).netloc.decode()
        start = (
            f"POST /api/words HTTP/1.1\nHost: {host}\nOrigin: http://{host}\nCookie: {cookie}\n"
            "Content-Type: application/json\n"
        )
        assert b" 400" in raw(address, f"{start}Transfer-Encoding: chunked\n\nzz\n")
        assert b" 400" in raw(address, f"GET / HTTP/1.1\nHost: {host}\nHost: {host}\n\n")
        upgrade = (
            f"GET /api/words HTTP/1.1\nHost: {host}\nConnection: Upgrade\nUpgrade: websocket\n\n"
        )
        raw(address, upgrade)
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port)) as link:
            link.sendall(f"{start}Content-Length: 5000\n\n{{".replace("\n", "\r\n").encode())
            time.sleep(0.2)
        assert client.get("/api/words").json() == []
        _, error = ended(process, signal.SIGINT)
    assert error.splitlines()[2:] == [], error


# By the clock, on an idle machine


def large_workspace(root: Path) -> None:
    """1,000 images in ten words, and 500 words beside them."""
    site = site_of(Settings(folder=root))
    upload = root / "upload"
    for number in range(510):
        folder = WordFolder(site.workspace.words / f"word-{number}")
        folder.path.mkdir()
        write_form(folder, Form(token=f"word{number}", model="demo-sd1"))
        for image in range(100 if number < 10 else 0):
            upload.write_bytes(picture("JPEG", (256, 256)))
            store_image(folder, upload, f"{image}.jpg", site.lock)
            (folder.images / f"{image}.txt").touch()


@pytest.mark.perf
@ON_LINUX
def test_it_is_quick_and_small(tmp_path: Path) -> None:
    large_workspace(tmp_path / "work")
    start = time.monotonic()
    with served(tmp_path / "work") as (process, address), browser(address) as client:
        assert time.monotonic() - start < 1
        client.get(address)
        client.get("/api/words")
        for path in ("/", "/api/words", "/api/words/word-3", "/api/models", "/api/flags"):
            start = time.monotonic()
            assert client.get(path).status_code == 200
            assert time.monotonic() - start < 0.2, path
        headers = {"content-type": "application/octet-stream"}
        for _ in range(3):
            data = picture("JPEG", (6000, 4000))
            client.put("/api/words/word-3/images", content=data, headers=headers)
        status = Path(f"/proc/{process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 150 * 1024  # kB
