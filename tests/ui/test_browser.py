"""The whole way in a browser: from the printed address to a file that diffusers loads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinage.demo.worlds import MODELS
from coinage.ui.app import HERE
from coinage.ui.job import read_job
from coinage.ui.workspace import Workspace
from tests.browsers import browser, fits, needs_browser
from tests.ui.serving import Server, Visit, has_count, has_text, shown
from tests.ui.worlds import wait_for

__all__ = ["browser"]
pytestmark = [needs_browser, pytest.mark.browser]
EXAMPLE = sorted((HERE / "static" / "example").glob("*.png"))
CAPTIONS = [
    "solid cyan zibu on a black background",
    "dotted pink zibu on a brown background",
    "striped yellow zibu on a mint background",
    "solid blue zibu on a sky background",
    "solid purple zibu on a gray background",
    "solid green zibu on a white background",
    "dotted red zibu on a black background",
    "striped orange zibu on a brown background",
]
STEPS = 250  # enough to reload, and to kill and start the server, in their midst
FLAGS = {
    "--resolution": "64",
    "--init_word": "shape",
    "--learning_rate": "0.005",
    "--train_batch_size": "4",
    "--max_train_steps": str(STEPS),
    "--sample_every_n_steps": "1000",
}
TRAINING = 300_000  # milliseconds, on a busy machine; ten seconds on an idle one
# What a browser says while the server is away
UNREACHABLE = re.compile(r"error: Failed to load resource: net::ERR_")


class World:
    """The server, the window and the workspace of one long visit."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.workspace = Workspace(folder)
        self.server = Server(folder)
        how = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True}
        self.visit = Visit(browser, self.server, locale="en-US", **how)
        self.page = self.visit.page

    @property
    def state(self) -> str:
        return read_job(self.workspace.word("zibu")).state

    @property
    def step(self) -> int:
        return int(self.page.locator("#bar progress").get_attribute("value") or 0)

    def restart(self) -> None:
        """Kill the server, and start it again at the same address."""
        self.server.kill()
        shown(self.page, "#away")
        self.server = Server(self.workspace.root, "--port", self.server.port)
        self.page.wait_for_selector("#away", state="detached")


