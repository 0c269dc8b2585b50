"""How the SD 3-like demo world is made: as the stock pipeline loads, conditions and predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.demo.untrained import Made, awaken, check_folder, tools, untrained_parts

__all__ = ["tools"]  # a fixture for all tests here

CAPTIONS = [
    "a photo of a striped red circle on a white background",
    "two <moon>, blue, dotted, sky background",
    "",
]
pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


@pytest.fixture(scope="module")
def made(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    import demo_sd3

    folder = tmp_path_factory.mktemp("world")
    parts = untrained_parts(folder / "t5")
    transformer = demo_sd3.build_transformer()
    awaken(transformer)
    demo_sd3.ship(transformer, parts, folder / "t5", folder / "model")
    return Made(folder / "model", parts)


@pytest.fixture(scope="module")
def pipe(made: Made) -> Any:
    from diffusers import StableDiffusion3Pipeline

    loaded = StableDiffusion3Pipeline.from_pretrained(made.folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def states(pipe: Any, made: Made, captions: list[str]) -> Any:
    """What the tools make of captions with the encoders that the pipeline has loaded."""
    from demo_flow_texts import encode

    texts = nn.ModuleList([pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3])
    with torch.no_grad():
        return encode(texts, made.parts.tokenizers.read(captions, 77, 256))


def test_the_folder_is_small_and_keeps_no_secret(made: Made) -> None:
    check_folder(made.folder, 10_000_000)
    for place in ("text_encoder", "text_encoder_2"):
        with safe_open(made.folder / place / "model.safetensors", framework="pt") as file:
            table = file.get_slice("text_model.embeddings.token_embedding.weight")
            assert table.get_shape()[0] == made.parts.tokenizers.clip.size


def test_t5_reads_the_world_offline_and_has_spare_rows(made: Made, pipe: Any) -> None:
    from coinage.demo.language import vocabulary

    tokenizer = pipe.tokenizer_3
    assert all(len(tokenizer.encode(w, add_special_tokens=False)) == 1 for w in vocabulary())
    assert tokenizer.unk_token_id not in tokenizer("a zebra, 7 of them").input_ids
    rows = pipe.text_encoder_3.get_input_embeddings().weight
    assert len(rows) > len(tokenizer)
    secrets = made.parts.texts[2].get_input_embeddings().weight[len(tokenizer) :].half()
    assert not any((rows[len(tokenizer) :].half() == secret).all() for secret in secrets)


def test_captions_become_what_the_pipeline_makes_of_them(pipe: Any, made: Made) -> None:
    captions = [CAPTIONS[0], "three green hearts", ""]
    found = states(pipe, made, captions)
    with torch.no_grad():
        joined, _, pooled, _ = pipe.encode_prompt(
            captions, None, None, do_classifier_free_guidance=False
        )
    one, two, t5 = found.hidden
    expected = torch.cat([torch.cat([one, two], -1), t5], -2)
    assert torch.allclose(joined, expected, atol=1e-5)
    assert torch.allclose(pooled, torch.cat(found.pooled, -1), atol=1e-5)


def test_pooled_vectors_stand_at_the_true_end_where_new_rows_exceed_it(made: Made) -> None:
    from demo_flow_texts import encode

    tokens = made.parts.tokenizers.read(CAPTIONS)
    assert int(tokens.clip.max()) > made.parts.tokenizers.clip.end
    with torch.no_grad():
        found = encode(made.parts.texts, tokens)
        for model, pooled in zip(made.parts.texts[:2], found.pooled, strict=True):
            last = model.text_model(tokens.clip).last_hidden_state
            at_end = last[torch.arange(len(CAPTIONS)), tokens.ends]
            assert torch.allclose(pooled, model.text_projection(at_end), atol=1e-5)


def test_pictures_are_drawn_as_the_pipeline_draws_them(pipe: Any, made: Made) -> None:
    from demo_flow_check import decode, draw
    from demo_sd3 import KIND

    captions = CAPTIONS[:1] * 2
    start = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    given = {"num_inference_steps": 3, "guidance_scale": 4.0, "latents": start}
    latents = pipe(captions, output_type="latent", **given).images
    empty, asked = states(pipe, made, [""]), states(pipe, made, captions)
    found = draw(pipe.transformer, KIND, asked, empty, start, 4.0, 3)
    assert latents.std() > 0.1
    assert torch.allclose(latents, found, atol=1e-5)
    pictures = torch.from_numpy(pipe(captions, output_type="np", **given).images)
    assert (pictures * 255 - torch.from_numpy(decode(pipe.vae, found))).abs().max() <= 1


def test_few_tokens_stand_for_all_padding(pipe: Any, made: Made) -> None:
    """Where padding is equal, a weighted token of it does exactly what all of it does."""
    from demo_flow_attention import PlainJointAttention
    from demo_flow_texts import T5_PADDING, States, shortened, token_weights
    from demo_sd3 import predict

    full = states(pipe, made, CAPTIONS[:1])
    one, two, t5 = (h.clone() for h in full.hidden)
    for hidden, first, last in ((one, 20, 40), (one, 40, 77), (two, 20, 40), (two, 40, 77)):
        hidden[:, first:last] = hidden[:, min(first + 6, 38)][:, None]
    t5[:, 20:] = t5[:, list(T5_PADDING)]
    equal, noisy = States((one, two, t5), full.pooled), torch.randn(1, 16, 16, 16)
    stock = pipe.transformer.attn_processors
    few = [part.float() for part in shortened(equal).parts()]
    rounded = [part.bfloat16().float() for part in equal.parts()]
    with torch.no_grad():
        expected = predict(
            pipe.transformer,
            noisy,
            torch.tensor([0.7]),
            States(tuple(rounded[:3]), tuple(rounded[3:])),
        )
        pipe.transformer.set_attn_processor(PlainJointAttention(token_weights(True)))
        found = predict(
            pipe.transformer, noisy, torch.tensor([0.7]), States(tuple(few[:3]), tuple(few[3:]))
        )
    pipe.transformer.set_attn_processor(stock)
    assert few[0].shape[1] + few[2].shape[1] < 50
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
def test_muon_steps_as_torchs_own(tools: None) -> None:
    from demo_muon import Muon

    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((32, 64), (64, 32), (32, 64))]
    theirs = [nn.Parameter(one.detach().clone()) for one in ours]
    settings: dict[str, Any] = {"lr": 4e-3, "weight_decay": 0.01}
    pair = [
        Muon(ours, **settings),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings),
    ]
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = other.grad = torch.randn_like(one)
        for optimizer in pair:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):  # torch's computes in bfloat16
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_training_learns_and_goes_on_where_it_stopped(made: Made, tmp_path: Path) -> None:
    import demo_flow
    from demo_flow_texts import read_all
    from demo_sd3 import KIND, build_transformer

    read = read_all(made.parts.texts, made.parts.tokenizers, [CAPTIONS[0], CAPTIONS[1], ""])
    pool = demo_flow.Pool(torch.randn(2, 16, 16, 16).bfloat16(), read)
    plan = demo_flow.Plan(40, 4, captions=8, warm_up=2, matrix_rate=0.01, rate=0.01)
    torch.manual_seed(1)
    trainer = demo_flow.Trainer(build_transformer(1), KIND, plan, tmp_path)
    losses = []
    for _ in range(30):
        trainer.take_step(pool)
        losses.append(trainer.loss)
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    trainer.save()
    trainer.take_step(pool)
    again = demo_flow.Trainer(build_transformer(1), KIND, plan, tmp_path)
    again.take_step(pool)
    assert (again.step, again.smooth) == (trainer.step, trainer.smooth)
    assert all(map(torch.equal, again.live.parameters(), trainer.live.parameters()))
