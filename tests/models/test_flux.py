"""FLUX.1: what the transformer reads and predicts is what the released pipeline gives it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from coinage.checks.model import model_problems
from coinage.config import ModelConfig, WordConfig
from coinage.diffusion.flow import FlowSchedule, SizedShift
from coinage.embeddings.install import install_word
from coinage.generate import draw
from coinage.models.detect import kind_of_folder
from coinage.models.families import FAMILIES, Components
from coinage.models.guidance import guidance_of
from coinage.models.hub_files import detect_family, native_side
from coinage.models.packing import pack, places, unpack
from coinage.models.sizes import model_sizes
from coinage.models.text_encoder_sizes import text_encoder_sizes
from coinage.models.vocabulary import read_vocabularies
from coinage.text.prompts import Prompt
from coinage.training.setup import rate_scales
from tests.fake_hub import Repo, fake_hub
from tests.tiny_models import DYNAMIC, T5_WIDTH, flux_parts, loaded, t5_tokenizer

FAMILY = FAMILIES["flux"]
CAPTIONS = ["a photo of red circle, on blue", "", "unknown letters: xyz"]
SIZES = torch.zeros(3, 6, dtype=torch.int64)


@pytest.fixture(params=[True, False], ids=["embedded", "unguided"])
def source(request: pytest.FixtureRequest, flux: Path, flux_without_guidance: Path) -> Path:
    """A model with a guidance embedding, and one without."""
    return flux if request.param else flux_without_guidance


def pipeline_of(parts: Components) -> Any:
    """The released pipeline over the same parts, with the padding that its tokenizers have."""
    for tokenizer, row_format in zip(parts.tokenizers, parts.row_formats, strict=True):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(row_format.pad)  # type: ignore[attr-defined]
    return FAMILY.pipeline(parts, None)


def random_latents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_conditioning_is_that_of_the_pipeline(flux: Path, tmp_path: Path) -> None:
    parts = loaded("flux", flux, tmp_path)
    states, pooled, _ = pipeline_of(parts).encode_prompt(CAPTIONS, None)
    ours = FAMILY.encode(parts, CAPTIONS, SIZES)
    assert ours.encoder_hidden_states.shape == (3, 512, T5_WIDTH)
    assert ours.pooled is not None
    torch.testing.assert_close(ours.encoder_hidden_states, states, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooled, pooled, atol=1e-5, rtol=0)
    weighted = FAMILY.encode(parts, CAPTIONS, SIZES, weighted=True)
    assert torch.equal(weighted.encoder_hidden_states, ours.encoder_hidden_states)


@torch.no_grad()
def test_weights_act_on_t5s_states(flux: Path, tmp_path: Path) -> None:
    parts = loaded("flux", flux, tmp_path)
    plain = FAMILY.encode(parts, ["red circle"], SIZES[:1]).encoder_hidden_states
    weighted = FAMILY.encode(parts, ["red (circle:1.5)"], SIZES[:1], weighted=True)
    ratios = (weighted.encoder_hidden_states / plain)[0].mean(dim=1)
    torch.testing.assert_close(ratios[:3], torch.tensor([1.0, 1.5, 1.0]))


@torch.no_grad()
def test_clip_is_pooled_at_the_end_of_the_text(flux: Path, tmp_path: Path) -> None:
    """Settings of the released model have transformers pool at the largest id, the word's."""
    parts = loaded("flux", flux, tmp_path)
    clip = parts.text_encoders[0]
    (ids, _) = parts.token_ids(["a zibu on red"])
    end = ids[0].tolist().index(738)
    ours = FAMILY.encode(parts, ["a zibu on red"], SIZES[:1]).pooled
    assert ours is not None
    assert torch.equal(ours[0], clip(ids).last_hidden_state[0, end])
    clip.eos_token_id = 2
    assert not torch.equal(ours[0], clip(ids).pooler_output[0])
    assert torch.equal(ours, FAMILY.encode(parts, ["a zibu on red"], SIZES[:1]).pooled)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (6, 2)])
