"""The original layout of FLUX.1's transformer: its names, and the settings that its shapes show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from coinage.errors import CoinageError

Shapes = Mapping[str, tuple[int, ...]]
INPUT = "img_in.weight"
READS_GUIDANCE = "guidance_in.in_layer.weight"
DOUBLE, SINGLE = "double_blocks", "single_blocks"
# Of the rotary embedding, for heads that are 128 wide: an eighth for what all tokens share, which is
# 0, and the rest for rows and columns
SHARED_PART = 8
# Names there and in diffusers, without `.weight` and `.bias`
PARTS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
}
OF_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
OF_SINGLE = {
    "modulation.lin": "norm.linear",
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
# Layers side by side in one: all as wide as the transformer, but for the last one of `linear1`
JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}
SWAPPED = "final_layer.adaLN_modulation.1", "norm_out.linear"  # shift and scale change places


def converted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under diffusers' names; parts of joined ones share their memory.

    What diffusers does not have is left out.

    Args:
        tensors: by their names without prefix.
    """
    found: dict[str, Tensor] = {}
    width = len(tensors[INPUT])
    for name, tensor in tensors.items():
        found.update(_renamed(name, tensor, width))
    return found


def _renamed(name: str, tensor: Tensor, width: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in one of the original layout; `width` is the transformer's."""
    part, _, kind = name.rpartition(".")
    kind = (
        "weight" if kind == "scale" else kind
    )  # of norms, which some files name as diffusers does
    if part in PARTS:
        yield f"{PARTS[part]}.{kind}", tensor
    if part == SWAPPED[0]:
        shift, scale = tensor.chunk(2)
        yield f"{SWAPPED[1]}.{kind}", torch.cat([scale, shift])
    start, _, rest = part.partition(".")
    number, _, layer = rest.partition(".")
    if start not in (DOUBLE, SINGLE):
        return
    block = f"{'single_' if start == SINGLE else ''}transformer_blocks.{number}"
    names = OF_SINGLE if start == SINGLE else OF_DOUBLE
    if layer in names:
        yield f"{block}.{names[layer]}.{kind}", tensor
    if layer in JOINED:
        parts = JOINED[layer]
        first = [width] * (len(parts) - 1)
        pieces = tensor.split([*first, len(tensor) - sum(first)])
        for theirs, piece in zip(parts, pieces, strict=True):
            yield f"{block}.{theirs}.{kind}", piece


def settings_of(shapes: Shapes) -> dict[str, Any]:
    """Return the settings of a transformer, as the shapes of its tensors show.

    Args:
        shapes: of the tensors, by their names without prefix.

    Raises:
        CoinageError: a tensor is missing.
    """
    norms = [f"{DOUBLE}.0.img_attn.norm.query_norm.{kind}" for kind in ("scale", "weight")]
    try:
        width, channels = shapes[INPUT]
        _, text_width = shapes["txt_in.weight"]
        _, pooled = shapes["vector_in.in_layer.weight"]
        numbers, _ = shapes["final_layer.linear.weight"]
        (head,) = shapes[next((name for name in norms if name in shapes), norms[0])]
    except (KeyError, ValueError) as error:
        what = f"the transformer lacks weights, or they have another shape: {error}"
        raise CoinageError(what, hint="download the model again") from None
    shared = head // SHARED_PART
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": numbers,
        "num_layers": _blocks(shapes, DOUBLE),
        "num_single_layers": _blocks(shapes, SINGLE),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": text_width,
        "pooled_projection_dim": pooled,
        "guidance_embeds": READS_GUIDANCE in shapes,
        "axes_dims_rope": (shared, (head - shared) // 2, (head - shared) // 2),
    }


def _blocks(shapes: Shapes, kind: str) -> int:
    """Return how many blocks of a kind there are."""
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{kind}.")})
