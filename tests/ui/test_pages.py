"""Every page in each language and theme: usable by all, as wide as its window, and quiet."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from coinage.ui.job import Job, write_job
from coinage.ui.previews import prompts_of
from coinage.ui.processes import own_process
from coinage.ui.texts import texts_of
from coinage.ui.workspace import WordFolder, write_json
from tests.browsers import browser, fits, needs_browser
from tests.ui.serving import Server, Visit, has_count, has_text, shown
from tests.ui.sites import client_of, make_site, picture

__all__ = ["browser"]
pytestmark = [needs_browser, pytest.mark.browser]
HOSTILE = '<img src=x onerror="document.title=1">"\'&'
LOOKS = [("en-US", "dark", 375), ("ja-JP", "light", 1280)]
MORE_LOOKS = [("en-US", "light", 1280), ("ja-JP", "light", 375), ("ja-JP", "dark", 2560)]
STEPS, TOTAL = 60, 300
PREVIEWS = [
    {"text": "a photo of zibu", "negative": "", "seed": 1, "of": None},
    {"text": "a photo", "negative": "", "seed": 1, "of": 0},
]


def form_of(client: TestClient, token: str, images: int) -> str:
    """Make a word with images and captions, and return its id."""
    word = str(client.post("/api/words", json={"token": token}).json()["id"])
    client.patch(f"/api/words/{word}", json={"model": "demo-sd1", "flags": {"--seed": "1"}})
    for number in range(images):
        name = f"{number}{HOSTILE}.png"
        sent = client.put(f"/api/words/{word}/images", params={"name": name}, content=picture())
        image = sent.json()["image"]["id"]
        client.patch(f"/api/words/{word}/images/{image}", json={"caption": f"{token} {HOSTILE}"})
    return word


def run_of(folder: WordFolder, job: Job) -> None:
    """Leave what a run that came to `STEPS` leaves in a word's folder."""
    samples = folder.output / "sample"
    samples.mkdir(parents=True)
    for step in (0, 30, STEPS):
        for index in range(len(PREVIEWS)):
            name = f"zibu_{step:06d}_{index:02d}_20260101000000_1.png"
            (samples / name).write_bytes(picture(size=(64, 64)))
    write_json(prompts_of(folder), PREVIEWS)
    lines = [{"step": step, "loss": 1 / step, "angles": [step / 2]} for step in range(1, STEPS + 1)]
    lines += [{"step": STEPS, "images": []}, {"images": []}]  # what is said of the images
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.output / "zibu-log.jsonl").write_text(log)
    (folder.output / "zibu.safetensors").write_bytes(b"not read by a page")
    (folder.output / "zibu-report.html").write_text("<title>report</title>")
    progress = {
        "phase": "training",
        "step": STEPS,
        "total": TOTAL,
        "seconds_left": 75.0,
        "loss": 0.1,
        "angle": 30.0,
    }
    write_json(folder.progress, progress)
    printed = f"loading\nwarning: something {HOSTILE}\nhint: mend it\nerror: no more {HOSTILE}\n"
    folder.printed.write_text(printed)
    write_job(folder, job)


