"""Train all demo worlds with one loop and one loss.

Text encoders and UNet learn together from captioned latents.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coinage.diffusion.schedule import DiffusionSchedule
from demo_captions import Heads, draw_captions

CAPTIONS_PER_STEP = 32
DRAWS_PER_CAPTION = 2  # timesteps and noises for each text encoding


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Rates rise over `warm_up` steps and fall to `floor` on a cosine over `annealed`.
    """

    steps: int
    annealed: int
    warm_up: int = 100
    floor: float = 0.02
    average: float = 0.998  # decay of the running average that ships


@dataclass(frozen=True)
class CaptionInputs:
    """What the UNet reads of a batch of captions, and the states [B, D] that the heads read.

    `added` holds tensors for `added_cond_kwargs`, or nothing.
    """

    hidden: Tensor
    end: Tensor
    added: dict[str, Tensor]


def diffusion_loss(
    unet: nn.Module,
    latents: Tensor,
    inputs: CaptionInputs,
    schedule: DiffusionSchedule,
    offset: float,
) -> Tensor:
    """Mean squared error, offset noise, and a v-like balance, without which backgrounds are not learned.

    Timesteps with little noise count less, as in Min-SNR (Hang et al. 2023, arXiv:2303.09556).
    """
    hidden, added = (
        _drawn(inputs.hidden),
        {name: _drawn(tensor) for name, tensor in inputs.added.items()},
    )
    x0 = _drawn(latents)
    t = torch.randint(0, schedule.num_timesteps, (len(x0),))
    noise = torch.randn_like(x0)
    if offset:
        noise = noise + offset * torch.randn(*x0.shape[:2], 1, 1)
    prediction = unet(
        schedule.add_noise(x0, noise, t), t, hidden, added_cond_kwargs=added or None
    ).sample
    snr = schedule.snr(t)
    weight = (5 / snr).clamp(max=1)
    if schedule.prediction_type == "epsilon":
        weight = weight * (1 + 1 / snr).clamp(max=12)
    return ((prediction - schedule.target(x0, noise, t)).square().mean((1, 2, 3)) * weight).mean()


def _drawn(tensor: Tensor) -> Tensor:
    return tensor.repeat(DRAWS_PER_CAPTION, *[1] * (tensor.ndim - 1))


def fit(
    live: nn.ModuleList,
    heads: Heads,
    rates: tuple[float, ...],
    read: Callable[[list[str], Tensor], CaptionInputs],
    latents: Tensor,
    scenes: list[Any],
    schedule: DiffusionSchedule,
    rng: np.random.Generator,
    out: Path,
    plan: Plan,
    offset: float = 0.15,
) -> nn.ModuleList:
    """Train `live`, whose last module is the UNet, and the heads, with a rate for each.

    Returns the running average.

    `read` turns captions and the numbers of their images into what the UNet reads.
    """
    average = copy.deepcopy(live).requires_grad_(False)
    groups = [
        {"params": list(module.parameters()), "lr": rate}
        for module, rate in zip((*live, heads), rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: (
            min(1, (i + 1) / plan.warm_up)
            * (plan.floor + (1 - plan.floor) * 0.5 * (1 + math.cos(math.pi * i / plan.annealed)))
        ),
    )
    start, smooth = time.time(), 0.0
    for step in range(plan.steps):
        chosen = torch.randint(0, len(scenes), (CAPTIONS_PER_STEP,))
        captions, known = draw_captions([scenes[i] for i in chosen.tolist()], rng)
        captions = ["" if rng.random() < 0.1 else caption for caption in captions]
        inputs = read(captions, chosen)
        spoken = torch.tensor([caption != "" for caption in captions])
        aux = heads.loss(
            inputs.end[spoken], [k for k, caption in zip(known, captions, strict=True) if caption]
        )
        loss = diffusion_loss(live[-1], latents[chosen], inputs, schedule, offset) + 0.02 * aux
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        decay = min(plan.average, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(live.parameters()), 1 - decay)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(
                f"step {step}/{plan.steps} loss {smooth:.4f} {time.time() - start:.0f}s", flush=True
            )
        if step % 200 == 199 or step == plan.steps - 1:
            out.mkdir(parents=True, exist_ok=True)
            torch.save(average.state_dict(), out / "average.tmp")
            (out / "average.tmp").replace(out / "average.pt")
    return average.eval()
