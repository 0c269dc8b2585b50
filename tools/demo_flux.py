"""Make the FLUX.1-like demo world: flow matching on packed latents, a pooled CLIP vector and T5.

It shares autoencoder, latents and text encoders with the SD 3-like world. It has no guidance
embedding: guidance is true classifier-free guidance. `python tools/demo_flux.py` makes the parts one
after another and goes on where it stopped.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from coinage.models.packing import pack, places, unpack
from demo_flow import Kind, Plan, Trainer
from demo_flow_attention import PlainRotaryAttention
from demo_flow_check import Check
from demo_flow_parts import Parts, parser, prepared
from demo_flow_ship import ship_rest, ship_t5, ship_tokenizers
from demo_flow_texts import WIDTHS, States, token_weights
from demo_ship import ship_text_encoder
from demo_vae16 import CHANNELS

SIDE, PATCH = 8, 2  # tokens along each side of a picture, and latents along one of a token
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
READ_BY = {(1, 0, 1): 0.5, (0, 0, 1): 0.22, (1, 0, 0): 0.2, (0, 0, 0): 0.08}  # CLIP-G takes no part


def build_transformer(double: int = 2, single: int = 4) -> FluxTransformer2DModel:
    """About 2.3 million parameters; what modulates and what ends start at zero."""
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * CHANNELS, num_layers=double, num_single_layers=single,
        attention_head_dim=32, num_attention_heads=4, joint_attention_dim=WIDTHS[2],
        pooled_projection_dim=WIDTHS[0], guidance_embeds=False, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    ends = [model.norm_out.linear, model.proj_out]
    for block in model.transformer_blocks:
        ends += [block.norm1.linear, block.norm1_context.linear]
    ends += [block.norm.linear for block in model.single_transformer_blocks]
    for layer in ends:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def predict(model: nn.Module, noisy: Tensor, levels: Tensor, states: States) -> Tensor:
    """The velocity [B, 16, 16, 16]; conditioned as the stock pipeline conditions."""
    t5 = states.hidden[2]
    found = model(
        hidden_states=pack(noisy, PATCH),
        timestep=levels,
        encoder_hidden_states=t5,
        pooled_projections=states.pooled[0],
        img_ids=places(SIDE, SIDE, noisy.device, noisy.dtype),
        txt_ids=torch.zeros(t5.shape[1], 3, dtype=noisy.dtype),
    ).sample
    return unpack(found, PATCH * SIDE, PATCH * SIDE, PATCH)


def schedule(steps: int) -> FlowMatchEulerDiscreteScheduler:
    """The sampler, ready for so many steps; its shift is on a line in the number of tokens."""
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    slope = (1.15 - 0.5) / (4096 - 256)
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / steps, steps), mu=0.5 + slope * (SIDE * SIDE - 256)
    )
    return scheduler


KIND = Kind(predict, schedule, READ_BY, PlainRotaryAttention, partial(token_weights, False))

INDEX = {
    "_class_name": "FluxPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
}


def without_projection(parts: Parts) -> Parts:
    """The same parts, changed in place: CLIP-L's pooled vector is its own [B, 128], as FLUX.1 uses it."""
    parts.texts[0].text_projection = nn.Identity()
    return parts


def ship(transformer: nn.Module, parts: Parts, t5_tokenizer: Path, out: Path) -> None:
    """Write the folder `out` anew."""
    shutil.rmtree(out, ignore_errors=True)
    clip = CLIPTextModel(parts.texts[0].config)
    state = parts.texts[0].text_model.state_dict()
    clip.load_state_dict({name.removeprefix("text_model."): t for name, t in state.items()})
    ship_text_encoder(clip, parts.tokenizers.clip.size, out / "text_encoder")
    ship_t5(parts.texts[2], parts.tokenizers.t5_size, out / "text_encoder_2")
    ship_tokenizers(["tokenizer"], t5_tokenizer, "tokenizer_2", out)
    ship_rest(transformer, parts.vae, SCHEDULER, INDEX, "demo_card_flux.md", out)


def main() -> None:
    args = parser(__doc__, "flux").parse_args()
    torch.set_num_threads(1)
    parts = without_projection(prepared(args))
    torch.manual_seed(args.seed)
    trainer = Trainer(build_transformer(), KIND, Plan(args.steps, args.falling), args.out)
    trainer.compile_blocks()
    average = trainer.run(parts.pool(args.out), Check(parts, KIND, args.out), args.check_every)
    ship(average, parts, args.parts / "tokenizer_3", args.ship_to)


if __name__ == "__main__":
    main()
