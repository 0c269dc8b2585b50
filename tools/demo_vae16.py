"""Train the autoencoder of the flow-matching demo worlds: 16 channels and a shift, as SD 3's and FLUX.1's.

The first world's autoencoder is the start; only the layers next to the latents are new.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coinage.demo.worlds import MODELS
from demo_vae import pictures, psnr, to_float

CHANNELS = 16
LOG_VARIANCE = -8.0  # of the posterior, which is nearly noiseless
MOST_NOISE = 0.6  # in standard deviations of the latents


def build_vae(x: Tensor) -> AutoencoderKL:
    """The first world's autoencoder with 16 channels and, as in the real ones, no quant convolutions.

    It draws as the first one does from the start: 4 channels are the old ones, and the other 12,
    which its decoder ignores, are what else varies most in the encoder's last features for `x`.
    """
    old = AutoencoderKL.from_pretrained(MODELS / "sd1" / "vae", torch_dtype=torch.float32)
    settings = {k: v for k, v in old.config.items() if not k.startswith("_")}
    settings |= {
        "latent_channels": CHANNELS,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": 0.0,
    }
    vae = AutoencoderKL(**settings)
    new = vae.state_dict()
    same = {k: v for k, v in old.state_dict().items() if k in new and v.shape == new[k].shape}
    vae.load_state_dict(same, strict=False)
    with torch.no_grad():
        join_old_ends(vae, old, x)
    return vae


def join_old_ends(vae: AutoencoderKL, old: AutoencoderKL, x: Tensor) -> None:
    """Set the layers next to the latents, from those of the 4-channel autoencoder, in place."""
    seen: list[Tensor] = []
    handle = old.encoder.conv_act.register_forward_hook(lambda *given: seen.append(given[2]))
    means = old.encode(x).latent_dist.mode()
    handle.remove()
    middle, spread = means.mean((0, 2, 3)), means.std((0, 2, 3))
    directions = other_directions(seen[0], means)
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    last.weight.zero_()
    last.bias.zero_()
    last.bias[CHANNELS:].fill_(LOG_VARIANCE)
    quant, out = old.quant_conv, old.encoder.conv_out
    kernel = torch.einsum("ab,bcij->acij", quant.weight[:4, :, 0, 0], out.weight)
    bias = quant.weight[:4, :, 0, 0] @ out.bias + quant.bias[:4]
    last.weight[:4] = kernel / spread[:, None, None, None]
    last.bias[:4] = (bias - middle) / spread
    last.weight[4:CHANNELS, :, 1, 1] = directions
    last.bias[4:CHANNELS] = -directions @ seen[0].mean((0, 2, 3))
    post, into = old.post_quant_conv, old.decoder.conv_in
    kernel = torch.einsum("abij,bc->acij", into.weight, post.weight[:, :, 0, 0])
    first.weight[:, 4:].zero_()
    first.weight[:, :4] = kernel * spread[:, None, None]
    given = post.bias + post.weight[:, :, 0, 0] @ middle
    first.bias.copy_(into.bias + torch.einsum("abij,b->a", into.weight, given))


def other_directions(features: Tensor, means: Tensor) -> Tensor:
    """[12, C]: principal directions of features [B, C, H, W] that the latents do not tell already.

    Along each the features have unit variance.
    """
    rows = features.movedim(1, -1).flatten(0, 2)
    told = means.movedim(1, -1).flatten(0, 2)
    rows, told = rows - rows.mean(0), told - told.mean(0)
    rest = rows - told @ torch.linalg.lstsq(told, rows).solution
    _, _, axes = torch.linalg.svd(rest, full_matrices=False)
    axes = axes[: CHANNELS - 4]
    return axes / (rows @ axes.T).std(0)[:, None]


def loss_of(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """L1 + L2, objects weighted 6 times the flat background, from latents with noise added.

    A flow model's latents are never exact, and a decoder that has only seen exact ones draws
    ragged outlines from them. The noise is relative to the latents' own spread, so that the encoder
    gains nothing by larger ones.
    """
    latents = vae.encode(x).latent_dist.mode()
    level = MOST_NOISE * torch.rand(len(x), 1, 1, 1) * (torch.rand(len(x), 1, 1, 1) < 0.75)
    y = vae.decode(latents + level * latents.std() * torch.randn_like(latents)).sample
    different = ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1).float()
    error = (y - x).abs() + (y - x).square()
    return (error * (1 + 5 * different)).mean() + 1e-5 * latents.square().mean()


def train(vae: AutoencoderKL, steps: int, data: Tensor) -> AutoencoderKL:
    """Train in place; the running average of the weights is what it becomes."""
    average = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98)
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1, (i + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * i / steps))),
    )
    start = time.process_time()
    for step in range(steps):
        loss = loss_of(vae, to_float(data[torch.randint(0, len(data), (8,))]))
        loss.backward()
        vae.encoder.conv_out.weight.grad[CHANNELS:] = 0
        vae.encoder.conv_out.bias.grad[CHANNELS:] = 0
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        average.update_parameters(vae)
        if step % 50 == 0:
            spent = time.process_time() - start
            print(f"vae {step}/{steps} loss {loss.item():.4f} {spent:.0f} CPU s", flush=True)
    vae.load_state_dict(average.module.state_dict())
    return vae.eval()


def train_vae(steps: int, seed: int, images: int = 4000) -> AutoencoderKL:
    """Train on fresh pictures, measure the latents' middle and spread, print the quality."""
    torch.manual_seed(seed)
    data = pictures(images, seed)
    vae = train(build_vae(to_float(data[:300])), steps, data)
    with torch.no_grad():
        latents = [
            vae.encode(batch).latent_dist.mode()
            for batch in to_float(pictures(1000, seed + 2)).split(50)
        ]
    means = torch.cat(latents)
    vae.register_to_config(
        scaling_factor=round(1 / float(means.std()), 4), shift_factor=round(float(means.mean()), 4)
    )
    print(
        f"psnr {np.mean([psnr(vae, x) for x in to_float(pictures(200, seed + 1)).split(50)]):.2f} dB"
    )
    print(f"scaling {vae.config.scaling_factor}, shift {vae.config.shift_factor}", flush=True)
    return vae
