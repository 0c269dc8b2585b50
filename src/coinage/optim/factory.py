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
from coinage.errors import (
    CoinageError,
    ConfigError,
    Problem,
    described,
    did_you_mean,
    full_name,
    reason_of,
)
from coinage.optim.arguments import argument_problems
from coinage.optim.class_paths import import_class
from coinage.optim.table import (
    ARGUMENT_RANGES,
    OFFERED_OPTIMIZERS,
    class_problems,
    find_optimizer,
    optimizer_problems,
    schedule_path,
)
from coinage.system.full_memory import is_full

Optimizer = torch.optim.Optimizer
RATE_SCALE = "rate_scale"  # of a group of parameters: its rate over the configured one
# Makes an optimizer over the rows of a word, float32
OptimizerFactory = Callable[[list[torch.nn.Parameter]], Optimizer]


def choose_optimizer(config: OptimConfig) -> Callable[[list[Any]], Optimizer]:
    """Return a function that makes the configured optimizer; the arguments are checked at once.

    It takes parameters, or groups of them as torch's optimizers do.

    Raises:
        ConfigError: not an optimizer, or arguments that it does not take. The function raises it too.
    """
    entry = find_optimizer(config.name)
    optimizer_class = _optimizer_class(config.name)
    problems = _optimizer_argument_problems(config, optimizer_class)
    if problems:
        raise ConfigError(problems)
    arguments: dict[str, Any] = {**dict(entry.defaults), **dict(config.arguments)}
    arguments["lr"] = None if config.relative_step else config.learning_rate

    def make(rows: list[Any]) -> Optimizer:
        try:
            made: Any = optimizer_class(rows, **arguments)
        except Exception as error:
            what = f"--optimizer_type {config.name} cannot be used"
            if config.arguments:
                what = f"--optimizer_args do not fit {config.name}"
            raise ConfigError([Problem(f"{what}: {reason_of(error)}")]) from error
        if hasattr(made, "eval"):  # schedule-free
            made.train()
        return cast(Optimizer, made)

    return make


def _optimizer_argument_problems(config: OptimConfig, optimizer_class: Any) -> list[Problem]:
    """Find arguments that the optimizer does not take, or that have a flag of their own."""
    problems = []
    for key, value in config.arguments:
        if key == "lr":
            what = f"--optimizer_args lr={value}: the rate has a flag of its own"
            problems.append(Problem(what, hint=f"--learning_rate {value}"))
    parameters, *_ = [*inspect.signature(optimizer_class).parameters, "params"]
    filled_in = (parameters, "self")
    problems += argument_problems(
        "--optimizer_args", config.name, optimizer_class, dict(config.arguments), filled_in
    )
    for key, value in config.arguments:
        if problem := _range_problem(config.name, key, value):
            problems.append(problem)
    return problems


def call_factory(factory: OptimizerFactory, rows: list[torch.nn.Parameter]) -> Optimizer:
    """Return the optimizer that a user's function makes of the rows.

    Raises:
        ConfigError: it fails, or returns something else than an optimizer of these rows.
    """
    hint = "it is called with the list of trained parameters, and returns a torch optimizer of them"
    name = full_name(factory)
    try:
        made: object = factory(list(rows))
    except Exception as error:
        if isinstance(error, CoinageError) or is_full(error):
            raise
        what = f"the optimizer function {name} failed: {described(error)}"
        raise ConfigError([Problem(what, hint=hint)]) from error
    if not isinstance(made, Optimizer):
        what = f"the optimizer function {name} returned {type(made).__name__}, not an optimizer"
        raise ConfigError([Problem(what, hint=hint)])
    trained = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if not trained >= {id(row) for row in rows}:
        what = f"the optimizer function {name} returned an optimizer of other parameters"
        raise ConfigError([Problem(what, hint=hint)])
    if hasattr(made, "eval"):  # schedule-free
        made.train()  # type: ignore[attr-defined]
    return made


