"""Words side by side on the demo world, whose exact reader is a plug-in scorer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import coinage
from coinage.demo.concepts import CONCEPTS, Concept
from coinage.demo.score import ReaderScorer, trials
from coinage.demo.worlds import MODELS
from coinage.models.token_embedding import initial_rows, table_of
from coinage.scoring.results import OVERALL
from tests.helpers import TAUGHT, trained
from tests.tiny_models import write_clip

FEW: dict[str, Any] = {
    "count": 1,
    "steps": 10,
    "guidance": 4.0,
    "sampler": "dpmsolver++",
    "batch_size": 24,
}


@pytest.fixture(scope="module")
def model() -> coinage.Model:
    return coinage.load_model(MODELS / "sd1", precision="no", device="cpu")


def reader(concept: Concept, count: int) -> ReaderScorer:
    return ReaderScorer(trials(concept, "{}", count, seed=5))


def known(model: coinage.Model, name: str, count: int = 1) -> coinage.Word:
    rows = initial_rows(
        table_of(model.parts.text_encoders[0]), model.parts.tokenizers[0], name, count
    )
    return coinage.Word({"emb_params": rows}, name)


def test_the_reader_tells_a_good_word_from_others(model: coinage.Model) -> None:
    """The word for a circle, one that has learned nothing, and one that learned a background too."""
    scorer = reader(Concept("circle", shape="circle"), 6)
    texts = {"circle": 1, "shape": 1, "red circle on a white background": 6}
    words = [known(model, text, count=count) for text, count in texts.items()]
    found = model.evaluate(words, scorers=[scorer], prompts=scorer.templates, **FEW)
    good, untrained, over = found.words
    assert found.best is good
    assert good.estimates["S"].mean > untrained.estimates["S"].mean + 0.3
    assert good.estimates["E"].mean > over.estimates["E"].mean + 0.3
    for other, measure in ((untrained, "S"), (over, "E")):
        against = found.difference(other, measure)
        assert against
        assert against.high < 0, "beyond chance"


@pytest.mark.slow
def test_a_trained_word_scores_above_an_untrained_and_an_overtrained_one(
    model: coinage.Model, moon_dataset: Path, tmp_path: Path
) -> None:
    words = []
    for name, flags in {
        "good": ("--optimizer_type=Directional", "--learning_rate=0.5", "--max_train_steps=100"),
        "untrained": ("--learning_rate=1e-6", "--max_train_steps=1"),
        "over": (
            "--optimizer_type=AdamW", "--learning_rate=0.5", "--max_train_steps=100",
            "--num_vectors_per_token=8",
        ),
    }.items():  # fmt: skip
        more = (TAUGHT, "--cache_latents", "--sample_every_n_steps=0", "--on_problem=warn")
        _, word = trained(moon_dataset, tmp_path / name, *more, *flags)
        words.append(replace(word, token=name))
    scorer = reader(CONCEPTS["moon"], 24)
    found = model.evaluate(words, scorers=[scorer], prompts=scorer.templates, **FEW)
    scores = {word.name: word.estimates[OVERALL].mean for word in found.words}
    assert scores["good"] > scores["untrained"] + 0.3, scores
    assert scores["good"] > scores["over"] + 0.05, scores
    against = found.difference(found.words[2], "E")
    assert against
    assert against.high < 0, "it obeys less, beyond chance"


def test_nothing_is_drawn_without_scorers(model: coinage.Model) -> None:
    found = model.evaluate([known(model, "circle"), known(model, "square")])
    assert found.best is None
    assert [word.drift.nearest[0][0] for word in found.words] == ["circle", "square"]
    assert not found.words[0].estimates
    assert not found.words[0].pictures


def test_what_is_installed_stays(model: coinage.Model, tmp_path: Path) -> None:
    model.install(known(model, "circle"), "mychar")
    before = [row.clone() for row in model.parts.rows()]
    image = Image.fromarray(np.zeros((20, 30), np.uint8))
    clip = coinage.ClipScorer.load(write_clip(tmp_path))
    given: dict[str, Any] = {
        "scorers": [clip],
        "images": [image],
        "prompts": ["a {}"],
        "noun": "dog",
        "steps": 2,
    }
    found = model.evaluate(known(model, "circle"), **given)
    assert [one.plain for one in found.words[0].asked] == ["a dog", "a dog"]
    assert list(found.words[0].estimates) == [OVERALL, "CLIP-I", "CLIP-T"]
    assert all(map(torch.equal, before, model.parts.rows()))
    assert "mychar" in model.words
    words = [known(model, "square"), known(model, "circle")]
    beside = model.evaluate(words, **given).words[1]
    assert beside.scores == found.words[0].scores, "beside others as alone"
    assert beside.drift == found.words[0].drift


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"words": []}, "words: there are none"),
        ({"prompts": ["a dog"]}, "'a dog' lacks {}"),
        ({"scorers": [coinage.ClipScorer, "clip"]}, "ClipScorer is not an object with a method"),
        ({"count": 0}, "count: 0 is too small"),
        ({"images": [np.zeros((8, 8), np.uint8)]}, "images: an array of uint8"),
        ({"words": [coinage.Word({"emb_params": torch.ones(1, 7)}, "zibu")]}, "7 wide"),
    ],
)
def test_mistakes(model: coinage.Model, given: dict[str, Any], told: str) -> None:
    words = given.pop("words", known(model, "circle"))
    with pytest.raises(coinage.ConfigError, match=told.replace("{", r"\{")):
        model.evaluate(words, **given)
