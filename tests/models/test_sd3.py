"""Stable Diffusion 3: what the transformer reads and predicts is what the released pipeline gives it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from coinage.checks.model import model_problems
from coinage.config import ModelConfig, WordConfig
from coinage.embeddings.install import install_word
from coinage.embeddings.word import Word
from coinage.errors import CoinageError, Findings
from coinage.generate import draw
from coinage.models.detect import kind_of_file, kind_of_folder
from coinage.models.families import FAMILIES, Components
from coinage.models.hub_files import detect_family, native_side
from coinage.models.sizes import model_sizes
from coinage.models.text_encoder_sizes import text_encoder_sizes
from coinage.models.tokenizer_files import find_tokenizer
from coinage.models.vocabulary import read_vocabularies
from coinage.scoring.drift import drift_of
from coinage.text.init_words import check_init_word
from coinage.text.prompts import Prompt
from coinage.text.unigram_tokenizer import read_unigram
from coinage.training.setup import rate_scales
from tests.fake_hub import Repo, fake_hub
from tests.tiny_models import T5_WIDTH, loaded, sd3_parts, t5_tokenizer

FAMILY = FAMILIES["sd3"]
CAPTIONS = ["a photo of red circle, on blue", "", "unknown letters: xyz"]
SIZES = torch.zeros(3, 6, dtype=torch.int64)


def pipeline_of(parts: Components) -> Any:
    """The released pipeline over the same parts, with the padding that its tokenizers have."""
    for tokenizer, row_format in zip(parts.tokenizers, parts.row_formats, strict=True):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(row_format.pad)  # type: ignore[attr-defined]
    return FAMILY.pipeline(parts, None)


@torch.no_grad()
def encoded(parts: Components, **more: Any) -> tuple[Tensor, Tensor]:
    states, _, pooled, _ = pipeline_of(parts).encode_prompt(
        CAPTIONS, None, None, do_classifier_free_guidance=False, **more
    )
    return states, pooled


def test_conditioning_is_that_of_the_pipeline(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    states, pooled = encoded(parts)
    ours = FAMILY.encode(parts, CAPTIONS, SIZES)
    assert ours.encoder_hidden_states.shape == (3, 77 + 256, T5_WIDTH)
    assert ours.pooled is not None
    torch.testing.assert_close(ours.encoder_hidden_states.detach(), states, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooled.detach(), pooled, atol=1e-5, rtol=0)
    weighted = FAMILY.encode(parts, CAPTIONS, SIZES, weighted=True)
    assert torch.equal(weighted.encoder_hidden_states, ours.encoder_hidden_states)


def test_without_t5_zeros_stand_in_its_place(sd3_without_t5: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3_without_t5, tmp_path)
    assert parts.keys == ("clip_l", "clip_g")
    states, pooled = encoded(parts)
    ours = FAMILY.encode(parts, CAPTIONS, SIZES)
    assert ours.pooled is not None
    torch.testing.assert_close(ours.encoder_hidden_states.detach(), states, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooled.detach(), pooled, atol=1e-5, rtol=0)
    assert not ours.encoder_hidden_states[:, 77:].any()


def test_clip_skip_counts_from_the_last_layer(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path, clip_skip=3)
    states, _ = encoded(parts, clip_skip=1)  # the pipeline counts from the second-to-last one
    ours = FAMILY.encode(parts, CAPTIONS, SIZES).encoder_hidden_states.detach()
    torch.testing.assert_close(ours, states, atol=1e-5, rtol=0)
    with pytest.raises(CoinageError, match="--clip_skip 4: the text encoder has 3 layers"):
        loaded("sd3", sd3, tmp_path, clip_skip=4)


def test_a_word_is_read_as_added_tokens_are(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    caption = "a photo of zibu, red"
    stock, ids = t5_tokenizer(), parts.token_ids([caption])[2][0]
    stock.add_tokens(["zibu", "zibu1"])
    with_word = stock("a photo of zibu zibu1, red").input_ids
    first, base = len(stock) - 2, 512  # the text encoder has more rows than the tokenizer tokens
    wanted = [index - first + base if index >= first else index for index in with_word]
    assert ids[: len(wanted)].tolist() == wanted
    assert set(ids[len(wanted) :].tolist()) == {stock.pad_token_id}


def test_gradients_reach_the_new_rows_alone(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    cond = FAMILY.encode(parts, ["a photo of zibu"], SIZES[:1])
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    FAMILY.predict(parts, latents, torch.tensor([0.5]), cond).square().sum().backward()  # type: ignore[no-untyped-call]
    rows = parts.rows()
    assert [row.shape for row in rows] == [(2, 32), (2, 64), (2, T5_WIDTH)]
    assert all(row.grad is not None and row.grad.abs().sum(dim=1).min() > 0 for row in rows)
    trained = {id(row) for row in rows}
    for module in parts.modules():
        for parameter in module.parameters():
            assert parameter.grad is None or id(parameter) in trained


def test_the_prediction_is_that_of_the_transformer(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    plain = SD3Transformer2DModel.from_pretrained(sd3 / "transformer").eval()
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond = FAMILY.encode(parts, CAPTIONS[:2], SIZES[:2])
        ours = FAMILY.predict(parts, latents, torch.tensor([0.25, 0.75]), cond)
        wanted = plain(
            latents, cond.encoder_hidden_states, cond.pooled, torch.tensor([250.0, 750.0])
        ).sample
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_latents_are_shifted_and_scaled(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    latents = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(parts.scaled(latents), (latents - 0.0609) * 1.5305)
    torch.testing.assert_close(parts.unscaled(parts.scaled(latents)), latents)


@pytest.mark.parametrize("with_t5", [True, False])
def test_pictures_are_those_of_the_pipeline(
    with_t5: bool, sd3: Path, sd3_without_t5: Path, tmp_path: Path
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    parts = loaded("sd3", sd3 if with_t5 else sd3_without_t5, tmp_path)
    prompt = Prompt(text="red circle", negative="blue", width=64, height=64, seed=3, steps=3)
    (ours,) = draw(FAMILY, parts, [prompt])
    pipe = pipeline_of(parts)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock = pipe(
        "red circle", negative_prompt="blue", width=64, height=64, num_inference_steps=3,
        guidance_scale=7.5, generator=torch.Generator().manual_seed(3), output_type="np",
    ).images[0]  # fmt: skip
    assert abs(torch.from_numpy(ours).float() - torch.from_numpy(stock) * 255).max() < 1.01


def test_it_is_detected_by_its_folder(sd3: Path, sd3_without_t5: Path) -> None:
    assert detect_family(str(sd3)) == detect_family(str(sd3_without_t5)) == "sd3"
    assert native_side(str(sd3)) == 64
    model = ModelConfig(source=str(sd3), family="sd3")
    assert [(size.key, size.width) for size in text_encoder_sizes(model)] == [
        ("clip_l", 32), ("clip_g", 64), ("t5xxl", T5_WIDTH)
    ]  # fmt: skip
    sizes, parts = model_sizes(model), sd3_parts()
    assert sizes.from_model
    assert sizes.unet == sum(t.numel() for t in parts["transformer"].state_dict().values())
    encoders = [part for name, part in parts.items() if name.startswith("text")]
    assert sizes.text == sum(p.numel() for encoder in encoders for p in encoder.parameters())
    without = ModelConfig(source=str(sd3_without_t5), family="sd3")
    assert [size.key for size in text_encoder_sizes(without)] == ["clip_l", "clip_g"]


def test_vocabularies_are_read_without_the_model(sd3: Path, sd3_without_t5: Path) -> None:
    found = read_vocabularies(ModelConfig(source=str(sd3), family="sd3"))
    assert [tuple(words.table.shape) for words in found.values()] == [
        (739, 32), (739, 64), (512, T5_WIDTH)
    ]  # fmt: skip
    t5 = found["t5xxl"]
    (near,) = t5.nearest(t5.table[t5.tokenizer.get_vocab()["▁circle"]][None], 1)
    assert near[0][0] == "circle"
    without = ModelConfig(source=str(sd3_without_t5), family="sd3")
    assert list(read_vocabularies(without)) == ["clip_l", "clip_g"]


def test_the_light_tokenizer_agrees_with_transformers(sd3: Path) -> None:
    folder = find_tokenizer(str(sd3), "tokenizer_3", kind="t5")
    light, stock = read_unigram(folder), t5_tokenizer()
    assert light is not None
    for caption in CAPTIONS:
        ids = light.encode(caption)
        assert [*ids, light.eos_token_id] == stock(caption).input_ids
    assert (len(light), light.pad_token_id) == (len(stock), stock.pad_token_id)


def test_each_kind_of_tokenizer_is_found_beside_the_other(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.models.tokenizer_files._cached", lambda _: None)
    monkeypatch.setattr(
        "coinage.models.tokenizer_files._from_open_clip", lambda: tmp_path / "wheel"
    )
    t5_tokenizer().save_pretrained(tmp_path / "cache" / "a")
    assert find_tokenizer("m.safetensors", cache=tmp_path / "cache") == tmp_path / "wheel"
    shutil.copytree(models / "sd1" / "tokenizer", tmp_path / "cache" / "b")
    assert find_tokenizer("m.safetensors", cache=tmp_path / "cache") == tmp_path / "cache" / "b"
    found = find_tokenizer("m.safetensors", "tokenizer_3", tmp_path / "cache", "t5")
    assert found == tmp_path / "cache" / "a"


def test_a_words_drift_is_told(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    rows = dict(zip(parts.keys, (row.detach().cpu() for row in parts.rows()), strict=True))
    told = drift_of(Word(rows, "zibu"), FAMILY, parts, ["a photo of {} on blue"])
    assert told.nearest[0][0] == "circle"
    assert told.pull is not None


def test_one_file_of_t5s_tokenizer_is_enough(sd3: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd3, tmp_path / "model")
    for path in (folder / "tokenizer_3").iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    whole, alone = loaded("sd3", sd3, tmp_path), loaded("sd3", folder, tmp_path)
    for ours, theirs in zip(alone.token_ids(CAPTIONS), whole.token_ids(CAPTIONS), strict=True):
        assert torch.equal(ours, theirs)


def test_a_rate_is_scaled_to_the_length_of_t5s_rows(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    clip, _, t5 = (one.table.norm(dim=1).mean() for one in parts.embeddings)
    assert rate_scales(parts, FAMILY) == pytest.approx((1, 1, float(t5 / clip)))


def test_missing_parts_are_one_clear_error(sd3: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd3, tmp_path / "partial")
    shutil.rmtree(folder / "text_encoder_2")
    (problem,) = model_problems(ModelConfig(source=str(folder), family="sd3"))
    assert problem.what.endswith("not a diffusers model: text_encoder_2 missing")
    assert "only text_encoder_3 may be missing" in problem.hint


def test_a_gated_repository_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with fake_hub(monkeypatch, str(tmp_path)) as hub:
        hub.repos["models/me/model"] = Repo(gated=True, files={"model_index.json": b"{}"})
        (problem,) = model_problems(ModelConfig(source="me/model", family="sd3"))
    assert problem.what.endswith("its repository on the hub is gated")
    assert problem.hint == "accept the licence on its page, and log in with `hf auth login`"


def test_other_commands_say_which_one_it_takes(sd3: Path) -> None:
    (problem,) = model_problems(ModelConfig(source=str(sd3), family="sd1"))
    assert "this is a Stable Diffusion 3 model" in problem.what
    assert problem.hint == "use coinage train"


def test_another_transformer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    settings = {"_class_name": "OtherTransformer2DModel"}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(settings))
    kind = kind_of_folder(tmp_path)
    assert kind.family is None
    assert "OtherTransformer2DModel" in kind.why_not


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CoinageError, match="a GGUF file"):
        kind_of_file(path)


def test_a_space_that_t5_puts_before_a_word_is_called_so(sd3: Path, tmp_path: Path) -> None:
    parts, found = loaded("sd3", sd3, tmp_path), Findings()
    check_init_word(WordConfig(token="zibu", init_word="zzz"), parts.tokenizers[2:], found)
    (warning,) = found.warnings
    assert (
        "is 4 tokens (a space, `z`, `z`, `z`); with 1 vector only a space is used" in warning.what
    )


def test_a_word_starts_from_its_init_word_in_t5_too(sd3: Path, tmp_path: Path) -> None:
    parts = loaded("sd3", sd3, tmp_path)
    word = WordConfig(token="wopo", num_vectors=1, init_word="circle")
    install_word(parts, word, parts.keys)
    index = t5_tokenizer().convert_tokens_to_ids("▁circle")
    assert torch.equal(parts.rows()[2][0], parts.embeddings[2].table[index])
