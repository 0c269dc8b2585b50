"""The page with models of flow matching: what means nothing to them is said, or cannot be chosen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from coinage.embeddings.saving import save_word
from coinage.embeddings.word import Word
from coinage.errors import ConfigError
from coinage.models.facts import FACTS, SD1, SD3
from coinage.models.hub_files import native_side
from coinage.ui.drawing import Ask, complete
from coinage.ui.models import demo_models
from coinage.ui.site import Site
from coinage.ui.texts import texts_of
from tests.browsers import browser, needs_browser
from tests.ui.serving import Server, Visit, has_count, has_text
from tests.ui.sites import client_of, make_site
from tests.ui.test_drawing import events_of

__all__ = ["browser"]
WIDTHS = {"clip_l": 128, "clip_g": 64, "t5xxl": 192}  # of the built-in models
GUIDED_BY_NUMBER = (
    "the negative prompt has no effect: this model reads the guidance scale as a number"
)
NO_MAPS = "--show-word has no effect: {} does not show where a word acts"
OWN_SAMPLER = "--sampler has no effect: {} is trained by flow matching"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, flux: Path
) -> Iterator[tuple[Site, TestClient]]:
    site = make_site(tmp_path_factory.mktemp("flow") / "work")
    shutil.copytree(flux, site.workspace.models / "dev")
    with client_of(site) as client:
        yield site, client


def word_file(site: Site, family: str) -> str:
    """Make a word of a built-in model, and return its file's id."""
    path = site.workspace.files / "0123456789ab" / f"zibu-{family}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    vectors = {key: torch.full((1, WIDTHS[key]), 0.1) for key in FACTS[family].keys}
    word = Word(vectors, "zibu")
    save_word(word, path, to=None, precision="float", overwrite=True)
    return site.workspace.file_id(path)


def drawn(client: TestClient, **ask: Any) -> dict[str, Any]:
    """Draw one small picture, and return what is known of it at the end."""
    asked = {"seeds": 1, "first_seed": 7, "steps": 2, "width": 64, "height": 64, **ask}
    answer = client.post("/api/try", json=asked)
    assert answer.status_code == 201, answer.text
    return events_of(client, answer.json()["id"])[-1]


def id_of(client: TestClient, name: str) -> str:
    return str(next(m["id"] for m in client.get("/api/models").json() if m["name"] == name))


@pytest.mark.parametrize("family", ["sd1", "sd3", "flux"])
def test_what_means_nothing_to_a_model_is_said_once(
    family: str, served: tuple[Site, TestClient]
) -> None:
    site, client = served
    facts = FACTS[family]
    words = [] if family == "sd1" else [word_file(site, family)]
    asked: dict[str, Any] = {"model": f"demo-{family}", "prompt": "a photo of zibu", "words": words}
    assert drawn(client, **asked, sampler="euler", negative="blue")["notes"] == []
    last = drawn(client, **asked, sampler="euler_a", show_words=True, seeds=2)
    assert last["state"] == "done"
    wanted = [text.format(facts.display_name) for text in (OWN_SAMPLER, NO_MAPS)]
    assert last["notes"] == ([] if family == "sd1" else wanted)
    assert [each["maps"] for each in last["pictures"]] == [[]] * last["total"]


@pytest.mark.parametrize(
    ("name", "guidance", "note"),
    [
        ("dev", None, GUIDED_BY_NUMBER),
        ("Demo (FLUX.1)", None, None),
        (
            "Demo (Stable Diffusion 1.x)",
            1.0,
            "the negative prompt has no effect: with a guidance scale of 1 nothing is guided",
        ),
    ],
)
def test_a_negative_prompt_that_is_not_read_is_said(
    name: str, guidance: float | None, note: str | None, served: tuple[Site, TestClient]
) -> None:
    _, client = served
    asked = {"model": id_of(client, name), "prompt": "a red circle", "guidance": guidance}
    assert drawn(client, **asked)["notes"] == []
    assert drawn(client, **asked, negative="blue")["notes"] == ([note] if note else [])


