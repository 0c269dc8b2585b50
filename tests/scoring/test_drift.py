"""A word beside the model's own words."""

from dataclasses import replace

import pytest
import torch

from coinage.config import ModelConfig
from coinage.demo.worlds import MODELS
from coinage.embeddings.install import install_word
from coinage.embeddings.word import Word
from coinage.models.base import Components
from coinage.models.families import FAMILIES
from coinage.models.token_embedding import initial_rows, table_of
from coinage.scoring.drift import Drift, drift_of
from tests.helpers import config_for

TEMPLATES = ["a photo of a {} on a white background", "a {} on a mint background", "a red {}"]


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def loaded(request: pytest.FixtureRequest) -> tuple[str, Components]:
    config = ModelConfig(source=str(MODELS / request.param), family=request.param)
    return request.param, FAMILIES[request.param].load(config, torch.float32)


def known(family: str, parts: Components, name: str, factor: float = 1, count: int = 1) -> Word:
    """A known word of the model, made longer."""
    vectors = {}
    encoders = zip(FAMILIES[family].facts.keys, parts.text_encoders, parts.tokenizers, strict=True)
    for key, encoder, tokenizer in encoders:
        vectors[key] = factor * initial_rows(table_of(encoder), tokenizer, name, count)
    return Word(vectors, "zibu", metadata={"ti.init_word": "circle"})


def measured(loaded: tuple[str, Components], word: Word) -> Drift:
    family, parts = loaded
    return drift_of(word, FAMILIES[family], parts, TEMPLATES)


def test_a_known_word_is_one_of_them(loaded: tuple[str, Components]) -> None:
    family, parts = loaded
    drift = measured(loaded, known(family, parts, "circle"))
    assert drift.nearest[0][0] == "circle"
    assert drift.nearest[0][1] == pytest.approx(1, abs=1e-5)
    assert drift.init_cosine == pytest.approx(1, abs=1e-5)
    assert 0.5 < drift.length < 4
    assert drift.pull
    assert 0.5 < drift.pull < 1.6


def test_longer_vectors_pull_more(loaded: tuple[str, Components]) -> None:
    family, parts = loaded
    pulls = []
    for factor in (1, 4, 16):
        drift = measured(loaded, known(family, parts, "circle", factor))
        assert drift.length == pytest.approx(
            factor * measured(loaded, known(family, parts, "circle")).length
        )
        assert drift.init_cosine == pytest.approx(1, abs=1e-5), "the direction is the same"
        pulls.append(drift.pull or 0)
    assert pulls == sorted(pulls)


def test_what_is_not_known_is_not_told(loaded: tuple[str, Components]) -> None:
    family, parts = loaded
    word = known(family, parts, "circle", count=3)
    bare = drift_of(replace(word, metadata={}), FAMILIES[family], parts, ["a red {}", "{}"])
    assert (bare.init_cosine, bare.pull) == (None, None)
    assert len(bare.nearest) == 3
    assert measured(loaded, replace(word, metadata={"ti.init_word": ""})).init_cosine is None


def test_installed_words_stay(tmp_path, moon_dataset) -> None:  # type: ignore[no-untyped-def]
    config = config_for(moon_dataset, tmp_path)
    parts = FAMILIES["sd1"].load(config.model, torch.float32)
    install_word(parts, config.word, FAMILIES["sd1"].facts.keys)
    rows = [row.clone() for row in parts.rows()]
    drift_of(Word({"emb_params": torch.ones(2, 32)}), FAMILIES["sd1"], parts, TEMPLATES)
    assert all(map(torch.equal, rows, parts.rows()))
    assert parts.word_encoders[0].names == ["zibu"]
