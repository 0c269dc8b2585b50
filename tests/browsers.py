"""A browser for tests, where the machine has one."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "msedge"))),
    None,
)
FLAGS = """
--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync
""".split()  # noqa: SIM905 - a list of flags reads best so
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium, Chrome or Edge on this machine"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield launched
        launched.close()


def fits(page: Any) -> bool:
    """Return whether a page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))