def make_optimizer(
    config: OptimConfig,
    factory: OptimizerFactory | None,
    rows: Sequence[torch.nn.Parameter],
    scales: Sequence[float] = (),
) -> Optimizer:
    """Return the optimizer of rows that a user's function makes, or the configured one without.

    Args:
        config: the configured one.
        factory: the user's function.
        rows: of a word, for each text encoder.
        scales: factor of each one's learning rate, where it is a distance and not an angle or found
            by the optimizer itself; () for none.

    Raises:
        ConfigError: it cannot be made.
    """
    if factory is not None:
        return call_factory(factory, list(rows))
    entry = find_optimizer(config.name)
    takes_scales = not (entry.turns or entry.finds_own_rate or config.relative_step)
    if not takes_scales or all(scale == 1 for scale in scales):
        return choose_optimizer(config)(list(rows))
    groups = []
    for row, scale in zip(rows, scales, strict=True):
        rate = config.learning_rate * scale
        groups.append({"params": [row], "lr": rate, RATE_SCALE: scale})
    return choose_optimizer(config)(groups)


def class_name_of(optimizer: Optimizer) -> str:
    """Return module and class of an optimizer."""
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def own_rate_factor(optimizer: Optimizer) -> float | None:
    """Return the factor that D-Adaptation and Prodigy find for their rate; None for all others."""
    group = optimizer.param_groups[0]
    return float(group["d"]) if "d" in group else None


def _optimizer_class(name: str) -> Any:
    """Import the class that a name stands for.

    Raises:
        ConfigError: there is none, or its module fails.
    """
    problems = optimizer_problems(name)
    if problems:
        raise ConfigError(problems)
    optimizer_class = _imported("--optimizer_type", name, find_optimizer(name).path)
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        hint = did_you_mean(name, OFFERED_OPTIMIZERS)
        hint = hint or "a class of torch.optim, or a class derived from one of these"
        raise ConfigError([Problem(f"--optimizer_type {name} is not an optimizer", hint=hint)])
    return optimizer_class


def _imported(flag: str, name: str, path: str) -> Any:
    try:
        return import_class(path)
    except Exception as error:  # whatever the module's own code raises
        what = f"{flag} {name} cannot be imported: {reason_of(error)}"
        raise ConfigError([Problem(what)]) from error


def _range_problem(name: str, key: str, value: object) -> Problem | None:
    """Find an argument that is out of a range which the optimizer itself does not check."""
    least, above = ARGUMENT_RANGES.get(key, (-math.inf, False))
    if not isinstance(value, int | float) or not value <= least or (value == least and not above):
        return None
    wanted = f"{'above' if above else 'at least'} {least:g}"
    return Problem(f"--optimizer_args do not fit {name}: {key}={value!r}, and it must be {wanted}")


@contextmanager
def averaged(optimizer: Optimizer, rows: Sequence[Tensor]) -> Iterator[None]:
    """Have the rows hold what is saved and shown, for a while.

    A schedule-free optimizer (Defazio et al. 2024, arXiv:2405.15682) trains at one point and
    answers with another. The rows come back to the bit, so that looking changes nothing.
    """
    switch: Any = optimizer
    if not hasattr(switch, "eval"):
        yield
        return
    trained = [row.detach().clone() for row in rows]
    switch.eval()
    try:
        yield
    finally:
        switch.train()
        with torch.no_grad():
            for row, values in zip(rows, trained, strict=True):
                row.copy_(values)


def steps_of(count: float, total: int) -> int:
    """Return a number of optimizer steps; a value below 1 is a fraction of the run."""
    return int(count * total) if 0 < count < 1 else int(count)


def make_schedule(config: OptimConfig, optimizer: Optimizer, total: int) -> LRScheduler:
    """Return the learning-rate schedule over `total` optimizer steps, whatever the number of processes.

    Raises:
        ConfigError: a schedule or its arguments do not fit.
    """
    problems = schedule_argument_problems(config, optimizer, total)
    if problems:
        raise ConfigError(problems)
    try:
        made = _make_schedule(config, optimizer, total)
    except ConfigError:
        raise
    except Exception as error:
        what = f"--lr_scheduler_args do not fit {config.schedule_class or config.schedule}"
        raise ConfigError([Problem(f"{what}: {reason_of(error)}")]) from error
    if not isinstance(made, LRScheduler):
        raise _no_schedule(config.schedule_class)
    return made


