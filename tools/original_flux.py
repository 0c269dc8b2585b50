"""Name the tensors of FLUX.1 as whole single files for ComfyUI do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from original_layout import vae_tensors
from original_sd3 import t5_tensors

PARTS = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
}  # fmt: skip
DOUBLE = {
    "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
}  # fmt: skip
SINGLE = {
    "norm.linear": "modulation.lin", "proj_out": "linear2", "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}  # fmt: skip
JOINED = {
    "double_blocks": {
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "single_blocks": {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
}
KINDS = {
    "double_blocks": ("transformer_blocks", DOUBLE),
    "single_blocks": ("single_transformer_blocks", SINGLE),
}


def flux_tensors(
    parts: Mapping[str, nn.Module],
    *,
    prefix: str = "model.diffusion_model.",
    vae: str = "vae.",
    scale: str = "scale",
) -> dict[str, Tensor]:
    """A whole single file.

    Args:
        parts: of the model.
        prefix: of the transformer's names.
        vae: prefix of the VAE's.
        scale: what weights of norms are called; newer files say `weight`.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in original_transformer(parts["transformer"], scale).items():
        tensors[f"{prefix}{name}"] = tensor
    for name, tensor in vae_tensors(parts["vae"]):
        tensors[name.replace("first_stage_model.", vae)] = tensor
    clip = "text_encoders.clip_l.transformer"
    for name, tensor in parts["text_encoder"].state_dict().items():
        tensors[f"{clip}.text_model.{name.removeprefix('text_model.')}"] = tensor
    tensors[f"{clip}.text_projection.weight"] = torch.eye(
        parts["text_encoder"].config.hidden_size
    )  # unread
    tensors["text_encoders.clip_l.logit_scale"] = torch.tensor(4.6)
    tensors |= t5_tensors(parts["text_encoder_2"])
    tensors["text_encoders.t5xxl.logit_scale"] = torch.tensor(4.6)
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def original_transformer(transformer: nn.Module, scale: str) -> dict[str, Tensor]:
    """A transformer's tensors under the names of the original code."""
    state = transformer.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")
        if part in PARTS:
            found[f"{PARTS[part]}.{kind}"] = tensor
        elif part == "norm_out.linear":
            first, second = tensor.chunk(2)
            found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([second, first])
        for theirs, (ours, names) in KINDS.items():
            if not part.startswith(f"{ours}."):
                continue
            _, number, layer = part.split(".", 2)
            if layer in names:
                kind = scale if "_norm" in names[layer] else kind
                found[f"{theirs}.{number}.{names[layer]}.{kind}"] = tensor
            for joined, layers in JOINED[theirs].items():
                if layer == layers[0]:
                    pieces = [state[f"{ours}.{number}.{each}.{kind}"] for each in layers]
                    found[f"{theirs}.{number}.{joined}.{kind}"] = torch.cat(pieces)
    return found
