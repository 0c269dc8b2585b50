"""Name the tensors of Stable Diffusion 3.5 as single files do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from original_layout import vae_tensors


def sd3_tensors(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A whole single file, with T5 if it is there; CLIP-L's projection is no part of it."""
    tensors = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in _original_transformer(parts["transformer"]).items()
    }
    tensors |= dict(vae_tensors(parts["vae"]))
    for key, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        for name, tensor in parts[part].state_dict().items():
            if name != "text_projection.weight" or key == "clip_g":
                tensors[f"text_encoders.{key}.transformer.{name}"] = tensor
    if "text_encoder_3" in parts:
        tensors |= t5_tensors(parts["text_encoder_3"])
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def t5_tensors(encoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """T5's tensors; its table is there once."""
    for name, tensor in encoder.state_dict().items():
        if name != "encoder.embed_tokens.weight":
            yield f"text_encoders.t5xxl.transformer.{name}", tensor


ORIGINAL_PARTS = {
    "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
}  # fmt: skip
ORIGINAL_LAYERS = {
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj", "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1", "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}  # fmt: skip
JOINED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}


def _original_transformer(transformer: nn.Module) -> dict[str, Tensor]:
    state = transformer.state_dict()
    layers = len(transformer.transformer_blocks)  # type: ignore[arg-type]
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")
        if name in ORIGINAL_PARTS or part in ORIGINAL_PARTS:
            whole = ORIGINAL_PARTS.get(name) or f"{ORIGINAL_PARTS[part]}.{kind}"
            found[whole] = tensor
        elif part == "norm_out.linear":
            found[f"final_layer.adaLN_modulation.1.{kind}"] = _swapped(tensor)
    for index in range(layers):
        block, original = f"transformer_blocks.{index}", f"joint_blocks.{index}"
        for kind in ("weight", "bias"):
            for name, theirs in ORIGINAL_LAYERS.items():
                if f"{block}.{name}.{kind}" in state:
                    tensor = state[f"{block}.{name}.{kind}"]
                    last = name == "norm1_context.linear" and index == layers - 1
                    found[f"{original}.{theirs}.{kind}"] = _swapped(tensor) if last else tensor
            for theirs, names in JOINED.items():
                if f"{block}.{names[0]}.{kind}" in state:
                    tensors = [state[f"{block}.{name}.{kind}"] for name in names]
                    found[f"{original}.{theirs}.{kind}"] = torch.cat(tensors)
    return found


def _swapped(tensor: Tensor) -> Tensor:
    """Scale before shift, where diffusers has shift before scale, or the other way round."""
    first, second = tensor.chunk(2)
    return torch.cat([second, first])
