"""Make the SD 3-like demo world: flow matching, three text encoders, a 16-channel autoencoder.

`python tools/demo_sd3.py` makes the parts one after another and goes on where it stopped.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn

from demo_flow import Kind, Plan, Trainer
from demo_flow_attention import PlainJointAttention
from demo_flow_check import Check
from demo_flow_parts import Parts, parser, prepared
from demo_flow_ship import ship_rest, ship_t5, ship_tokenizers
from demo_flow_texts import WIDTHS, States, token_weights
from demo_ship import ship_projected_encoder
from demo_vae16 import CHANNELS

HEADS, HEAD = 4, 32
SCHEDULER = {"num_train_timesteps": 1000, "shift": 3.0}
# How often a caption is read by CLIP-L, CLIP-G and T5: each encoder learns to be alone.
READ_BY = {
    (1, 1, 1): 0.36,
    (1, 1, 0): 0.12,
    (0, 0, 1): 0.22,
    (1, 0, 0): 0.08,
    (0, 1, 0): 0.06,
    (1, 0, 1): 0.04,
    (0, 1, 1): 0.04,
    (0, 0, 0): 0.08,
}


def build_transformer(layers: int = 4) -> SD3Transformer2DModel:
    """About 2.3 million parameters; what modulates and what ends start at zero."""
    model = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=layers,
        attention_head_dim=HEAD, num_attention_heads=HEADS, joint_attention_dim=WIDTHS[2],
        caption_projection_dim=HEADS * HEAD, pooled_projection_dim=128, pos_embed_max_size=16,
        qk_norm="rms_norm",
    )  # fmt: skip
    ends = [model.norm_out.linear, model.proj_out]
    for block in model.transformer_blocks:
        ends += [block.norm1.linear, block.norm1_context.linear]
    for layer in ends:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def predict(model: nn.Module, noisy: Tensor, levels: Tensor, states: States) -> Tensor:
    """The velocity [B, 16, 16, 16]; conditioned as the stock pipeline conditions."""
    one, two, t5 = states.hidden
    return model(
        hidden_states=noisy,
        timestep=levels * 1000,
        encoder_hidden_states=torch.cat([torch.cat([one, two], -1), t5], -2),
        pooled_projections=torch.cat(states.pooled, -1),
    ).sample


INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
}


def schedule(steps: int) -> FlowMatchEulerDiscreteScheduler:
    """The sampler, ready for so many steps."""
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    return scheduler


KIND = Kind(predict, schedule, READ_BY, PlainJointAttention, partial(token_weights, True))


def ship(transformer: nn.Module, parts: Parts, t5_tokenizer: Path, out: Path) -> None:
    """Write the folder `out` anew."""
    shutil.rmtree(out, ignore_errors=True)
    size = parts.tokenizers.clip.size
    ship_projected_encoder(parts.texts[0], size, out / "text_encoder")
    ship_projected_encoder(parts.texts[1], size, out / "text_encoder_2")
    ship_t5(parts.texts[2], parts.tokenizers.t5_size, out / "text_encoder_3")
    ship_tokenizers(["tokenizer", "tokenizer_2"], t5_tokenizer, "tokenizer_3", out)
    ship_rest(transformer, parts.vae, SCHEDULER, INDEX, "demo_card_sd3.md", out)


def main() -> None:
    args = parser(__doc__, "sd3").parse_args()
    torch.set_num_threads(1)
    parts = prepared(args)
    torch.manual_seed(args.seed)
    trainer = Trainer(build_transformer(), KIND, Plan(args.steps, args.falling), args.out)
    trainer.compile_blocks()
    average = trainer.run(parts.pool(args.out), Check(parts, KIND, args.out), args.check_every)
    ship(average, parts, args.parts / "tokenizer_3", args.ship_to)


if __name__ == "__main__":
    main()
