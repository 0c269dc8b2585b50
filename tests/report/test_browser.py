"""The pages in a browser: quiet, offline, usable by keyboard, and not wider than a phone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinage.report.comparison import render_comparison
from coinage.report.page import render_report
from coinage.report.record import PreviewPrompt, Record, Shot, Standing
from coinage.report.word_maps import layer_url
from tests.browsers import browser, fits, needs_browser
from tests.report import samples
from tests.report.test_page import HOSTILE, hostile

__all__ = ["browser"]
pytestmark = [needs_browser, pytest.mark.browser]
SHOWN = "document.querySelectorAll('.picture')"


class Opened:
    """A page with all that it complains about and asks for; there is no network."""

    def __init__(self, browser: Any, path: Path, **how: Any) -> None:
        self.context = browser.new_context(**how)
        self.page = self.context.new_page()
        self.told: list[str] = []
        self.asked: list[str] = []
        self.context.route(
            "**/*",
            lambda route: (
                route.continue_()
                if route.request.url.startswith(("file:", "data:"))
                else route.abort()
            ),
        )
        self.page.on("console", lambda message: self.told.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def fits(self) -> bool:
        return fits(self.page)

    def close(self) -> None:
        self.context.close()
        assert self.told == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:"))] == []


def written(folder: Path, name: str, page: str) -> Path:
    path = folder / name
    path.write_text(page, encoding="utf-8")
    return path


def test_the_slider_shows_each_steps_pictures(browser: Any, tmp_path: Path) -> None:
    record = samples.training()
    opened = Opened(
        browser,
        written(tmp_path, "a-report.html", render_report(record)),
        viewport={"width": 1440, "height": 900},
    )
    page, last = opened.page, len(record.shots) - 1

    def shown() -> list[str]:
        return page.evaluate(f"[...{SHOWN}].map(one => one.src)")  # type: ignore[no-any-return]

    assert shown() == record.shots[last].pictures
    page.focus("#slider")
    page.keyboard.press("ArrowLeft")
    assert shown() == record.shots[last - 1].pictures
    assert page.text_content(".slider output") == "step 480 of 1,600"
    page.keyboard.press("Home")
    assert shown() == record.shots[0].pictures
    assert page.get_attribute("#slider", "aria-valuetext") == "step 0 of 1,600"
    page.reload()
    assert shown() == record.shots[0].pictures  # also after the page has renewed itself
    page.click(".tile >> nth=0 >> .strip img >> nth=2")
    assert shown() == record.shots[2].pictures
    before = page.text_content("[data-value]")
    page.hover(".plot svg.chart >> nth=0")
    assert page.text_content("[data-now]").startswith("step ")
    assert page.text_content("[data-value]") != before
    assert page.text_content("#settings ~ .copied code") == record.command
    opened.close()


def test_where_the_word_acts_is_laid_over_the_previews(browser: Any, tmp_path: Path) -> None:
    record = samples.training()
    for number, shot in enumerate(record.shots):
        word_map = np.ones((8, 8), dtype=np.float32)
        word_map[number % 8] = 3
        shot.heat = [None, *([layer_url(word_map)] * (len(shot.pictures) - 1))]
    opened = Opened(
        browser,
        written(tmp_path, "a-report.html", render_report(record)),
        viewport={"width": 375, "height": 800},
    )
    page, last = opened.page, len(record.shots) - 1
    layers = "[...document.querySelectorAll('.heat')].map(one => one.hidden ? null : one.src)"
    assert page.evaluate(layers) == [None] * len(record.shots[0].pictures)
    page.focus(".acts input")
    page.keyboard.press("Space")
    assert page.evaluate(layers) == record.shots[last].heat
    box, layer = (page.locator(f"{one} >> nth=1").bounding_box() for one in (".picture", ".heat"))
    assert box == layer
    page.focus("#slider")
    page.keyboard.press("Home")
    assert page.evaluate(layers) == record.shots[0].heat
    assert opened.fits()
    page.reload()
    assert page.evaluate(layers) == record.shots[0].heat  # as it was before the page renewed itself
    page.uncheck(".acts input")
    assert page.evaluate(layers) == [None] * len(record.shots[0].pictures)
    opened.close()


def test_runs_side_by_side(browser: Any, tmp_path: Path) -> None:
    runs = samples.compared()
    opened = Opened(
        browser,
        written(tmp_path, "compare.html", render_comparison(runs)),
        viewport={"width": 1440, "height": 900},
    )
    opened.page.focus("#slider")
    opened.page.keyboard.press("Home")
    found = opened.page.evaluate(f"[...{SHOWN}].slice(0, 3).map(one => one.src)")
    assert found == [run.shots[0].pictures[0] for run in runs[:3]]
    assert opened.page.text_content(".slider output") == "0 % of each run"
    opened.close()


def test_nothing_is_wider_than_a_phone(browser: Any, tmp_path: Path) -> None:
    pages = {
        run.name: render_report(run)
        for run in (samples.finished(), samples.training(), samples.failed())
    }
    for name, text in (pages | {"compare": render_comparison(samples.compared())}).items():
        opened = Opened(
            browser, written(tmp_path, f"{name}.html", text), viewport={"width": 375, "height": 800}
        )
        for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(23, 24, 26)")):
            opened.page.emulate_media(color_scheme=scheme)
            assert opened.fits(), name
            assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        opened.close()


def of_the_best() -> Record:
    """A finished run with pairs of previews, whose best step is not the last, and long names of files."""
    run, name = samples.finished(), "a-long-name-of-a-word-that-was-trained"
    pictures = [picture for picture in run.shots[-1].pictures if picture]
    texts = [
        ("zibu", None),
        ("a photo of zibu", None),
        ("a photo", 1),
        ("zibu on a beach", None),
        ("on a beach", 3),
    ]
    run.prompts = [PreviewPrompt(text=text, of=of, seed=1) for text, of in texts]
    run.shots = [
        Shot(step=step, pictures=[pictures[(at + step) % len(pictures)] for at in range(5)])
        for step in (0, 150, 300)
    ]
    best = Standing(step=150, loss=0.1, angle=80.0, norm=0.4, file=f"{name}-best.safetensors")
    last = Standing(
        step=300,
        loss=0.2,
        angle=90.0,
        norm=0.4,
        file=f"{name}.safetensors, {name}-step00000300.safetensors",
    )
    run.standings, run.file = [best, last], f"/out/{best.file}"
    return run


@pytest.mark.parametrize("width", [375, 700, 1280])
def test_pairs_stand_side_by_side_and_names_of_files_are_whole(
    width: int, browser: Any, tmp_path: Path
) -> None:
    run = of_the_best()
    opened = Opened(
        browser,
        written(tmp_path, "a-report.html", render_report(run)),
        viewport={"width": width, "height": 900},
    )
    page = opened.page
    assert opened.fits()
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].every((one) => one.scrollWidth <= one.clientWidth)"
    )
    pairs = page.evaluate(
        "[...document.querySelectorAll('.group.several')]"
        ".map((group) => [...group.querySelectorAll('.frame')]"
        ".map((frame) => frame.getBoundingClientRect()).map((box) => [box.top, box.width]))"
    )
    assert len(pairs) == 2
    assert all(left == right for left, right in pairs), "as high and as wide"
    assert page.locator(".slider button").all_text_contents() == ["best", "end"]
    page.click(".slider button:text('best')")
    assert page.text_content(".slider output") == "best, step 150 of 300"
    assert page.evaluate(f"[...{SHOWN}].map((one) => one.src)")[0] == run.shots[1].pictures[0]
    opened.close()


def test_hostile_texts_do_nothing(browser: Any, tmp_path: Path) -> None:
    record = hostile(" ".join(HOSTILE))
    for name, text in (
        ("report.html", render_report(record)),
        ("compare.html", render_comparison([record, record])),
    ):
        opened = Opened(
            browser, written(tmp_path, name, text), viewport={"width": 375, "height": 800}
        )
        assert opened.page.evaluate("window.broken === undefined")
        assert opened.fits()
        opened.close()


def test_without_script_the_page_is_whole(browser: Any, tmp_path: Path) -> None:
    record = samples.finished()
    opened = Opened(
        browser,
        written(tmp_path, "a-report.html", render_report(record)),
        java_script_enabled=False,
        viewport={"width": 375, "height": 800},
    )
    assert opened.page.locator(".picture:visible").count() == 4
    assert opened.page.locator("svg.chart:visible").count() == 5
    assert opened.page.locator(".slider:visible, button:visible").count() == 0
    opened.close()
