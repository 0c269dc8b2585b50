"""A model that describes images; here a tiny one with random weights."""

from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from coinage.errors import CoinageError
from coinage.ui.caption_task import describe
from coinage.ui.captioner import write_described
from coinage.ui.image_list import caption_of
from coinage.ui.site import Site
from tests.ui.sites import picture, upload

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
WORDS = ("a", "photo", "of", "red", "blue", "moon", "star")


def tiny_blip(folder: Path) -> Path:
    """Write a captioner of 20,000 numbers."""
    folder.mkdir(parents=True)
    (folder / "words.txt").write_text("\n".join((*SPECIAL, *WORDS)))
    tokenizer = BertTokenizerFast(str(folder / "words.txt"))
    size = len(SPECIAL) + len(WORDS)
    layers = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **layers, "vocab_size": size, "encoder_hidden_size": 16, "bos_token_id": 5, "pad_token_id": 0,
        "eos_token_id": 3, "sep_token_id": 3, "projection_dim": 16,
    }  # fmt: skip
    vision = {**layers, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def blip(site: Site) -> Path:
    return tiny_blip(site.workspace.models / "mine" / "blip")


def test_an_image_is_described(blip: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(picture())
    told: list[object] = []
    result = describe({"model": str(blip), "images": {"0": str(image)}}, told.append)
    assert set(result["texts"]["0"].split()) <= {*WORDS, "[DEC]"}
    assert told == [{"done": 0, "total": 1}, {"done": 1, "total": 1}]


def test_what_is_typed_while_a_model_looks_stays(client: TestClient, site: Site, word: str) -> None:
    first, second = (str(upload(client, word, picture())["id"]) for _ in range(2))
    client.patch(f"/api/words/{word}/images/{first}", json={"caption": "my own"})
    folder = site.workspace.word(word)
    texts = {first: "a moon", second: ""}
    assert write_described(folder, "zibu", texts, overwrite=False) == 1
    assert [caption_of(folder, image) for image in (first, second)] == ["my own", "zibu"]
    assert write_described(folder, "zibu", texts, overwrite=True) == 2
    assert caption_of(folder, first) == "zibu, a moon"


@pytest.mark.slow
def test_images_without_a_caption_are_described(client: TestClient, word: str, blip: Path) -> None:
    first, second = (str(upload(client, word, picture())["id"]) for _ in range(2))
    client.patch(f"/api/words/{word}/images/{first}", json={"caption": "my own"})
    (captioner,) = client.get("/api/captioners").json()
    assert captioner["name"] == "mine/blip"
    assert str(blip) not in str(captioner)
    answer = client.post(f"/api/words/{word}/describe", json={"captioner": captioner["id"]}).json()
    assert answer["changed"] == 1
    captions = {image["id"]: image["caption"] for image in answer["images"]}
    assert captions[first] == "my own"
    token, *seen = captions[second].replace(",", "").split()
    assert token == "zibu"
    assert set(seen) <= {*WORDS, "[DEC]"}
    again = client.post(f"/api/words/{word}/describe", json={"captioner": captioner["id"]})
    assert again.json()["changed"] == 0
    mine = {"captioner": captioner["id"], "images": [first]}
    assert client.post(f"/api/words/{word}/describe", json=mine).json()["changed"] == 0
    over = {**mine, "overwrite": True}
    assert client.post(f"/api/words/{word}/describe", json=over).json()["changed"] == 1
    wishes = {"captioner": captioner["id"], "images": ["../../etc/passwd"]}
    assert client.post(f"/api/words/{word}/describe", json=wishes).status_code == 404
    assert client.post(f"/api/words/{word}/describe", json={"captioner": "0"}).status_code == 404


def test_a_model_in_pickles_is_not_offered(client: TestClient, blip: Path) -> None:
    (blip / "model.safetensors").rename(blip / "pytorch_model.bin")
    assert client.get("/api/captioners").json() == []


def test_a_damaged_model_is_one_clear_problem(blip: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(picture())
    (blip / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CoinageError, match="cannot describe images"):
        describe({"model": str(blip), "images": {"0": str(image)}}, lambda _: None)
