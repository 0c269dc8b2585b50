"""Words with zero vectors: inspect warns of them; a word that is in other vectors is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coinage.cli.main import main
from coinage.config import WordConfig
from coinage.embeddings.install import read_vectors
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.reading import read
from coinage.errors import ConfigError, EmbeddingFileError
from tests.embeddings.files import pickle, tensors, vectors, webui
from tests.helpers import prepared

ELSEWHERE = "the word is in its output vectors, which only OneTrainer reads"
NOTHING = "all its vectors are zero: the word does nothing"
L, G = vectors(2, 768), vectors(2, 1280)
NO_L, NO_G = torch.zeros(2, 768), torch.zeros(2, 1280)
HALF = torch.cat([NO_L[:1], L[:1]])


@pytest.mark.parametrize(
    ("content", "warnings", "refused"),
    [
        (
            {"emp_params": NO_L, "emp_params_out": L},
            [f"all its vectors are zero: {ELSEWHERE}"],
            True,
        ),
        (
            {"clip_l": NO_L, "clip_g": NO_G, "clip_l_out": L, "clip_g_out": G},
            [f"all its vectors are zero: {ELSEWHERE}"],
            True,
        ),
        (
            {"bundle_emb.zibu.clip_l": NO_L, "bundle_emb.zibu.clip_l_out": L},
            [f"all its vectors are zero: {ELSEWHERE}"],
            True,
        ),
        (
            {"clip_l": NO_L, "clip_g": G, "clip_l_out": L},
            ["all vectors of clip_l are zero: the word does nothing in this text"],
            False,
        ),
        ({"emp_params": L, "emp_params_out": L}, [], False),
        ({"emb_params": NO_L}, [NOTHING], False),
        ({"<zibu>": NO_L[0]}, [NOTHING], False),
        (
            {"emb_params": HALF},
            ["emb_params, vector 1: its length is 0, so it does nothing"],
            False,
        ),
        (
            webui(NO_L),
            [f"{NOTHING} (AUTOMATIC1111 makes such words if no initialization text is given)"],
            False,
        ),
        (webui(L), [], False),
    ],
)
def test_vectors_that_are_nothing(
    content: dict[str, Any],
    warnings: list[str],
    refused: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = (
        pickle(tmp_path / "a.pt", content)
        if "string_to_param" in content
        else tensors(tmp_path / "a.safetensors", content)
    )
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["warnings"]) == len(warnings)
    for found, due in zip(told["warnings"], warnings, strict=True):
        assert found.startswith(due)
    said = {tool["tool"]: "all zero" in tool["why"] for tool in told["tools"] if tool["loads"]}
    nothing = bool(warnings) and warnings[0].startswith("all its")
    if refused:
        assert not any(said.values())
        assert {*said} <= {"OneTrainer"}
    else:
        assert said
        assert set(said.values()) == {nothing}
    count = open_embedding(path).word.num_vectors
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(path), str(out)]) == int(refused)
    heard = capsys.readouterr().err
    assert out.exists() != refused
    assert (ELSEWHERE in heard) == refused
    assert (NOTHING in heard) == (nothing and not refused)
    if refused:
        for reader in (
            lambda: read_vectors(WordConfig(token="zibu", num_vectors=count, init_file=path)),
            lambda: read(path),
        ):
            with pytest.raises(EmbeddingFileError, match=ELSEWHERE) as caught:
                reader()
            assert caught.value.problems[0].where == str(path)
    else:
        assert read_vectors(WordConfig(token="zibu", num_vectors=count, init_file=path))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"emp_params_out": L}, None),
        ({"clip_l_out": L, "clip_g_out": G}, None),
        ({"bundle_emb.zibu.emp_params_out": L, "lora_unet_mid.alpha": torch.tensor(1.0)}, None),
        ({"emp_params": L, "emp_params_out": L}, "emp_params_out"),
        ({"clip_l": L, "clip_g": G, "clip_l_out": L}, "clip_l_out"),
    ],
)
def test_output_vectors_are_not_a_word(
    content: dict[str, Any], key: str | None, tmp_path: Path
) -> None:
    with pytest.raises(EmbeddingFileError, match=ELSEWHERE):
        open_embedding(tensors(tmp_path / "a.safetensors", content), key=key)


def test_a_word_beside_output_vectors_is_read(tmp_path: Path) -> None:
    found = open_embedding(tensors(tmp_path / "a.safetensors", {"<zibu>": L, "emp_params_out": L}))
    assert (found.word.token, found.notes) == ("<zibu>", ("left out: 'emp_params_out'",))


def test_a_run_from_zero_vectors_is_refused(moon_dataset: Path, tmp_path: Path) -> None:
    width = prepared(moon_dataset, tmp_path).parts.rows()[0].shape[1]
    path = tensors(tmp_path / "a.safetensors", {"emb_params": torch.zeros(1, width)})
    with pytest.raises(ConfigError, match="--weights: the file holds only zeros"):
        prepared(moon_dataset, tmp_path / "o", f"--weights={path}")
