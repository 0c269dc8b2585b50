"""Write the single files that people have, from parts in diffusers' form.

The names of tensors become those of the original layout.

Written from the names in released checkpoints, independently of any converter, so that reading back
is a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_tensors(unet: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A UNet's tensors under `model.diffusion_model.`."""
    per_block = unet.config.layers_per_block + 1
    for name, tensor in unet.state_dict().items():
        place, rest = _unet_place(name, per_block, unet)
        if ".resnets." in name:
            part = rest.split(".")[0]
            rest = rest.replace(part, RESNET[part], 1)
        yield f"model.diffusion_model.{place}.{rest}", tensor


def _unet_place(name: str, per_block: int, unet: nn.Module) -> tuple[str, str]:
    for start, new in UNET_ENDS.items():
        if name.startswith(f"{start}."):
            return new, name[len(start) + 1 :]
    match = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    )
    assert match, name
    side, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * per_block}.0.op", rest.removeprefix("conv.")
    if kind == "upsamplers":
        has_attention = bool(getattr(unet.up_blocks[block], "attentions", None))
        return (
            f"output_blocks.{block * per_block + per_block - 1}.{2 if has_attention else 1}",
            rest,
        )
    index = 1 + block * per_block + layer if side == "down" else block * per_block + layer
    return (
        f"{'input' if side == 'down' else 'output'}_blocks.{index}.{0 if kind == 'resnets' else 1}",
        rest,
    )


def vae_tensors(vae: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A VAE's tensors under `first_stage_model.`; its attention as 1x1 convolutions."""
    last = len(vae.config.block_out_channels) - 1
    for name, tensor in vae.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace(
            "mid_block.resnets.1", "mid.block_2"
        )
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(
            r"up_blocks\.(\d+)\.resnets\.(\d+)",
            lambda m: f"up.{last - int(m[1])}.block.{m[2]}",
            new,
        )
        new = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", new
        )
        if "mid_block.attentions.0." in new:
            head, _, part = new.partition("mid_block.attentions.0.")
            kind, _, leaf = part.rpartition(".")
            new = f"{head}mid.attn_1.{VAE_ATTENTION[kind]}.{leaf}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor  # noqa: PLW2901
        yield f"first_stage_model.{new}", tensor


def clip_tensors(encoder: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Return a CLIP-L text encoder's tensors under transformers' names.

    They have the level that transformers 5 leaves out.
    """
    for name, tensor in encoder.state_dict().items():
        yield f"{prefix}{name if name.startswith('text_model.') else f'text_model.{name}'}", tensor


def open_clip_tensors(encoder: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """An OpenCLIP text encoder's tensors in OpenCLIP's names: fused q, k, v.

    The projection stored for x @ P.
    """
    state: Mapping[str, Tensor] = {
        name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()
    }
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    layer = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for name, tensor in state.items():
        if name in names:
            yield prefix + names[name], tensor
        elif name == "text_projection.weight":
            yield f"{prefix}text_projection", tensor.T.contiguous()
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            index, part, leaf = match.groups()
            start = f"{prefix}transformer.resblocks.{index}."
            if part in layer:
                yield f"{start}{layer[part]}.{leaf}", tensor
            elif part == "self_attn.q_proj":
                fused = [
                    state[f"encoder.layers.{index}.self_attn.{kind}_proj.{leaf}"] for kind in "qkv"
                ]
                yield f"{start}attn.in_proj_{leaf}", torch.cat(fused)
    yield f"{prefix}logit_scale", torch.tensor(4.6)


def original_tensors(family: str, parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A whole single file: UNet, VAE and text encoders of "sd1", "sd2" or "sdxl"."""
    tensors = dict(unet_tensors(parts["unet"])) | dict(vae_tensors(parts["vae"]))
    if family == "sd1":
        tensors |= clip_tensors(parts["text_encoder"], "cond_stage_model.transformer.")
    elif family == "sd2":
        tensors |= open_clip_tensors(parts["text_encoder"], "cond_stage_model.model.")
    else:
        tensors |= clip_tensors(parts["text_encoder"], "conditioner.embedders.0.transformer.")
        tensors |= open_clip_tensors(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
