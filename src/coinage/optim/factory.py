"""Optimizers and learning-rate schedules over the trained rows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, AdafactorSchedule, get_scheduler

from coinage.config import OptimConfig
from coinage.errors import ConfigError, Problem, did_you_mean, reason_of
from coinage.optim.arguments import argument_problems
from coinage.optim.class_paths import import_class
from coinage.optim.table import (
    ARGUMENTS,
    KNOWN,
    class_problems,
    find_optimizer,
    optimizer_problems,
    schedule_path,
)

Optimizer = torch.optim.Optimizer


def choose_optimizer(config: OptimConfig) -> Callable[[Sequence[torch.nn.Parameter]], Optimizer]:
    """Return what makes the optimizer over given rows, float32; its arguments are checked at once.

    Raises:
        ConfigError: not an optimizer, or arguments that it does not take; what is returned raises it too.
    """
    entry = find_optimizer(config.name)
    factory = _optimizer_class(config.name)
    first, *_ = [*inspect.signature(factory).parameters, "params"]
    problems = argument_problems(
        "--optimizer_args", config.name, factory, dict(config.arguments), (first, "self")
    )
    problems += [
        problem for pair in config.arguments if (problem := _range_problem(config.name, *pair))
    ]
    for rate in (value for key, value in config.arguments if key == "lr"):
        problems = [
            Problem(
                f"--optimizer_args lr={rate}: the rate has a flag of its own",
                hint=f"--learning_rate {rate}",
            ),
            *problems,
        ]
    if problems:
        raise ConfigError(problems)
    arguments: dict[str, Any] = {**dict(entry.defaults), **dict(config.arguments)}
    arguments["lr"] = None if config.relative_step else config.learning_rate

    def make(rows: Sequence[torch.nn.Parameter]) -> Optimizer:
        try:
            made: Any = factory(list(rows), **arguments)
        except Exception as error:
            what = f"--optimizer_args do not fit {config.name}"
            what = what if config.arguments else f"--optimizer_type {config.name} cannot be used"
            raise ConfigError([Problem(f"{what}: {reason_of(error)}")]) from error
        if hasattr(made, "eval"):  # schedule-free
            made.train()
        return cast(Optimizer, made)

    return make


def _optimizer_class(name: str) -> Any:
    """The class that a name stands for.

    Raises:
        ConfigError: there is none, or its module fails.
    """
    problems = optimizer_problems(name)
    if problems:
        raise ConfigError(problems)
    found = _imported("--optimizer_type", name, find_optimizer(name).path)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        hint = (
            did_you_mean(name, KNOWN)
            or "a class of torch.optim, or another one that is made like these"
        )
        raise ConfigError([Problem(f"--optimizer_type {name} is not an optimizer", hint=hint)])
    return found


def _imported(flag: str, name: str, path: str) -> Any:
    try:
        return import_class(path)
    except Exception as error:  # whatever the module's own code raises
        raise ConfigError(
            [Problem(f"{flag} {name} cannot be imported: {reason_of(error)}")]
        ) from error


def _range_problem(name: str, key: str, value: object) -> Problem | None:
    """That an argument is out of a range which the optimizer itself does not ask for."""
    least, above = ARGUMENTS.get(key, (-math.inf, False))
    if not isinstance(value, int | float) or not value <= least or (value == least and not above):
        return None
    wanted = f"{'above' if above else 'at least'} {least:g}"
    return Problem(f"--optimizer_args do not fit {name}: {key}={value!r}, and it must be {wanted}")


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


def make_schedule(config: OptimConfig, optimizer: Optimizer, total: int) -> LRScheduler:
    """Return the learning-rate schedule over `total` optimizer steps, whatever the number of processes.

    Raises:
        ConfigError: a schedule or its arguments do not fit.
    """
    problems = schedule_argument_problems(config, optimizer, total)
    if problems:
        raise ConfigError(problems)
    arguments = dict(config.schedule_arguments)
    try:
        if config.schedule_class:
            made = _schedule_class(config.schedule_class)(optimizer, **arguments)
        elif config.relative_step:
            made = AdafactorSchedule(optimizer, config.learning_rate)
        elif not takes_schedule(config, optimizer):
            made = get_scheduler("constant", optimizer)
        elif config.schedule == "piecewise_constant":
            made = _function(config.schedule)(optimizer, **arguments)
        else:
            extra = {**_schedule_arguments(config, total), **arguments}
            made = get_scheduler(
                config.schedule, optimizer, steps_of(config.warmup, total), total, extra
            )
    except ConfigError:
        raise
    except Exception as error:
        what = f"--lr_scheduler_args do not fit {config.schedule_class or config.schedule}"
        raise ConfigError([Problem(f"{what}: {reason_of(error)}")]) from error
    if not isinstance(made, LRScheduler):
        raise _no_schedule(config.schedule_class)
    return made


def _no_schedule(name: str) -> ConfigError:
    hint = "a class of torch.optim.lr_scheduler, or another one that is made like these"
    return ConfigError(
        [Problem(f"--lr_scheduler_type {name} is not a learning-rate schedule", hint=hint)]
    )


def takes_schedule(config: OptimConfig, optimizer: Optimizer) -> bool:
    """Return whether `--lr_scheduler` acts: not on an Adafactor that finds its own rate, nor schedule-free."""
    return not (config.relative_step or hasattr(optimizer, "eval"))


def schedule_argument_problems(
    config: OptimConfig, optimizer: Optimizer, total: int
) -> list[Problem]:
    """Find arguments that the schedule does not take; none are judged where the optimizer has no schedule."""
    name, given = config.schedule_class or config.schedule, dict(config.schedule_arguments)
    if config.schedule_class:
        ours, taker = ["optimizer", "self"], _schedule_class(config.schedule_class)
        return argument_problems("--lr_scheduler_args", name, taker, given, ours)
    if not takes_schedule(config, optimizer):
        return []
    if name in ("constant", "constant_with_warmup"):  # transformers drops all arguments of these
        return argument_problems("--lr_scheduler_args", name, lambda: None, given, ())
    filled = [key for key in _schedule_arguments(config, total) if key not in given]
    ours = ["optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", *filled]
    if "with_min_lr" in name and not {"min_lr", "min_lr_rate"} & {*filled, *given}:
        return [
            Problem(
                f"--lr_scheduler {name} needs the lowest rate",
                hint="add --lr_scheduler_min_lr_ratio 0.1, a tenth of the rate",
            )
        ]
    return argument_problems("--lr_scheduler_args", name, _function(name), given, ours)


def _function(name: str) -> Callable[..., Any]:
    """The function of transformers or diffusers that makes a schedule."""
    if name == "piecewise_constant":
        from diffusers.optimization import get_piecewise_constant_schedule

        return cast("Callable[..., Any]", get_piecewise_constant_schedule)
    by_name = {str(key.value): function for key, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    return cast("Callable[..., Any]", by_name[name])


def _schedule_class(name: str) -> Callable[..., Any]:
    """What `--lr_scheduler_type` names: a class, or a function that takes an optimizer.

    Raises:
        ConfigError: neither, or its module fails.
    """
    problems = class_problems(name)
    if problems:
        raise ConfigError(problems)
    found = _imported("--lr_scheduler_type", name, schedule_path(name))
    is_function = inspect.isfunction(found) and [*inspect.signature(found).parameters][:1] == [
        "optimizer"
    ]
    if is_function or (isinstance(found, type) and issubclass(found, LRScheduler)):
        return cast("Callable[..., Any]", found)
    raise _no_schedule(name)


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
