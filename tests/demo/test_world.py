"""The demo world: pictures, their reader, concepts, and what the shipped model is."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import CLIPTokenizer

from coinage.demo.concepts import COMPOSITES, CONCEPTS, SECRET_PATTERNS, SECRET_SHAPES, UNSEEN
from coinage.demo.dataset import training_scenes
from coinage.demo.grid import Row, draw_grid
from coinage.demo.language import Words, phrase, tags, vocabulary
from coinage.demo.reader import Reading, components, read
from coinage.demo.run import MODEL
from coinage.demo.score import base_accuracy, base_prompts, score, showcase, trials
from coinage.demo.world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, place, render

SCENES = st.builds(
    Scene,
    st.sampled_from(list(SHAPES)),
    st.sampled_from(list(COLOURS)),
    st.sampled_from(list(BACKGROUNDS)),
    st.sampled_from(list(TEXTURES)),
    st.integers(1, 3),
)


def as_read(scene: Scene) -> Reading:
    return Reading(scene.shape, scene.colour, scene.background, scene.texture, scene.count)


def test_the_reader_reads_the_renderer() -> None:
    rng = np.random.default_rng(1)
    names = (list(SHAPES), list(COLOURS), list(BACKGROUNDS), list(TEXTURES))
    scenes = [
        Scene(*(str(rng.choice(n)) for n in names), int(rng.integers(1, 4))) for _ in range(100)
    ]
    right = [read(render(scene, rng)) == as_read(scene) for scene in scenes]
    assert np.mean(right) >= 0.97


def test_the_reader_knows_what_it_does_not_know() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert read(noise).colour is None
    empty = np.full((64, 64, 3), 245, dtype=np.uint8)
    assert read(empty) == Reading(None, None, "white", None, 0)
    strange = empty.copy()
    strange[::2] = (255, 0, 255)
    assert read(strange) != as_read(Scene("circle", "pink", "white"))


def test_components_are_counted_without_specks() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[5:20, 5:20] = mask[30:50, 30:50] = mask[60, 60] = True
    assert [int(part.sum()) for part in components(mask)] == [225, 400]


@settings(max_examples=30)
@given(SCENES, st.integers(0, 2**31))
@example(Scene("bolt", "red", "white", "solid", 1), 0)
def test_pictures_stay_on_their_ground(scene: Scene, seed: int) -> None:
    image = render(scene, np.random.default_rng(seed))
    assert image.shape == (64, 64, 3)
    for border in (image[0], image[:, -1]):  # the tip of a bolt, fish or bowtie may reach it
        assert (border != BACKGROUNDS[scene.background]).any(axis=-1).sum() <= 8
    assert np.array_equal(image, render(scene, np.random.default_rng(seed)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_places_spread_as_far_as_asked(count: int) -> None:
    def ranges(spread: float) -> list[float]:
        placed = [place(count, np.random.default_rng(seed), spread) for seed in range(200)]
        numbers = np.array(
            [[[at.x, at.y, at.radius, at.tilt, *at.phase] for at in one] for one in placed]
        )
        return list(np.ptp(numbers, axis=0).ravel())

    assert max(ranges(0.0)) == 0
    least, most = ranges(0.25), ranges(1.0)
    assert all(0.1 < few / many < 0.35 for few, many in zip(least, most, strict=True))


def test_captions() -> None:
    words = Words("circle", "orange", "sky", None, 1)
    assert phrase(words) == "a photo of an orange circle on a sky background"
    assert phrase(Words("circles", "red", None, "striped", 2), lead="") == "two striped red circles"
    assert (
        tags(Words("moon", "red", "white", "dotted", 3))
        == "moon, dotted, red, three, white background"
    )


def test_concepts_have_no_word_in_the_model() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    hidden = (*SECRET_SHAPES, *SECRET_PATTERNS, *COMPOSITES)
    assert len(hidden) >= 20
    for concept in (*hidden, *UNSEEN):
        assert not {concept.name, f"{concept.name}</w>"} & set(tokenizer.get_vocab())
    assert all(len(tokenizer.encode(word, add_special_tokens=False)) == 1 for word in vocabulary())
    with safe_open(MODEL / "text_encoder" / "model.safetensors", framework="pt") as file:
        table = file.get_slice("text_model.embeddings.token_embedding.weight")
        assert table.get_shape()[0] == len(tokenizer)


def test_the_model_is_small_and_says_nothing_of_where_it_was_made() -> None:
    files = [p for p in MODEL.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 8_000_000
    for path in MODEL.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8")
    for path in MODEL.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert {file.get_slice(k).get_dtype() for k in file.keys()} == {"F16"}  # noqa: SIM118
    assert (
        json.loads((MODEL / "model_index.json").read_text())["_class_name"]
        == "StableDiffusionPipeline"
    )


@pytest.mark.parametrize("name", ["moon", "checkered", "red-striped-cross"])
def test_training_pictures_show_the_concept_and_trials_ask_for_more(name: str) -> None:
    concept = CONCEPTS[name]
    scenes = training_scenes(concept, 0)
    assert all(
        getattr(scene, part) == value for scene in scenes for part, value in concept.parts.items()
    )
    assert len({scene.background for scene in scenes}) >= 5
    tried = trials(concept, "zibu", 48, 0)
    assert tried == trials(concept, "zibu", 48, 0)
    assert len({t.prompt.seed for t in tried}) == 48
    assert all("zibu" in t.prompt.text and t.asked for t in tried)
    assert {t.asked["count"] for t in tried} == {1, 2}
    assert len(showcase(concept, "zibu")) == 8


def test_scores_count_what_is_there() -> None:
    rng = np.random.default_rng(0)
    tried = trials(CONCEPTS["moon"], "zibu", 8, 0)
    right, wrong = [], []
    for trial in tried:
        parts = {
            "shape": "moon",
            "colour": "red",
            "background": "white",
            "texture": "solid",
            "count": 1,
            **trial.asked,
        }
        right.append(render(Scene(**parts), rng))  # type: ignore[arg-type]
        wrong.append(render(Scene("square", "red", "black"), rng))
    assert score(tried, right) == (1.0, 1.0)
    found = score(tried, wrong)
    assert found[0] == 0.0
    assert found[1] < 0.5


def test_base_accuracy_reads_each_part() -> None:
    rng = np.random.default_rng(0)
    scenes = [scene for _, scene in base_prompts(20, 0)]
    images = [render(scene, rng) for scene in scenes]
    assert base_accuracy(scenes, images)["all"] >= 0.95
    shifted = [images[-1], *images[:-1]]
    assert base_accuracy(scenes, shifted)["all"] < 0.3


def test_the_grid_holds_every_picture() -> None:
    picture = np.full((64, 64, 3), 7, dtype=np.uint8)
    sheet = draw_grid(
        "title", [Row("one", [picture] * 3, ["a", "b", "c"]), Row("two", [picture], ["d"])]
    )
    assert (sheet == 7).all(axis=2).sum() >= 4 * 140 * 140
