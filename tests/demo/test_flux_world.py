"""How the FLUX.1-like demo world is made: as the stock pipeline loads, conditions and predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coinage.models.packing import pack, unpack
from tests.demo.untrained import Made, awaken, check_folder, tools, untrained_parts

__all__ = ["tools"]  # a fixture for all tests here
CAPTION = "a photo of a striped red circle on a white background"
pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


@pytest.fixture(scope="module")
def made(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    import demo_flux

    folder = tmp_path_factory.mktemp("world")
    parts = demo_flux.without_projection(untrained_parts(folder / "t5"))
    transformer = demo_flux.build_transformer()
    awaken(transformer)
    demo_flux.ship(transformer, parts, folder / "t5", folder / "model")
    return Made(folder / "model", parts)


@pytest.fixture(scope="module")
def pipe(made: Made) -> Any:
    from diffusers import FluxPipeline

    loaded = FluxPipeline.from_pretrained(made.folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@torch.no_grad()
def states(pipe: Any, made: Made, captions: list[str]) -> Any:
    """What the tools make of captions with the weights that the pipeline has loaded."""
    from demo_flow_texts import encode

    clip, _, t5 = made.parts.texts
    size = made.parts.tokenizers.clip.size
    state = {f"text_model.{k}": v for k, v in pipe.text_encoder.state_dict().items()}
    name = "text_model.embeddings.token_embedding.weight"
    state[name] = torch.cat([state[name], clip.state_dict()[name][size:]])
    clip.load_state_dict(state)
    texts = nn.ModuleList([clip, made.parts.texts[1], pipe.text_encoder_2])
    assert t5.config.d_model == pipe.text_encoder_2.config.d_model
    return encode(texts, made.parts.tokenizers.read(captions, 77, 512))


def test_the_folder_is_small(made: Made) -> None:
    check_folder(made.folder, 10_000_000)


def test_packed_latents_come_back() -> None:
    from diffusers import FluxPipeline

    import demo_flux

    latents = torch.randn(2, 16, 16, 16)
    packed = pack(latents, demo_flux.PATCH)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 16, 16, 16))
    assert torch.equal(unpack(packed, 16, 16, demo_flux.PATCH), latents)


def test_captions_become_what_the_pipeline_makes_of_them(pipe: Any, made: Made) -> None:
    found = states(pipe, made, [CAPTION])
    with torch.no_grad():
        joined, pooled, _ = pipe.encode_prompt(CAPTION, None)
    assert torch.allclose(joined, found.hidden[2], atol=1e-5)
    assert torch.allclose(pooled, found.pooled[0], atol=1e-5)


def test_pictures_are_drawn_as_the_pipeline_draws_them(pipe: Any, made: Made) -> None:
    from demo_flow_attention import PlainRotaryAttention
    from demo_flow_check import draw
    from demo_flux import KIND, PATCH

    start = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    latents = pipe(
        CAPTION, negative_prompt="", true_cfg_scale=4.0, num_inference_steps=3, height=64, width=64,
        latents=pack(start, PATCH), output_type="latent",
    ).images  # fmt: skip
    empty, asked = states(pipe, made, [""]), states(pipe, made, [CAPTION])
    pipe.transformer.set_attn_processor(PlainRotaryAttention(torch.zeros(512)))
    found = draw(pipe.transformer, KIND, asked, empty, start, 4.0, 3)
    assert latents.std() > 0.1
    assert torch.allclose(unpack(latents, 16, 16, PATCH), found, atol=1e-5)


def test_training_learns(made: Made, tmp_path: Path) -> None:
    from demo_flow import Plan, Pool, Trainer
    from demo_flow_texts import read_all
    from demo_flux import KIND, build_transformer

    read = read_all(made.parts.texts, made.parts.tokenizers, [CAPTION, "two red stars", ""])
    torch.manual_seed(1)
    pool = Pool(torch.randn(2, 16, 16, 16).bfloat16(), read)
    plan = Plan(40, 4, captions=8, warm_up=2, matrix_rate=0.01, rate=0.01)
    trainer = Trainer(build_transformer(1, 1), KIND, plan, tmp_path)
    losses = []
    for _ in range(20):
        trainer.take_step(pool)
        losses.append(trainer.loss)
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
