"""CLIP and DINO, against transformers' own way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from coinage.errors import CoinageError
from coinage.scoring.encoder_files import Kind, encoder_problems, preparation_in
from coinage.scoring.encoders import ClipScorer, DinoScorer
from coinage.scoring.prompts import asked_of
from tests.tiny_models import write_clip, write_dino

RNG = np.random.default_rng(0)
PICTURES = [
    RNG.integers(0, 256, size, dtype=np.uint8) for size in ((48, 64, 3), (64, 48, 3), (32, 32, 3))
]
ASKED = asked_of(["a {} on a white background", "a red {}", "a {}"], "circle", 1, 0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dino(tmp_path_factory.mktemp("dino"))


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T


def test_pictures_are_prepared_as_transformers_does(clip: Path, dino: Path) -> None:
    for folder, kind in ((clip, CLIPImageProcessorPil), (dino, BitImageProcessorPil)):
        theirs = kind.from_pretrained(folder)
        prepare = preparation_in(folder)
        for picture in PICTURES:
            (wanted,) = theirs(picture, return_tensors="np")["pixel_values"]
            assert np.allclose(prepare(picture), wanted, atol=1e-6)


@torch.no_grad()
def test_clip_as_transformers_computes_it(clip: Path) -> None:
    scores = ClipScorer.load(clip).score(PICTURES, ASKED, PICTURES[:2])
    model, tokenizer = CLIPModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    pixels = torch.from_numpy(np.stack([preparation_in(clip)(p) for p in PICTURES]))
    texts = tokenizer([one.plain for one in ASKED], padding=True, return_tensors="pt")
    output = model(pixel_values=pixels, **texts)
    likeness = cosines(output.image_embeds, output.image_embeds[:2]).mean(dim=1)
    assert scores.likeness["CLIP-I"] == pytest.approx(likeness.tolist(), abs=1e-5)
    fidelity = cosines(output.image_embeds, output.text_embeds).diagonal()
    assert scores.fidelity["CLIP-T"] == pytest.approx(fidelity.tolist(), abs=1e-5)
    assert not ClipScorer.load(clip).score(PICTURES, ASKED, []).likeness


@torch.no_grad()
def test_dino_as_transformers_computes_it(dino: Path) -> None:
    scorer = DinoScorer.load(dino)
    scores = scorer.score(PICTURES, ASKED, PICTURES[:1])
    pixels = torch.from_numpy(np.stack([preparation_in(dino)(p) for p in PICTURES]))
    seen = Dinov2Model.from_pretrained(dino)(pixel_values=pixels).pooler_output
    assert scores.likeness["DINOv2"] == pytest.approx(
        cosines(seen, seen[:1])[:, 0].tolist(), abs=1e-5
    )
    assert scores.likeness["DINOv2"][0] == pytest.approx(1)
    assert not scorer.score(PICTURES, ASKED, []).measures


def test_prompts_that_a_clip_cannot_read(tmp_path: Path) -> None:
    scorer = ClipScorer.load(write_clip(tmp_path, positions=6))
    (problem,) = scorer.problems(ASKED)
    assert problem.what == "the CLIP model reads 6 tokens, and prompts are longer"
    assert "a circle on a white background" in problem.where
    assert not scorer.problems(ASKED[2:])
    with pytest.raises(CoinageError, match="reads 6 tokens"):
        scorer.score(PICTURES, ASKED, [])


def changed(folder: Path, name: str, **values: object) -> None:
    settings = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**settings, **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "settings but no weights"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("[1]"), "the model is None, not clip"),
        (lambda f: changed(f, "config.json", model_type="bert"), "is 'bert', not clip"),
        (lambda f: changed(f, "preprocessor_config.json", size="a"), "settings of pictures"),
        (lambda f: changed(f, "preprocessor_config.json", image_std=[1, 0, 1]), "colours"),
        (lambda f: changed(f, "preprocessor_config.json", crop_size=10**9), "1000000000 pixels"),
        (shutil.rmtree, "no such folder, and not a hub id"),
    ],
)
def test_what_is_wrong_with_a_folder(clip: Path, tmp_path: Path, change, told: str) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "clip"
    shutil.copytree(clip, folder)
    assert encoder_problems("clip", str(folder), "--clip") == []
    change(folder)
    (problem,) = encoder_problems("clip", str(folder), "--clip")
    assert problem.what.startswith("--clip: ")
    assert told in f"{problem}"
    assert problem.hint


def test_weights_that_are_missing_are_not_made_up(dino: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "dino"
    shutil.copytree(dino, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CoinageError, match=r"1 weights .* such as layernorm.weight"):
        DinoScorer.load(folder)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_a_hub_id_that_is_not_here(kind: Kind) -> None:
    assert encoder_problems(kind, "nobody/nothing", "--x") == []
    with pytest.raises(CoinageError, match="not in the local cache"):
        (ClipScorer if kind == "clip" else DinoScorer).load("nobody/nothing")