def test_a_word_of_a_larger_family_is_drawn_in_part_and_said_so(
    served: tuple[Site, TestClient],
) -> None:
    site, client = served
    asked = {"prompt": "a photo of zibu", "words": [word_file(site, "sd3")]}
    last = drawn(client, model="demo-flux", **asked)
    assert last["state"] == "done"
    left = "zibu: vectors for clip_g are left out: the model has no such text encoder"
    assert last["notes"] == [left]
    failed = drawn(client, model="demo-sd1", **asked)
    assert (failed["state"], len(failed["problems"])) == ("failed", 1)


def test_a_prompt_that_is_cut_is_said(served: tuple[Site, TestClient]) -> None:
    _, client = served
    (note,) = drawn(client, model="demo-sd3", prompt="a red circle " * 60)["notes"]
    assert note.startswith("a prompt is longer than 75 tokens")


def test_sides_are_multiples_of_what_the_model_draws() -> None:
    ask = Ask(model="x", prompt="zibu", width=72, height=100)
    assert complete(Ask(model="x", prompt="zibu", width=72), SD1)["width"] == 72
    for facts, hints in ((SD1, ["use 96 or 104"]), (SD3, ["use 64 or 80", "use 96 or 112"])):
        with pytest.raises(ConfigError) as caught:
            complete(ask, facts)
        assert [problem.hint for problem in caught.value.problems] == hints


def test_the_page_is_told_what_a_model_can_be_asked_for(
    served: tuple[Site, TestClient],
) -> None:
    _, client = served
    told = {
        model["id"]: (model["family_name"], model["size_unit"], model["is_flow"])
        for model in client.get("/api/models").json()
    }
    assert told["demo-sd1"] == ("Stable Diffusion 1.x", 8, False)
    assert told["demo-sd3"] == ("Stable Diffusion 3", 16, True)
    assert told["demo-flux"] == ("FLUX.1", 16, True)
    assert set(told) >= {f"demo-{family}" for family in FACTS}
    unknown = client.post("/api/models", json={"hub": "somebody/something"}).json()
    assert (unknown["family_name"], unknown["cross_attends"]) == ("", True)


def test_built_in_models_are_small_enough_to_be_tried() -> None:
    assert {native_side(model.source) for model in demo_models()} == {64}


def test_tokens_of_a_caption_are_as_many_as_the_checks_allow(client: TestClient) -> None:
    for model, most in (("demo-sd3", 75), ("demo-flux", 450), ("", 75)):
        answer = client.post("/api/tokens", json={"texts": ["a"], "model": model}).json()
        assert answer["most"] == most


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_the_page_offers_what_the_model_can_do(locale: str, browser: Any, tmp_path: Path) -> None:
    texts = texts_of(locale[:2])
    server = Server(tmp_path / "work")
    visit = Visit(browser, server, locale=locale)
    page = visit.page
    page.goto(server.address)
    page.goto(f"{server.root}/try")
    page.click(".bench summary")
    for model, fits in (("demo-sd1", True), ("demo-flux", False), ("demo-sdxl", True)):
        page.select_option("#model", model)
        assert page.is_enabled("#sampler") == page.is_enabled("#show_words") == fits
        assert page.get_attribute("#width", "step") == ("8" if fits else "16")
        wanted = "" if fits else texts["try.sampler.own"].format(family="FLUX.1")
        assert page.inner_text("#sampler-why") == wanted
    assert "FLUX.1" in page.inner_text("#model")
    page.select_option("#sampler", "euler_a")
    page.select_option("#model", "demo-sd3")
    page.fill("#prompt", "a red circle " * 60)
    page.fill("#seeds", "1")
    page.fill("#steps", "2")
    page.click("#draw")
    has_count(page, "#pictures img", 1)
    has_count(page, ".notes .note-line", 1)  # the prompt is cut; nothing else was asked for in vain
    has_text(page, ".notes", "75 tokens")
    assert visit.told == []
    visit.close()
    server.close()
