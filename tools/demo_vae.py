"""Train the demo world's autoencoder from nothing."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coinage.demo.concepts import UNSEEN
from coinage.demo.world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, render


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene of the training world, every part drawn evenly; one object three times in four."""
    shape = str(rng.choice([s for s in SHAPES if s not in {c.name for c in UNSEEN}]))
    texture = "solid" if rng.random() < 0.3 else str(rng.choice(list(TEXTURES)))
    count = int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1]))
    return Scene(
        shape, str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS))), texture, count
    )


def pictures(count: int, seed: int) -> Tensor:
    """[count, 3, 64, 64] uint8."""
    rng = np.random.default_rng(seed)
    return torch.stack(
        [torch.from_numpy(render(random_scene(rng), rng)) for _ in range(count)]
    ).permute(0, 3, 1, 2)


def to_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def build_vae() -> AutoencoderKL:
    """A factor-4 autoencoder whose posterior starts nearly noiseless, so that signal wins from step 1."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )
    with torch.no_grad():
        weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
        weight[:4] *= 3
        weight[4:] *= 0.1
        bias[4:] = -5
    return vae


def loss_of(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """L1 + L2, objects weighted 6 times the flat background, and a light KL."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    different = ((x - x[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1).float()
    error = (y - x).abs() + (y - x).square()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return (error * (1 + 5 * different)).mean() + 1e-5 * kl


def train(steps: int, data: Tensor, seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    vae = build_vae()
    average = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: (
            min(1, (i + 1) / 100)
            * (1 if i < steps // 2 else 0.5 * (1 + math.cos(math.pi * (2 * i / steps - 1))))
        ),
    )
    start = time.time()
    for step in range(steps):
        loss = loss_of(vae, to_float(data[torch.randint(0, len(data), (8,))]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.update_parameters(vae)
        if step % 200 == 0:
            print(
                f"vae step {step}/{steps} loss {loss.item():.4f} {time.time() - start:.0f}s",
                flush=True,
            )
    vae.load_state_dict(average.module.state_dict())
    return vae.eval()


@torch.no_grad()
def psnr(vae: AutoencoderKL, x: Tensor) -> float:
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    return float(-10 * torch.log10(((y - x) / 2).square().mean()))


def train_vae(steps: int, seed: int, images: int = 16000) -> AutoencoderKL:
    """Train on fresh pictures, measure the latents' scale, print the quality on held-out ones."""
    vae = train(steps, pictures(images, seed), seed)
    held_out = to_float(pictures(200, seed + 1))
    with torch.no_grad():
        means = vae.encode(to_float(pictures(1000, seed + 2))).latent_dist.mode()
    vae.register_to_config(scaling_factor=round(1 / float(means.std()), 4))
    print(f"psnr {psnr(vae, held_out):.2f} dB, scaling factor {vae.config.scaling_factor}")
    return vae
