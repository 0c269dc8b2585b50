"""The words of a model, without the model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.families import FAMILIES
from coinage.models.token_embedding import table_of
from coinage.models.vocabulary import read_vocabularies
from tests.tiny_models import FAMILY_NAMES, loaded


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("suffix", ["", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_table_is_that_of_the_loaded_model(family: str, suffix: str, models: Path) -> None:
    source = models / f"{family}{suffix}"
    found = read_vocabularies(
        ModelConfig(source=str(source), family=family, tokenizer_cache=models / "tokenizers")
    )
    parts = loaded(family, source, models)
    assert tuple(found) == FAMILIES[family].facts.keys
    for vocabulary, encoder, tokenizer in zip(
        found.values(), parts.text_encoders, parts.tokenizers, strict=True
    ):
        assert torch.equal(vocabulary.table, table_of(encoder).float())
        assert vocabulary.tokenizer.encode(
            "a red circle", add_special_tokens=False
        ) == tokenizer.encode("a red circle", add_special_tokens=False)


def test_the_nearest_words(models: Path) -> None:
    vocabulary = read_vocabularies(ModelConfig(source=str(models / "sd1")))["emb_params"]
    ids = vocabulary.tokenizer.get_vocab()
    rows = torch.stack(
        [
            3 * vocabulary.table[ids["red</w>"]],
            vocabulary.table[ids["circle</w>"]] + 0.1 * vocabulary.table[ids["red</w>"]],
        ]
    )
    first, second = vocabulary.nearest(rows, 2)
    assert first[0] == ("red", pytest.approx(1))
    assert second[0][0] == "circle"
    assert second[0][1] > second[1][1]


def test_the_usual_lengths(models: Path) -> None:
    vocabulary = read_vocabularies(ModelConfig(source=str(models / "sd1")))["emb_params"]
    table = torch.nn.functional.normalize(
        torch.randn(201, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    lengths = torch.arange(201.0).roll(90)
    assert replace(vocabulary, table=table * lengths[:, None]).usual_lengths == pytest.approx(
        (10, 100, 190), rel=1e-5
    )


def test_what_is_no_model(tmp_path: Path, models: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(CoinageError, match="no table of token embeddings"):
        read_vocabularies(ModelConfig(source=str(tmp_path)))
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CoinageError, match="cannot read the model"):
        read_vocabularies(ModelConfig(source=str(tmp_path)))
    with pytest.raises(CoinageError, match="the hub cannot be reached"):
        read_vocabularies(ModelConfig(source="me/nothing"))
