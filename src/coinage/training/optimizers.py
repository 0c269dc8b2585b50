"""Optimizers and learning-rate schedules over the trained rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from coinage.config import OptimConfig
from coinage.errors import ConfigError, Problem, did_you_mean

log = logging.getLogger("coinage")

# Their 8-bit or paged state saves nothing here: a word has a few thousand numbers, and
# bitsandbytes itself keeps tensors below 4096 values in 32 bit.
ADAMW_NAMES = ("adamw", "adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit")


def optimizer_names() -> list[str]:
    """Names of torch.optim's own optimizers."""
    return [
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and name not in {"Optimizer", "LBFGS", "SparseAdam"}
    ]


def choose_optimizer(config: OptimConfig) -> Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]:
    """What makes the optimizer over given rows, float32. Name and arguments are tried at once.

    Raises:
        ConfigError: an unknown name, or arguments that it does not take.
    """
    name = config.name
    if name.lower() in ADAMW_NAMES:
        if name.lower() != "adamw":
            log.info("%s: the trained rows are a few kilobytes, so plain AdamW with float32 state is used", name)
        name = "AdamW"
    known = optimizer_names()
    if name not in known:
        hint = did_you_mean(name, [*known, "AdamW8bit"]) or f"one of AdamW, AdamW8bit, {', '.join(known)}"
        raise ConfigError([Problem(f"--optimizer_type {config.name} is not known", hint=hint)])
    factory: Any = getattr(torch.optim, name)

    def make(rows: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = factory(list(rows), lr=config.learning_rate, **dict(config.arguments))
        return optimizer

    try:
        make([torch.nn.Parameter(torch.zeros(1, 1))])
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem(f"--optimizer_args do not fit {name}: {error}")]) from None
    return make


def warmup_steps(warmup: float, total: int) -> int:
    """Warm-up in optimizer steps; a value below 1 is a fraction of the run."""
    return int(warmup * total) if 0 < warmup < 1 else int(warmup)


def make_schedule(config: OptimConfig, optimizer: torch.optim.Optimizer, total: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule over `total` optimizer steps; the names are transformers' own."""
    from transformers import get_scheduler

    extra: dict[str, Any] = {}
    if config.schedule == "cosine_with_restarts":
        extra["num_cycles"] = config.cycles
    elif config.schedule == "polynomial":
        extra = {"power": config.power, "lr_end": min(1e-7, config.learning_rate / 10)}
    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        config.schedule,
        optimizer,
        num_warmup_steps=warmup_steps(config.warmup, total),
        num_training_steps=total,
        scheduler_specific_kwargs=extra,
    )
    return schedule