def drawing_of(folder: Path) -> None:
    """Leave what a drawing leaves that shows where two words act."""
    words = ["zibu", HOSTILE]
    pictures = []
    for number, with_word in enumerate((True, False)):
        maps = words if with_word else []
        made = {"number": number, "prompt": HOSTILE, "seed": 7, "with_word": with_word}
        pictures.append({**made, "maps": maps})
    request = {"prompt": HOSTILE, "words": ["x"], "seeds": 1, "with_and_without": True}
    shown = {"id": folder.name, "state": "done", "began": 1.0, "request": request}
    write_json(folder / "try.json", {**shown, "pictures": pictures, "problems": []})
    for name in ("0", "1", "0.word", "0.word2"):
        (folder / f"{name}.png").write_bytes(picture(size=(64, 64)))


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The words of a workspace, one in each state, and the workspace itself."""
    site = make_site(tmp_path_factory.mktemp("ui") / "work")
    process, now = own_process(), time.time()
    running = Job(
        state="running", process=process.number, process_started=process.started, started=now
    )
    over = replace(running, ended=now, process=None, process_started=None)
    jobs = {
        "running": running,
        "ended": replace(over, state="ended"),
        "stopped": replace(over, state="stopped"),
        "failed": replace(over, state="failed", reason=f"the disk is full {HOSTILE}"),
    }
    ids = {"root": str(site.workspace.root)}
    drawing_of(site.workspace.pictures / "0123456789ab")
    with client_of(site) as client:
        ids["draft"] = form_of(client, "zibu", 3)
        for state, job in jobs.items():
            ids[state] = form_of(client, f"{state}-word", 1)
            run_of(site.workspace.word(ids[state]), job)
    return ids


@pytest.fixture(scope="module")
def server(ids: dict[str, str]) -> Iterator[Server]:
    server = Server(Path(ids["root"]))
    yield server
    server.close()


@pytest.fixture(scope="module")
def state(browser: Any, server: Server) -> Any:
    """The cookie that the printed address gives."""
    context = browser.new_context()
    context.new_page().goto(server.address)
    state = context.storage_state()
    context.close()
    return state


def words(page: Any) -> None:
    has_count(page, ".word", 5)


def comparison(page: Any) -> None:
    words(page)
    for name in ("running-word", "ended-word"):
        page.locator(f".word:has(a:text-is('{name}')) input").check(force=True)
    page.click("#compare")
    shown(page, "dialog .picture[src]")


def form(page: Any) -> None:
    shown(page, ".photo >> nth=2")
    shown(page, ".changed .flag")
    has_text(page, ".tokens >> nth=2", "/ 75")
    page.fill("#flag-search", "noise")
    shown(page, "[id='flag--noise_offset']")
    page.click("#all-captions summary")
    page.fill("#all-find", "zibu")


def mask(page: Any) -> None:
    shown(page, ".photo >> nth=2")
    page.click(".foot button >> nth=0")
    shown(page, "dialog canvas")
    page.focus("canvas")
    for key in ("ArrowRight", " ", "Shift+ArrowDown", "i", "z"):
        page.keyboard.press(key)


def run(page: Any) -> None:
    shown(page, ".picture[src]")
    shown(page, ".line.bad")
    shown(page, "path.line >> nth=1")


def drawing(page: Any) -> None:
    page.click(".before")
    shown(page, ".tile img[src$='/0.png']")
    assert page.locator(".acts .chip").count() == 2
    page.focus(".acts .chip >> nth=1")
    page.keyboard.press("Enter")
    shown(page, ".tile img[src$='/0.word2.png']")
    page.click(".acts .chip >> nth=0")
    shown(page, ".tile img[src$='/0.word.png']")
    assert page.locator(".acts [aria-pressed=true]").count() == 1
    shown(page, ".tile img[src$='/1.png']")  # without the word, there is nothing to see
    assert "zibu" in page.get_attribute(".picture-button >> nth=0", "aria-label")


VIEWS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "words": ("/", words),
    "comparison": ("/", comparison),
    "new word": ("/", lambda page: (page.click("#new"), shown(page, "dialog #new-token"))),  # type: ignore[dict-item]
    "form": ("/words/{draft}/edit", form),
    "mask": ("/words/{draft}/edit", mask),
    "running": ("/words/{running}", run),
    "ended": ("/words/{ended}", run),
    "stopped": ("/words/{stopped}", run),
    "failed": ("/words/{failed}", run),
    "try": ("/try", lambda page: shown(page, ".chip")),
    "drawing": ("/try", drawing),
    "files": ("/files", lambda page: shown(page, ".patient")),
    "login": ("/login", lambda page: shown(page, "#password")),
}


@pytest.mark.parametrize("looks", [LOOKS, pytest.param(MORE_LOOKS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("view", VIEWS)
def test_every_page_is_for_everybody(
    view: str,
    looks: list[tuple[str, str, int]],
    browser: Any,
    server: Server,
    ids: dict[str, str],
    state: Any,
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    address, prepare = VIEWS[view]
    for locale, theme, width in looks:
        visit = Visit(
            browser,
            server,
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            locale=locale,
            storage_state=None if view == "login" else state,
        )
        visit.page.goto(server.root + address.format(**ids))
        prepare(visit.page)
        assert visit.page.get_attribute("html", "lang") == locale[:2]
        assert fits(visit.page), f"{view} at {width}"
        found = Axe().run(visit.page).response["violations"]
        told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        assert told == [], f"{view}, {locale}, {theme}"
        assert visit.told == []
        assert visit.page.title() != "1"
        visit.close()


def test_the_first_page_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    server = Server(tmp_path / "new")
    try:
        visit = Visit(browser, server, viewport={"width": 375, "height": 800}, locale="ja")
        visit.page.goto(server.address)
        shown(visit.page, "#empty:not([hidden])")
        assert texts_of("ja")["empty.title"] in visit.page.inner_text("#empty")
        assert Axe().run(visit.page).response["violations"] == []
        assert visit.page.url == f"{server.root}/"
        assert visit.told == []
        visit.close()
    finally:
        server.close()


def test_the_keyboard_is_enough(
    browser: Any, server: Server, ids: dict[str, str], state: Any
) -> None:
    visit = Visit(browser, server, storage_state=state, viewport={"width": 1280, "height": 900})
    page = visit.page
    page.goto(f"{server.root}/words/{ids['ended']}")
    run(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus(".slider input")
    page.keyboard.press("Home")
    assert page.inner_text(".slider output") == "step 0"
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".slider output") == "step 30"
    assert "_000030_00_" in page.get_attribute(".picture >> nth=0", "src")
    # What is drawn without the word does not change, and is drawn once
    assert "_000000_01_" in page.get_attribute(".picture >> nth=1", "src")
    page.focus("#actions button >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog #more-steps")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.closest('#actions') !== null")
    assert visit.told == []
    visit.close()


def test_the_word_is_marked_also_when_its_pictures_come_first(
    browser: Any, server: Server, ids: dict[str, str], state: Any
) -> None:
    visit = Visit(browser, server, storage_state=state, locale="en-US")
    page = visit.page
    waiting: list[Any] = []

    def wait(request: Any) -> None:
        waiting.append(request)

    page.route(re.compile(rf"/api/words/{ids['draft']}$"), wait)
    folder = Path(ids["root"]) / "words" / ids["draft"]
    shutil.copytree(folder.parent / ids["ended"] / "output", folder / "output")
    shutil.copy(folder.parent / ids["ended"] / "drawn-prompts.json", folder)
    page.goto(f"{server.root}/words/{ids['draft']}")
    shown(page, ".picture[src]")
    assert page.locator(".stage mark").count() == 0
    for request in waiting:
        request.continue_()
    page.unroute_all()
    assert page.wait_for_selector(".stage mark").inner_text() == "zibu"
    # The last step's line about the images hides no measurement
    assert "at step 60" in page.get_attribute("#charts svg >> nth=0", "aria-label")
    assert visit.told == []
    visit.close()
    for path in (folder / "output", folder / "drawn-prompts.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_captioner_is_offered_where_there_is_one(
    browser: Any, server: Server, ids: dict[str, str], state: Any
) -> None:
    visit = Visit(browser, server, storage_state=state, locale="en-US")
    page = visit.page

    def look() -> None:
        page.goto(f"{server.root}/words/{ids['draft']}/edit")
        shown(page, ".flag")
        page.click("#all-captions summary")

    look()
    assert page.locator("#describe-model").is_hidden()
    folder = Path(ids["root"]) / "models" / "describes"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "blip"}')
    (folder / "model.safetensors").touch()
    look()
    page.wait_for_selector("#describe-model")
    assert page.inner_text("#describe-model") == "describes"
    page.click("button:text-is('Describe the images')")  # each of them has a caption
    has_text(page, ".toast", texts_of("en")["describe.nothing"])
    assert visit.told == []
    visit.close()
    shutil.rmtree(folder)


def test_two_windows_see_each_others_changes(
    browser: Any, server: Server, ids: dict[str, str], state: Any
) -> None:
    one, two = (Visit(browser, server, storage_state=state, locale="en-US") for _ in range(2))
    for visit in (one, two):
        visit.page.goto(f"{server.root}/words/{ids['draft']}/edit")
        shown(visit.page, ".photo >> nth=2")
    one.page.fill("#negative", "blurry")
    has_text(one.page, "#saved", "saved", exact=True)
    two.page.evaluate("dispatchEvent(new Event('focus'))")
    shown(two.page, ".toast")
    assert two.page.input_value("#negative") == "blurry"
    assert texts_of("en")["edit.elsewhere"] in two.page.inner_text(".toast")
    for visit in (one, two):
        assert visit.told == []
        visit.close()


def test_a_wrong_value_is_told_and_nothing_is_lost(
    browser: Any, server: Server, ids: dict[str, str], state: Any
) -> None:
    visit = Visit(browser, server, storage_state=state, locale="en-US")
    page = visit.page
    page.goto(f"{server.root}/words/{ids['draft']}/edit")
    page.fill("#flag-search", "learning_rate")
    page.fill("[id='flag--learning_rate']", "fast")
    page.press("[id='flag--learning_rate']", "Tab")
    alert = page.wait_for_selector("#alerts .problem")
    assert "--learning_rate" in alert.inner_text()
    assert page.inner_text("#saved") == "not saved"
    page.fill("[id='flag--learning_rate']", "0.01")
    page.press("[id='flag--learning_rate']", "Tab")
    has_text(page, "#saved", "saved", exact=True)
    assert page.locator("#alerts .problem").count() == 0
    assert "--learning_rate=0.01" in page.inner_text("#panel-command")
    page.click("#tab-toml")
    assert "learning_rate = 0.01" in page.inner_text("#panel-toml")
    visit.close()


def test_files_that_are_no_pictures_are_told_at_the_end(
    browser: Any, server: Server, ids: dict[str, str], state: Any, tmp_path: Path
) -> None:
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "good.txt").write_text("a caption")
    (tmp_path / "alone.txt").write_text("of nothing")
    visit = Visit(browser, server, storage_state=state, locale="en-US")
    page = visit.page
    page.goto(f"{server.root}/words/{ids['failed']}/edit")
    shown(page, ".photo")
    page.set_input_files("#files", sorted(tmp_path.glob("*.*")))
    shown(page, "#uploads .problem")
    told = page.inner_text("#uploads")
    assert "2 files were added" in told
    assert "text.png:" in told
    assert "alone.txt:" in told
    shown(page, ".photo >> nth=1")
    assert page.input_value(".caption >> nth=1") == "a caption"
    # Deleting can be taken back
    page.click("button[aria-label='Delete good.png']")
    assert page.locator(".photo").count() == 1
    page.click(".toast button")
    assert page.locator(".photo").count() == 2
    visit.close()


def test_the_example_is_the_demos(moon_dataset: Path) -> None:
    from coinage.ui.app import HERE

    example = HERE / "static" / "example"
    script = (HERE / "static" / "example.js").read_text(encoding="utf-8")
    names = sorted(path.name for path in example.iterdir())
    assert names == [f"{number:02d}.png" for number in range(1, 9)]
    assert script.count("zibu on a") == len(names)
