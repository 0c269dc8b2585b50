"""Inpainting models: they train and draw with a full mask, and their words work in ordinary models."""

import logging
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from coinage.checks import make_plans
from coinage.checks.footprint import GREY, phases, weights
from coinage.checks.model import model_problems
from coinage.cli.parse import parse
from coinage.config import ModelConfig
from coinage.embeddings.word import load_word
from coinage.errors import CoinageError
from coinage.generate import MODEL_SETTINGS, _sample, draw
from coinage.models.families import FAMILIES, Components
from coinage.models.hub_files import detect_family
from coinage.models.inpainting import MaskedConvolution
from coinage.models.quiet import libraries_silenced
from coinage.models.sizes import model_sizes
from coinage.settings.discover import complete
from coinage.text.prompts import Prompt
from tests.helpers import config_for, flags, trained
from tests.tiny_models import (
    FAMILY_NAMES,
    loaded,
    original_tensors,
    parts_of,
    with_inputs,
    write_folder,
)

PIPELINES = {
    "sd1": "StableDiffusionInpaintPipeline",
    "sd2": "StableDiffusionInpaintPipeline",
    "sdxl": "StableDiffusionXLInpaintPipeline",
}
FORMS = ("folder", "safetensors", "ckpt")
PROMPT = Prompt(text="a zibu", negative="a star", width=64, height=96, seed=3, steps=4)


def model_in(
    place: Path, family: str, form: str = "folder", channels: int = 9, scale: float = 0.0
) -> Path:
    """A tiny model of a family whose UNet reads so many channels."""
    parts = with_inputs(parts_of(family), channels, scale)
    if form == "folder":
        return write_folder(place / family, family, parts=parts)
    tensors = {name: t.contiguous() for name, t in original_tensors(family, parts).items()}
    path = place / f"{family}.{form}"
    torch.save(tensors, path) if form == "ckpt" else save_file(tensors, path)
    return path