def _make_schedule(config: OptimConfig, optimizer: Optimizer, total: int) -> object:
    arguments = dict(config.schedule_arguments)
    if config.schedule_class:
        return _schedule_class(config.schedule_class)(optimizer, **arguments)
    if config.relative_step:
        return AdafactorSchedule(optimizer, config.learning_rate)
    if not takes_schedule(config, optimizer):
        return get_scheduler("constant", optimizer)
    if config.schedule == "piecewise_constant":
        return _function(config.schedule)(optimizer, **arguments)
    all_arguments = {**_schedule_arguments(config, total), **arguments}
    warmup = steps_of(config.warmup, total)
    return get_scheduler(config.schedule, optimizer, warmup, total, all_arguments)


def _no_schedule(name: str) -> ConfigError:
    hint = "a class of torch.optim.lr_scheduler, or a class derived from one of these"
    what = f"--lr_scheduler_type {name} is not a learning-rate schedule"
    return ConfigError([Problem(what, hint=hint)])


def takes_schedule(config: OptimConfig, optimizer: Optimizer) -> bool:
    """Return whether `--lr_scheduler` acts: not with Adafactor's own rate, nor schedule-free."""
    return not (config.relative_step or hasattr(optimizer, "eval"))


def schedule_argument_problems(
    config: OptimConfig, optimizer: Optimizer, total: int
) -> list[Problem]:
    """Find arguments that the schedule does not take; none are judged where the optimizer has no schedule."""
    name, given = config.schedule_class or config.schedule, dict(config.schedule_arguments)
    if config.schedule_class:
        schedule_class = _schedule_class(config.schedule_class)
        always = ("optimizer", "self")
        return argument_problems("--lr_scheduler_args", name, schedule_class, given, always)
    if not takes_schedule(config, optimizer):
        return []
    if name in ("constant", "constant_with_warmup"):  # transformers drops all arguments of these
        return argument_problems("--lr_scheduler_args", name, lambda: None, given, ())
    by_flags = [key for key in _schedule_arguments(config, total) if key not in given]
    filled_in = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", *by_flags)
    if "with_min_lr" in name and not {"min_lr", "min_lr_rate"} & {*by_flags, *given}:
        hint = "add --lr_scheduler_min_lr_ratio 0.1, a tenth of the rate"
        return [Problem(f"--lr_scheduler {name} needs the lowest rate", hint=hint)]
    return argument_problems("--lr_scheduler_args", name, _function(name), given, filled_in)


def _function(name: str) -> Callable[..., Any]:
    """Return the function of transformers or diffusers that makes a schedule."""
    if name == "piecewise_constant":
        from diffusers.optimization import get_piecewise_constant_schedule

        return cast("Callable[..., Any]", get_piecewise_constant_schedule)
    by_name = {str(key.value): function for key, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    return cast("Callable[..., Any]", by_name[name])


def _schedule_class(name: str) -> Callable[..., Any]:
    """Import what `--lr_scheduler_type` names: a class, or a function that takes an optimizer.

    Raises:
        ConfigError: neither, or its module fails.
    """
    problems = class_problems(name)
    if problems:
        raise ConfigError(problems)
    schedule = _imported("--lr_scheduler_type", name, schedule_path(name))
    is_class = isinstance(schedule, type) and issubclass(schedule, LRScheduler)
    is_function = inspect.isfunction(schedule) and _first_parameter(schedule) == "optimizer"
    if not (is_class or is_function):
        raise _no_schedule(name)
    return cast("Callable[..., Any]", schedule)


def _first_parameter(function: Callable[..., Any]) -> str:
    return next(iter(inspect.signature(function).parameters), "")


def _schedule_arguments(config: OptimConfig, total: int) -> Mapping[str, Any]:
    """Return the flags of schedules as transformers names them."""
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