@pytest.fixture(scope="module")
def world(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(browser, tmp_path_factory.mktemp("way") / "work")
    yield world
    world.visit.close()
    world.server.close()


def test_the_whole_way(world: World, tmp_path: Path) -> None:
    make_word(world)
    upload_and_caption(world)
    choose(world)
    check_and_start(world)
    watch_through_reload_and_restart(world)
    preview_stop_and_go_on(world)
    path = download(world, tmp_path)
    draw(world)
    examine(world)
    assert [text for text in world.visit.told if not UNREACHABLE.match(text)] == []
    load_in_diffusers(path)


def make_word(world: World) -> None:
    page = world.page
    page.goto(world.server.address)
    assert page.url == f"{world.server.root}/"  # the token is used up, and not kept in the address
    shown(page, "#empty:not([hidden])")
    page.click("#first")
    page.fill("#new-token", "zi bu")
    page.keyboard.press("Enter")
    has_text(page, "dialog .problem", "space")
    assert len(world.visit.told) == 1  # the browser notes that the request was refused
    world.visit.told.clear()
    page.fill("#new-token", "zibu")
    page.keyboard.press("Enter")
    page.wait_for_url("**/words/zibu/edit")


def upload_and_caption(world: World) -> None:
    page = world.page
    page.set_input_files("#files", EXAMPLE)
    has_count(page, ".photo", len(EXAMPLE))
    has_text(page, "#uploads", "8 files were added.")
    names = page.locator(".size").all_inner_texts()
    for place, name in enumerate(names):
        page.fill(f".caption >> nth={place}", CAPTIONS[int(name[:2]) - 1])
    has_text(page, ".tokens >> nth=7", "/ 75")
    assert page.inner_text(".shade mark >> nth=0") == "zibu"
    page.click("#all-captions summary")
    page.fill("#all-prefix", "a photo of a ")
    has_text(page, "#all-captions [role=status]", "8 captions would change.")
    page.click("#all-captions button[type=submit]")
    has_text(page, ".toast >> nth=-1", "8 captions were changed.")
    captions = page.locator(".caption").all()
    assert all(one.input_value().startswith("a photo of a ") for one in captions)


def choose(world: World) -> None:
    page = world.page
    page.select_option("#model", "demo-sd1")
    for name, value in FLAGS.items():
        page.fill("#flag-search", name)
        page.fill(f"[id='flag{name}']", value)
        page.press(f"[id='flag{name}']", "Tab")
    has_text(page, "#saved", "saved", exact=True)
    has_text(page, "#panel-command", f"--max_train_steps={STEPS}")
    page.reload()  # the form forgets nothing
    has_count(page, ".changed .flag", len(FLAGS))
    assert page.input_value("#model") == "demo-sd1"


def check_and_start(world: World) -> None:
    page = world.page
    page.click("#check")
    shown(page, "#check-result .facts")
    assert page.locator("#check-result .problem").count() == 0
    page.check("#show-crops")
    has_text(page, ".bucket >> nth=0", "64 × 64")
    page.click("#start-now")
    page.wait_for_url("**/words/zibu")
    shown(page, ".state-running")


def watch_through_reload_and_restart(world: World) -> None:
    page = world.page
    wait_for(lambda: page.locator("#bar progress").count() and world.step > 5)
    before = world.step
    page.reload()
    shown(page, "path.line >> nth=1")
    wait_for(lambda: page.locator("#bar progress").count() and world.step >= before)
    process = read_job(world.workspace.word("zibu")).process
    world.restart()
    job = read_job(world.workspace.word("zibu"))
    assert (job.state, job.process) == ("running", process)
    step = world.step
    wait_for(lambda: world.step > step)


def preview_stop_and_go_on(world: World) -> None:
    page = world.page
    page.click("#actions button:text-is('Preview now')")
    shown(page, ".picture[src]")
    page.click("#actions button:text-is('Stop')")
    shown(page, ".state-stopped")
    assert world.state == "stopped"
    assert page.locator("#files a").count() >= 1
    page.click("#actions button:text-is('Go on')")
    shown(page, ".state-running")
    page.wait_for_selector(".state-ended", timeout=TRAINING)
    has_text(page, "#next", "Draw with zibu")
    log = (world.workspace.word("zibu").output / "zibu-log.jsonl").read_text()
    steps = [json.loads(line) for line in log.splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == [*range(1, STEPS + 1)]


def download(world: World, folder: Path) -> Path:
    with world.page.expect_download() as started:
        world.page.click("#next a:text-matches('Download')")
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    assert path.suffix == ".safetensors"
    return path


def draw(world: World) -> None:
    page = world.page
    page.click("#next a:text-is('Draw with zibu')")
    shown(page, ".chip[aria-pressed=true]")
    assert page.input_value("#prompt") == "a photo of zibu"
    page.click(".bench summary")
    page.fill("#seeds", "1")
    page.fill("#steps", "4")
    page.click("#draw")
    has_count(page, "#pictures img", 2)  # with the word and without it
    page.click("#pictures button >> nth=0")
    page.click("dialog button:text-is('Keep on the page of zibu')")
    has_text(page, ".toast >> nth=-1", "zibu")
    page.keyboard.press("Escape")
    assert fits(page)
    page.goto(f"{world.server.root}/words/zibu")
    shown(page, "#kept-pictures img")


def examine(world: World) -> None:
    page = world.page
    page.goto(f"{world.server.root}/files")
    page.click(".patient:has-text('zibu.safetensors') >> nth=0")
    has_text(page, "#chart .near-list", "Vector 1")
    page.select_option("#near-model", "demo-sd1")
    has_text(page, "#chart .facts", "Stable Diffusion 1.x")
    has_text(page, "#chart .near-list", ", ")  # the nearest words of the model
    page.click("#chart summary:text-is('Convert')")
    page.select_option("#convert-to", "pt")
    page.click("#chart button:text-is('Convert')")
    shown(page, ".patient:has-text('zibu.pt')")
    page.set_viewport_size({"width": 375, "height": 800})
    assert fits(page)


def load_in_diffusers(path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / "sd1", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(str(path), token="zibu")
    assert pipeline.tokenizer.tokenize("zibu") == ["zibu"]
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    image = pipeline("a photo of zibu", **size, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    assert float(np.std(image)) > 0.01