@torch.no_grad()
def predicted(parts: Components, family: str) -> torch.Tensor:
    """The prediction for fixed noise and a caption with the word."""
    kind = FAMILIES[family]
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 12, generator=generator)
    sizes = torch.tensor([[64, 96, 0, 0, 64, 96]] * 2)
    cond = kind.encode(parts, ["a zibu", "a red zibu"], sizes)
    return kind.predict(parts, noisy, torch.tensor([10, 700]), cond)


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_found_and_does_what_the_model_that_it_was_made_from_does(
    family: str, form: str, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = model_in(tmp_path, family, form)
    assert not model_problems(ModelConfig(source=str(source), family=family))
    if form != "ckpt":
        assert detect_family(str(source)) == family
    with caplog.at_level(logging.INFO, logger="coinage"):
        parts = loaded(family, source, models)
    assert caplog.text.count("this is an inpainting model") == 1
    assert parts.denoiser.config.in_channels == 4
    plain = loaded(family, models / family, models)
    torch.testing.assert_close(predicted(parts, family), predicted(plain, family))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_it_draws_what_its_own_pipeline_draws_with_a_full_mask(
    family: str, models: Path, tmp_path: Path
) -> None:
    source = model_in(tmp_path, family, scale=0.2)
    parts = loaded(family, source, models)
    latents = _sample(FAMILIES[family], parts, [PROMPT])
    plain = _sample(FAMILIES[family], loaded(family, models / family, models), [PROMPT])
    assert (latents - plain).abs().max() > 0.01
    convolution: Any = parts.denoiser.conv_in
    beside = convolution._full_mask.beside(torch.zeros(1, 4, 12, 8))
    torch.testing.assert_close(
        latents, drawn_by_diffusers(family, parts, beside), rtol=0, atol=1e-5
    )


@torch.no_grad()
def drawn_by_diffusers(family: str, parts: Components, beside: torch.Tensor) -> torch.Tensor:
    """The latents of the prompt from the pipeline of inpainting models, with the plain UNet."""
    unet: Any = parts.denoiser
    unet.conv_in = unet.conv_in.convolution
    unet.register_to_config(in_channels=9)
    settings = {key: parts.scheduler_config[key] for key in MODEL_SETTINGS}
    scheduler = diffusers.DDIMScheduler(
        **settings, steps_offset=1, clip_sample=False, set_alpha_to_one=False
    )
    ours: Any = FAMILIES[family].pipeline(parts, scheduler)
    with libraries_silenced():
        pipeline = getattr(diffusers, PIPELINES[family])(**ours.components)
    sizes = torch.tensor([[96, 64, 0, 0, 96, 64]])
    cond = FAMILIES[family].encode(parts, [PROMPT.text], sizes, weighted=True)
    blank = FAMILIES[family].encode(parts, [PROMPT.negative], sizes, weighted=True)
    pooled = {}
    if cond.pooled is not None:
        pooled = {
            "pooled_prompt_embeds": cond.pooled,
            "negative_pooled_prompt_embeds": blank.pooled,
        }
    pipeline.set_progress_bar_config(disable=True)
    images: torch.Tensor = pipeline(
        image=torch.zeros(1, 3, 96, 64),
        mask_image=torch.ones(1, 1, 96, 64),
        masked_image_latents=beside[:, 1:],
        strength=1.0,
        prompt_embeds=cond.encoder_hidden_states,
        negative_prompt_embeds=blank.encoder_hidden_states,
        width=64,
        height=96,
        num_inference_steps=PROMPT.steps,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        **pooled,
    ).images
    return images


@torch.no_grad()
def test_a_full_mask_is_1_beside_a_grey_picture(models: Path, tmp_path: Path) -> None:
    parts = loaded("sd1", model_in(tmp_path, "sd1"), models)
    convolution: Any = parts.denoiser.conv_in
    assert isinstance(convolution, MaskedConvolution)
    beside = convolution._full_mask.beside(torch.zeros(3, 4, 6, 5, dtype=torch.bfloat16))
    assert beside.shape == (3, 5, 6, 5)
    assert beside.dtype == torch.bfloat16
    assert (beside[:, 0] == 1).all()
    grey = parts.vae.encode(torch.zeros(1, 3, 48, 40)).latent_dist.mean * parts.scaling_factor
    torch.testing.assert_close(beside[1:2, 1:], grey.bfloat16())
    again = convolution._full_mask.beside(torch.zeros(1, 4, 6, 5))
    assert again.data_ptr() == convolution._full_mask.beside(torch.zeros(1, 4, 6, 5)).data_ptr()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_word_that_learned_on_it_works_in_the_ordinary_model(
    family: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    """With previews, measured loss and the first look at the model on the way."""
    source = model_in(tmp_path, family)
    (prompts := tmp_path / "prompts.txt").write_text("a zibu --s 2 --w 64 --h 64")
    given = [
        *flags(moon_dataset, tmp_path / "out"),
        f"--pretrained_model_name_or_path={source}",
        "--mixed_precision=no",
        "--sample_every_n_steps=2",
        f"--sample_prompts={prompts}",
        "--validation_split=0.2",
        *(["--v2"] if family == "sd2" else []),
    ]
    script = "sdxl" if family == "sdxl" else "sd"
    config = complete(parse(script, given, "test"))[0]
    run, word = trained(moon_dataset, tmp_path, config=config)
    assert run.results.measurements
    assert list((tmp_path / "out" / "sample").glob("*.png"))
    assert all((rows != start).any() for rows, start in zip(run.rows, run.start, strict=True))
    file = load_word(run.config.output_file)
    assert list(file.vectors) == list(word.vectors)
    plain = loaded(family, models / family, models)
    vectors = [file.vectors[key] for key in FAMILIES[family].facts.keys]
    with plain.with_words([("zibu", file.num_vectors)], vectors):
        pictures = list(draw(FAMILIES[family], plain, [PROMPT]))
    own = list(draw(FAMILIES[family], run.parts, [PROMPT]))
    assert abs(pictures[0].astype(int) - own[0]).max() <= 1
    untaught = list(draw(FAMILIES[family], plain, [PROMPT]))
    assert (pictures[0] != untaught[0]).any()


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("form", FORMS[:2])
def test_the_estimate_of_memory_counts_what_the_masked_picture_takes(
    family: str, form: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    source = model_in(tmp_path, family, form)
    sizes = model_sizes(ModelConfig(source=str(source), family=family))
    plain = model_sizes(ModelConfig(source=str(models / family), family=family))
    assert (sizes.inpaints, plain.inpaints) == (True, False)
    assert sizes.unet == plain.unet + 32 * 5 * 9
    (plan,) = make_plans([config_for(moon_dataset, tmp_path)])
    found = {phase.when: phase for phase in phases(plan.config, sizes, plan.samples)}
    assert found[GREY].model == weights(plan.config.model, sizes) + sizes.vae * 4
    assert found[GREY].activations > 0
    assert GREY not in {p.when for p in phases(plan.config, plain, plan.samples)}


@pytest.mark.parametrize(
    ("channels", "what"),
    [
        (5, "a depth model"),
        (7, "an upscaler"),
        (8, "a model that edits pictures (InstructPix2Pix)"),
        (6, "a special model"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_other_special_models_are_refused_in_one_line(
    channels: int, what: str, form: str, models: Path, tmp_path: Path
) -> None:
    source = model_in(tmp_path, "sd1", form, channels)
    config = ModelConfig(source=str(source), family="sd1", tokenizer_cache=models / "tokenizers")
    expected = f"this is {what}: its UNet has {channels} input channels"
    if form == "ckpt":  # its names alone do not show it
        with pytest.raises(CoinageError) as raised:
            FAMILIES["sd1"].load(config, torch.float32)
        (problem,) = raised.value.problems
    else:
        (problem,) = model_problems(config)
        assert detect_family(str(source)) is None
    assert expected in problem.what
    shutil.rmtree(source) if form == "folder" else source.unlink()
