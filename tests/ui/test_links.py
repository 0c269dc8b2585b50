"""Links that lie in a workspace and lead out of it: nothing behind them is shown or written."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from coinage.ui.events import Watch
from coinage.ui.job import last_error
from coinage.ui.site import Site
from coinage.ui.workspace import WordFolder
from tests.ui.sites import client, picture, site, upload, word

__all__ = ["client", "site", "word"]
SECRET = "a-secret-elsewhere"
PREVIEW = "x_000001_00_20300101000000_1.png"
TRY = "a" * 12

# What is a link, and the address that would show what is behind it; {} is an image's id
SHOWN = {
    "a caption": ("images/{}.txt", "/api/words/zibu"),
    "an image": ("images/{}.png", "/api/words/zibu/images/{}/full"),
    "a small picture": ("thumbs/{}.webp", "/api/words/zibu/images/{}/thumb"),
    "a mask": ("masks/{}.png", "/api/words/zibu/images/{}/mask"),
    "a preview": (f"output/sample/{PREVIEW}", f"/api/words/zibu/previews/{PREVIEW}"),
    "a kept picture": ("kept/a.png", "/api/words/zibu/previews/a.png"),
    "a report": ("output/zibu-report.html", "/api/words/zibu/report"),
    "progress": ("progress.json", "/api/words/zibu"),
    "a drawing": (f"../../pictures/{TRY}/1.png", f"/api/try/{TRY}/1.png"),
}


def linked(path: Path, target: Path) -> None:
    """Put a link in the place of a file or a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}-before"))
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this user may not make links")


def folder_of(site: Site) -> WordFolder:
    return site.workspace.word("zibu")


@pytest.mark.parametrize("what", SHOWN)
@pytest.mark.parametrize("of_folder", [False, True])
def test_what_is_behind_a_link_is_not_shown(
    what: str, of_folder: bool, site: Site, client: TestClient, word: str, tmp_path: Path
) -> None:
    image = str(upload(client, word, picture())["id"])
    place, address = (text.replace("{}", image) for text in SHOWN[what])
    outside = tmp_path / "outside"
    outside.mkdir()
    path = Path(os.path.normpath(folder_of(site).path / place))
    secret = outside / path.name
    secret.write_text(f'{{"step": "{SECRET}"}}')
    if not of_folder:
        linked(path, secret)
    elif path.parent == folder_of(site).path:
        pytest.skip("a word that is a link is refused elsewhere")
    else:
        linked(path.parent, outside)
    answer = client.get(address)
    assert answer.status_code < 500
    assert SECRET not in answer.text


@pytest.mark.parametrize("place", ["output.log", "output/zibu-log.jsonl"])
def test_events_show_nothing_behind_a_link(
    place: str, site: Site, word: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f'{{"step": "{SECRET}"}}\n')
    linked(folder_of(site).path / place, tmp_path / "secret")

    async def said() -> bytes:
        watch = Watch(site, folder_of(site))
        page = watch.join("")
        watch.leave(page)
        return await page.get() or b""

    assert SECRET.encode() not in asyncio.run(said())
    assert b"event: steps" in asyncio.run(said())


def test_a_reason_is_not_read_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"error: {SECRET}\n")
    assert last_error(tmp_path / "secret") == SECRET
    linked(tmp_path / "output.log", tmp_path / "secret")
    assert last_error(tmp_path / "output.log") == ""


def put(address: str) -> Callable[[TestClient], int]:
    return lambda client: client.put(address, content=picture()).status_code


# The folder that is a link, and a request that would write into it
WRITTEN: dict[str, tuple[str, Callable[[TestClient, str], int]]] = {
    "an image": ("images", lambda c, _: put("/api/words/zibu/images?name=a.png")(c)),
    "a small picture": ("thumbs", lambda c, _: put("/api/words/zibu/images?name=a.png")(c)),
    "a mask": ("masks", lambda c, image: put(f"/api/words/zibu/images/{image}/mask")(c)),
    "a caption": (
        "images",
        lambda c, image: (
            c.patch(f"/api/words/zibu/images/{image}", json={"caption": "x"}).status_code
        ),
    ),
    "a run": (
        "output",
        lambda c, _: c.post("/api/words/zibu/start", json={"when": "now"}).status_code,
    ),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_nothing_is_written_behind_a_link(
    what: str, site: Site, client: TestClient, word: str, tmp_path: Path
) -> None:
    image = str(upload(client, word, picture())["id"])
    client.patch(f"/api/words/{word}", json={"model": "demo-sd1"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{image}.png").write_bytes(picture())
    place, request = WRITTEN[what]
    linked(folder_of(site).path / place, outside)
    assert 400 <= request(client, image) < 500
    assert [path.name for path in outside.iterdir()] == [f"{image}.png"]
    assert not folder_of(site).run_settings.exists()


def test_a_copy_of_a_word_has_nothing_from_behind_a_link(
    site: Site, client: TestClient, word: str, tmp_path: Path
) -> None:
    image = str(upload(client, word, picture())["id"])
    (tmp_path / "secret").write_text(SECRET)
    linked(folder_of(site).images / f"{image}.txt", tmp_path / "secret")
    copy = client.post("/api/words", json={"copy": word, "token": "other"}).json()["id"]
    assert SECRET not in client.get(f"/api/words/{copy}").text
    linked(folder_of(site).images, tmp_path)
    assert client.post("/api/words", json={"copy": word, "token": "third"}).status_code == 400
