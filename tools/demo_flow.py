"""Train a flow-matching demo world's transformer on latents and text states that were made before.

A picture x0 and noise e are mixed as (1 - s) x0 + s e, and the transformer learns e - x0 (rectified
flow; Esser et al. 2024, arXiv:2403.03206). It computes in bfloat16 where
that is fast; the weights are float32.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from demo_flow_attention import FAST
from demo_flow_texts import States
from demo_muon import Muon

LEFT_ZERO = 0.35  # of the captions that an encoder does not read: zeros stand for them, else ""
# Shapes are decided at noise levels above 0.8: from pictures with less, even a model that draws no
# shape right from pure noise restores nearly all. The decoder bears what little noise is left. Only
# near pure noise nothing but the words tells a shape.
ALMOST_NOISE, LEAST_ALMOST = 0.5, 0.9
SHIFT = 3.0  # as the sampler shifts
PADDINGS = (0.0, 0.2, 1.0, 1.0, 1.0, 2.0)  # of T5, in lengths of 256 tokens: each step draws one


@dataclass(frozen=True)
class Kind:
    """What tells one kind of model from another.

    `predict` returns the velocity for latents [B, C, H, W] at noise levels [B]; `schedule` a sampler
    for so many steps; `read_by` how often which encoders read a caption; `attention` a fast
    processor; `weights` what its tokens weigh with so much of T5's padding.
    """

    predict: Callable[[nn.Module, Tensor, Tensor, States], Tensor]
    schedule: Callable[[int], FlowMatchEulerDiscreteScheduler]
    read_by: dict[tuple[int, int, int], float]
    attention: Callable[[Tensor], Any]
    weights: Callable[[float], Tensor]


@dataclass(frozen=True)
class Plan:
    """How long, how fast, and how large a batch.

    Rates rise over `warm_up` steps and fall to nothing over the last `falling` of them.
    """

    steps: int
    falling: int
    captions: int = 64
    matrix_rate: float = 4e-3
    rate: float = 2e-3
    warm_up: int = 50
    average: float = 0.998

    def share(self, step: int) -> float:
        return min(1.0, (step + 1) / self.warm_up, (self.steps - step) / max(1, self.falling))


@dataclass(frozen=True)
class Pool:
    """Latents [N, C, H, W], and the states of their captions; those of "" stand last."""

    latents: Tensor
    states: States


def choose_states(
    pool: Pool, pictures: Tensor, read_by: dict[tuple[int, int, int], float]
) -> States:
    """States of a caption of each picture, as the encoders that `read_by` chooses see it."""
    count = len(pictures)
    weights = torch.tensor(list(read_by.values()))
    masks = torch.tensor(list(read_by))[torch.multinomial(weights, count, replacement=True)]
    zero = torch.rand(count) < LEFT_ZERO
    out = []
    for part, reader in zip(pool.states.parts(), (0, 1, 2, 0, 1), strict=True):
        read = masks[:, reader].bool()
        kept = part[torch.where(read, pictures, len(part) - 1)].to(FAST)
        kept[~read & zero] = 0
        out.append(kept)
    return States((out[0], out[1], out[2]), (out[3], out[4]))


def draw_noise_levels(count: int) -> Tensor:
    """[count] in 0..1: logit-normal and shifted, or almost 1."""
    levels = torch.sigmoid(torch.randn(count))
    shifted = SHIFT * levels / (1 + (SHIFT - 1) * levels)
    high = LEAST_ALMOST + (1 - LEAST_ALMOST) * torch.rand(count)
    return torch.where(torch.rand(count) < ALMOST_NOISE, high, shifted)


def velocity_loss(model: nn.Module, kind: Kind, latents: Tensor, states: States) -> Tensor:
    """Mean squared error of the velocity."""
    x0 = latents.float()
    s = draw_noise_levels(len(x0))
    noise = torch.randn_like(x0)
    at = s[:, None, None, None]
    mixed = ((1 - at) * x0 + at * noise).to(FAST)
    return (kind.predict(model, mixed, s, states).float() - (noise - x0)).square().mean()


def optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for all else."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inner = "transformer_blocks" in name and parameter.ndim == 2 and "norm" not in name
        (matrices if inner else rest).append(parameter)
    muon = Muon(matrices, lr=plan.matrix_rate, weight_decay=0.01)
    return [muon, torch.optim.AdamW(rest, lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.0)]


class Trainer:
    """A transformer that learns, its running average, and a checkpoint to go on from."""

    def __init__(self, model: nn.Module, kind: Kind, plan: Plan, out: Path) -> None:
        self.live, self.kind, self.plan, self.out = model, kind, plan, out
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.half = copy.deepcopy(model).to(FAST)  # what computes
        self.weights = kind.weights(1.0)
        self.half.set_attn_processor(kind.attention(self.weights))
        self.optimizers = optimizers(model, plan)
        self.rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.step, self.spent, self.smooth, self.loss = 0, 0.0, float("nan"), float("nan")
        if (out / "state.pt").is_file():
            self.load()
        self._copy_weights()

    def compile_blocks(self) -> None:
        """Compile what computes, where there is a C++ compiler; about twice as fast."""
        if shutil.which("g++"):
            for name in ("transformer_blocks", "single_transformer_blocks"):
                for block in getattr(self.half, name, []):
                    block.compile(dynamic=False)

    def _copy_weights(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(list(self.half.parameters()), list(self.live.parameters()))

    def take_step(self, pool: Pool) -> None:
        plan, start = self.plan, time.process_time()
        pictures = torch.randint(0, len(pool.latents), (plan.captions,))
        padding = PADDINGS[int(torch.randint(0, len(PADDINGS), ()))]
        self.weights.copy_(self.kind.weights(padding))
        states = choose_states(pool, pictures, self.kind.read_by)
        loss = velocity_loss(self.half, self.kind, pool.latents[pictures], states)
        loss.backward()
        for parameter, half in zip(self.live.parameters(), self.half.parameters(), strict=True):
            parameter.grad = None if half.grad is None else half.grad.float()
            half.grad = None
        nn.utils.clip_grad_norm_(self.live.parameters(), 1.0)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * plan.share(self.step)
            optimizer.step()
        self._copy_weights()
        decay = min(plan.average, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.live.parameters()), 1 - decay
        )
        value = self.loss = loss.item()
        self.smooth = value if np.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * value
        self.step += 1
        self.spent += time.process_time() - start

    def run(self, pool: Pool, measure: Callable[[nn.Module], str], every: int) -> nn.Module:
        """Train to the plan's end; returns the running average."""
        while self.step < self.plan.steps:
            self.take_step(pool)
            ended = self.step == self.plan.steps
            if self.step % 50 == 0 or ended:
                self._say(f"loss {self.smooth:.4f}")
            if self.step % 100 == 0 or ended:
                self.save()
            if self.step % every == 0 or ended:
                self._say(measure(self.average))
        return self.average

    def _say(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} step {self.step} {self.spent:.0f} CPU s {text}"
        print(line, flush=True)

    def save(self) -> None:
        content = {
            "live": self.live.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "at": (self.step, self.spent, self.smooth),
            "random": torch.get_rng_state(),
        }
        torch.save(content, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")

    def load(self) -> None:
        content = torch.load(self.out / "state.pt", weights_only=True)
        self.live.load_state_dict(content["live"])
        self.average.load_state_dict(content["average"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.spent, self.smooth = content["at"]
        torch.set_rng_state(content["random"])