def test_packed_latents_are_those_of_the_pipeline_and_come_back(height: int, width: int) -> None:
    from diffusers import FluxPipeline

    latents = random_latents(2, 16, height, width)
    packed = pack(latents, 2)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 16, height, width))
    assert torch.equal(unpack(packed, height, width, 2), latents)
    cpu, dtype = torch.device("cpu"), torch.float32
    wanted = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, cpu, dtype)
    assert torch.equal(places(height // 2, width // 2, cpu, dtype), wanted)


@torch.no_grad()
def test_the_prediction_is_that_of_the_transformer(source: Path, tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    parts = loaded("flux", source, tmp_path)
    plain = FluxTransformer2DModel.from_pretrained(source / "transformer").eval()
    latents, times = random_latents(2, 16, 8, 12), torch.tensor([0.25, 0.75])
    cond = FAMILY.encode(parts, CAPTIONS[:2], SIZES[:2])
    ours = FAMILY.predict(parts, latents, times, cond)
    embeds = plain.config.guidance_embeds
    assert embeds == (source.name == "dev")
    tokens = plain(
        hidden_states=FluxPipeline._pack_latents(latents, 2, 16, 8, 12),
        timestep=times,
        guidance=torch.ones(2) if embeds else None,
        encoder_hidden_states=cond.encoder_hidden_states,
        pooled_projections=cond.pooled,
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 4, 6, latents.device, latents.dtype),
        txt_ids=torch.zeros(512, 3),
    ).sample
    wanted = FluxPipeline._unpack_latents(tokens, 64, 96, 8)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_gradients_reach_the_new_rows_alone(source: Path, tmp_path: Path) -> None:
    parts = loaded("flux", source, tmp_path)
    cond = FAMILY.encode(parts, ["a photo of zibu"], SIZES[:1])
    prediction = FAMILY.predict(parts, random_latents(1, 16, 8, 8), torch.tensor([0.5]), cond)
    prediction.square().sum().backward()  # type: ignore[no-untyped-call]
    rows = parts.rows()
    assert [row.shape for row in rows] == [(2, 32), (2, T5_WIDTH)]
    assert all(row.grad is not None and row.grad.abs().sum(dim=1).min() > 0 for row in rows)
    trained = {id(row) for row in rows}
    for module in parts.modules():
        for parameter in module.parameters():
            assert parameter.grad is None or id(parameter) in trained


@pytest.mark.parametrize("scale", [None, 2.0, 1.0])
def test_pictures_are_those_of_the_pipeline(
    scale: float | None, source: Path, tmp_path: Path
) -> None:
    """Guidance is a number that the transformer reads, or else a second prediction for a negative prompt."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    parts = loaded("flux", source, tmp_path)
    prompt = Prompt(
        text="red circle", negative="blue", width=64, height=96, seed=3, steps=3, scale=scale
    )
    (ours,) = draw(FAMILY, parts, [prompt])
    pipe = pipeline_of(parts)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, **DYNAMIC)  # type: ignore[arg-type]
    name = "guidance_scale" if source.name == "dev" else "true_cfg_scale"
    stock = pipe(
        "red circle", negative_prompt="blue", width=64, height=96, num_inference_steps=3,
        generator=torch.Generator().manual_seed(3), output_type="np",
        **{name: 3.5 if scale is None else scale},
    ).images[0]  # fmt: skip
    assert abs(torch.from_numpy(ours).float() - torch.from_numpy(stock) * 255).max() < 1.01


def test_a_model_of_few_steps_is_drawn_without_guidance(
    flux_without_guidance: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(flux_without_guidance, tmp_path / "schnell")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"shift": 1.0, "use_dynamic_shifting": False}))
    parts = loaded("flux", folder, tmp_path)
    assert parts.schedule == FlowSchedule(shift=1.0)
    assert guidance_of(FAMILY.facts, parts) == {"true_cfg_scale": 1.0}
    assert guidance_of(FAMILY.facts, parts, 2.0) == {"true_cfg_scale": 2.0}


def test_the_shift_grows_with_the_picture(flux: Path, tmp_path: Path) -> None:
    parts = loaded("flux", flux, tmp_path)
    assert isinstance(parts.schedule, FlowSchedule)
    assert parts.schedule.sized == SizedShift(0.5, 1.15, 256, 4096, patch=2)
    assert parts.schedule.at_size(128, 128).shift == pytest.approx(3.158, abs=1e-3)
    assert parts.schedule.at_size(16, 16).shift == pytest.approx(1.596, abs=1e-3)


def test_it_is_detected_by_its_folder(flux: Path) -> None:
    assert detect_family(str(flux)) == "flux"
    model = ModelConfig(source=str(flux), family="flux")
    sizes = [(size.key, size.width) for size in text_encoder_sizes(model)]
    assert sizes == [("clip_l", 32), ("t5xxl", T5_WIDTH)]
    counted, parts = model_sizes(model), flux_parts()
    assert counted.from_model
    assert counted.unet == sum(t.numel() for t in parts["transformer"].state_dict().values())
    encoders = [part for name, part in parts.items() if name.startswith("text")]
    assert counted.text == sum(p.numel() for encoder in encoders for p in encoder.parameters())


@pytest.mark.parametrize(
    ("named", "side"), [(64, 64), (768, 768), (32, 1024), (None, 1024), (2**40, 1024)]
)
def test_its_side_is_that_of_its_vae(named: object, side: int, flux: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(flux, tmp_path / "flux")
    path = folder / "vae" / "config.json"
    settings = json.loads(path.read_text())
    assert native_side(str(folder)) == settings["sample_size"] == 64
    path.write_text(json.dumps({**settings, "sample_size": named}))
    assert native_side(str(folder)) == side


def test_vocabularies_are_read_without_the_model(flux: Path) -> None:
    found = read_vocabularies(ModelConfig(source=str(flux), family="flux"))
    shapes = {key: tuple(words.table.shape) for key, words in found.items()}
    assert shapes == {"clip_l": (739, 32), "t5xxl": (512, T5_WIDTH)}


def test_a_word_starts_from_its_init_word_in_both(flux: Path, tmp_path: Path) -> None:
    parts = loaded("flux", flux, tmp_path)
    install_word(parts, WordConfig(token="wopo", num_vectors=1, init_word="circle"), parts.keys)
    index = t5_tokenizer().convert_tokens_to_ids("▁circle")
    assert torch.equal(parts.rows()[1][0], parts.embeddings[1].table[index])
    clip, t5 = (one.table.norm(dim=1).mean() for one in parts.embeddings)
    assert rate_scales(parts, FAMILY) == pytest.approx((1, float(t5 / clip)))


def test_one_file_of_t5s_tokenizer_is_enough(flux: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(flux, tmp_path / "model")
    for path in (folder / "tokenizer_2").iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    whole, alone = loaded("flux", flux, tmp_path), loaded("flux", folder, tmp_path)
    for ours, theirs in zip(alone.token_ids(CAPTIONS), whole.token_ids(CAPTIONS), strict=True):
        assert torch.equal(ours, theirs)


def test_clip_skip_and_long_captions_have_no_effect(
    flux: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "coinage"):
        parts = loaded("flux", flux, tmp_path, clip_skip=9, max_token_length=225)
    assert parts.chunks == 1
    assert parts.clip_skip is None
    assert "--clip_skip has no effect on FLUX.1" in caplog.text
    assert "reads 75 tokens of CLIP and 511 of T5" in caplog.text


@pytest.mark.parametrize("part", ["text_encoder_2", "text_encoder", "transformer", "vae"])
def test_missing_parts_are_one_clear_error(part: str, flux: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(flux, tmp_path / "partial")
    shutil.rmtree(folder / part)
    (problem,) = model_problems(ModelConfig(source=str(folder), family="flux"))
    assert problem.what.endswith(f"not a diffusers model: {part} missing")
    assert problem.hint == "download the whole model"


def test_a_gated_repository_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with fake_hub(monkeypatch, str(tmp_path)) as hub:
        hub.repos["models/me/model"] = Repo(gated=True, files={"model_index.json": b"{}"})
        (problem,) = model_problems(ModelConfig(source="me/model", family="flux"))
    assert problem.what.endswith("its repository on the hub is gated")
    assert problem.hint == "accept the licence on its page, and log in with `hf auth login`"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"in_channels": 384}, "it has 384 input channels, not 64"),
        ({"_class_name": "ChromaTransformer2DModel"}, "a model with a ChromaTransformer2DModel"),
        ({"_class_name": "Flux2Transformer2DModel"}, "a model with a Flux2Transformer2DModel"),
    ],
)
def test_relatives_are_refused(
    settings: dict[str, object], why: str, flux: Path, tmp_path: Path
) -> None:
    (tmp_path / "transformer").mkdir()
    usual = json.loads((flux / "transformer" / "config.json").read_text())
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(usual | settings))
    kind = kind_of_folder(tmp_path)
    assert kind.family is None
    assert why in kind.why_not
