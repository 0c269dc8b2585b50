"""Workspaces and pictures for the tests of the page."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from coinage.ui.app import create_app
from coinage.ui.models import Models
from coinage.ui.site import Site
from coinage.ui.workspace import Workspace


def make_site(root: Path, hub: Path | None = None) -> Site:
    """A workspace without anything in it."""
    workspace = Workspace(root)
    for folder in (workspace.own, workspace.words, workspace.models):
        folder.mkdir(parents=True)
    return Site.of(workspace, Models(workspace, hub or root / "no-hub"))


def client_of(site: Site) -> TestClient:
    """A browser without a guard before the server."""
    return TestClient(create_app(site))


def picture(
    kind: str = "PNG", size: tuple[int, int] = (48, 32), mode: str = "RGB", **more: object
) -> bytes:
    """A picture in a format: a gradient, so that no two sides are alike."""
    image = Image.linear_gradient("L").resize(size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "work")


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with client_of(site) as browser:
        yield browser


@pytest.fixture
def word(client: TestClient) -> str:
    """The id of a new word."""
    return str(client.post("/api/words", json={"token": "zibu"}).json()["id"])


def upload(client: TestClient, word: str, data: bytes, name: str = "a.png") -> dict[str, object]:
    """Send an image; return what the server says of it."""
    answer = client.put(f"/api/words/{word}/images", params={"name": name}, content=data)
    assert answer.status_code == 201, answer.text
    image: dict[str, object] = answer.json()["image"]
    return image
