"""Optimizers and learning-rate schedules over the trained rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from coinage.config import OptimConfig
from coinage.errors import ConfigError, Problem, did_you_mean
from coinage.optimizer_table import find_optimizer

log = logging.getLogger("coinage")
Optimizer = torch.optim.Optimizer


def optimizer_names() -> list[str]:
    """Names of torch.optim's own optimizers."""
    return [
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and name not in {"Optimizer", "LBFGS", "SparseAdam"}
    ]


def choose_optimizer(config: OptimConfig) -> Callable[[Sequence[torch.nn.Parameter]], Optimizer]:
    """What makes the optimizer over given rows, float32. Name and arguments are tried at once.

    Raises:
        ConfigError: an unknown name, or arguments that it does not take.
    """
    entry = find_optimizer(config.name)
    module, _, name = entry.path.rpartition(".")
    factory = _import(module, name)
    if not (isinstance(factory, type) and issubclass(factory, Optimizer)) or (module == "torch.optim" and name not in optimizer_names()):
        known = ["Directional", "AdamW8bit", "AdaFactor", "Prodigy", "Lion", *optimizer_names()]
        hint = did_you_mean(config.name, known) or f"one of {', '.join(known)}, or module.Class"
        raise ConfigError([Problem(f"--optimizer_type {config.name} is no optimizer", hint=hint)])
    arguments: dict[str, Any] = {**dict(entry.defaults), **dict(config.arguments)}
    arguments.setdefault("lr", None if config.relative_step else config.learning_rate)

    def make(rows: Sequence[torch.nn.Parameter]) -> Optimizer:
        made: Any = factory(list(rows), **arguments)
        if hasattr(made, "eval"):  # schedule-free
            made.train()
        return cast(Optimizer, made)

    try:
        make([torch.nn.Parameter(torch.zeros(1, 1))])
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError([Problem(f"--optimizer_args do not fit {config.name}: {error}")]) from None
    return make


def tell_of_optimizer(config: OptimConfig) -> None:
    """Say what is not as the name and the rate may be meant."""
    entry = find_optimizer(config.name)
    name = entry.path.rpartition(".")[2]
    if entry.plainer:
        log.info("%s: the trained rows are a few kilobytes, so plain %s with float32 state is used", config.name, name)
    if ("dadapt" in name.lower() or "prodigy" in name.lower()) and config.learning_rate <= 0.1:
        log.warning("--learning_rate %g multiplies the rate that %s finds by itself: 1.0 is meant", config.learning_rate, name)


def _import(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None


@contextmanager
def averaged(optimizer: Optimizer, rows: Sequence[Tensor]) -> Iterator[None]:
    """Have the rows hold what is to be saved and looked at.

    A schedule-free optimizer (Defazio et al. 2024, arXiv:2405.15682) trains at one point and answers with another. The
    rows come back to the bit, so that looking changes nothing.
    """
    switch: Any = optimizer
    if not hasattr(switch, "eval"):
        yield
        return
    kept = [row.detach().clone() for row in rows]
    switch.eval()
    try:
        yield
    finally:
        switch.train()
        with torch.no_grad():
            for row, values in zip(rows, kept, strict=True):
                row.copy_(values)


def steps_of(count: float, total: int) -> int:
    """A number of optimizer steps; a value below 1 is a fraction of the run."""
    return int(count * total) if 0 < count < 1 else int(count)


def make_schedule(config: OptimConfig, optimizer: Optimizer, total: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule over `total` optimizer steps, whatever the number of processes.

    Raises:
        ConfigError: a schedule or its arguments do not fit.
    """
    from diffusers.optimization import get_piecewise_constant_schedule
    from transformers.optimization import AdafactorSchedule, get_scheduler

    name, arguments = config.schedule, dict(config.schedule_arguments)
    schedule: torch.optim.lr_scheduler.LRScheduler
    try:
        if config.schedule_class:
            module, _, kind = config.schedule_class.rpartition(".")
            schedule = _import(module or "torch.optim.lr_scheduler", kind)(optimizer, **arguments)
        elif config.relative_step:
            schedule = AdafactorSchedule(optimizer, config.learning_rate)
        elif hasattr(optimizer, "eval"):
            if name != "constant":
                log.info("--lr_scheduler %s has no effect: a schedule-free optimizer needs none", name)
            schedule = get_scheduler("constant", optimizer)
        elif name == "piecewise_constant":
            schedule = get_piecewise_constant_schedule(optimizer, **arguments)
        else:
            warmup = steps_of(config.warmup, total)
            extra = {**_schedule_arguments(config, total), **arguments}
            schedule = get_scheduler(name, optimizer, warmup, total, extra)
    except (TypeError, ValueError, KeyError) as error:
        what = config.schedule_class or name
        raise ConfigError([Problem(f"--lr_scheduler_args do not fit {what}: {error}")]) from None
    return schedule


def _schedule_arguments(config: OptimConfig, total: int) -> Mapping[str, Any]:
    """What the flags of schedules mean in transformers' terms."""
    floor = {"min_lr_rate": config.min_rate} if config.min_rate is not None else {}
    named: dict[str, Mapping[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": config.cycles},
        "polynomial": {"power": config.power, "lr_end": min(1e-7, config.learning_rate / 10)},
        "cosine_with_min_lr": {"num_cycles": config.cycles / 2, **floor},
        "cosine_warmup_with_min_lr": {"num_cycles": config.cycles / 2, **floor},
        "inverse_sqrt": {"timescale": config.timescale},
        "warmup_stable_decay": {
            "num_decay_steps": steps_of(config.decay, total),
            "num_cycles": config.cycles / 2,
            "min_lr_ratio": config.min_rate or 0.0,
        },
    }
    return named.get(config.schedule, {})
