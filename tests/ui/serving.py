"""A real server for the tests in a browser, and a page that tells what went wrong in it."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/\S*")
LOOK = 60_000  # milliseconds; a busy machine is not a fault


def ui_command(folder: Path, *more: str) -> list[str]:
    """The command that serves a folder, without a browser."""
    program = [sys.executable, "-m", "coinage.cli.main"]
    return [*program, "ui", str(folder), "--no-browser", *more]


class Server:
    """`coinage ui` in a process of its own."""

    def __init__(self, folder: Path, *more: str) -> None:
        command = ui_command(folder, *more)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        for line in self.process.stdout:
            if found := ADDRESS.search(line):
                self.address, self.port = found[0], found[1]
                return
        raise AssertionError("the server has not started")

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)

    def close(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stdout
        self.process.stdout.close()


class Visit:
    """A browser's window with all that it complains about; there is no network but the server."""

    def __init__(self, browser: Any, server: Server, **how: Any) -> None:
        self.context = browser.new_context(**how)
        self.context.set_default_timeout(LOOK)
        self.told: list[str] = []
        self.context.route("**/*", self._only_from(server.root))
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self._told(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self._told(str(error)))

    def _only_from(self, root: str) -> Any:
        def route(request: Any) -> None:
            if request.request.url.startswith((root, "data:", "blob:")):
                request.continue_()
            else:
                self._told(f"asks for {request.request.url}")
                request.abort()

        return route

    def _told(self, text: str) -> None:
        self.told.append(text)

    def close(self) -> None:
        self.context.close()


def shown(page: Any, selector: str) -> None:
    page.wait_for_selector(selector)


def has_count(page: Any, selector: str, count: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(count, timeout=LOOK)


def has_text(page: Any, selector: str, text: str, *, exact: bool = False) -> None:
    from playwright.sync_api import expect

    expected = expect(page.locator(selector))
    if exact:
        expected.to_have_text(text, timeout=LOOK)
    else:
        expected.to_contain_text(text, timeout=LOOK)
