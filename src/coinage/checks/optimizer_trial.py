"""Try the optimizer and its schedule on a toy before the model is loaded."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from coinage.checks.plan import Draft
from coinage.config import OptimConfig
from coinage.errors import ConfigError, Problem, reason_of
from coinage.optim.factory import choose_optimizer, make_schedule

# Steps that are taken of a schedule which can then be set to the last step, and of any other
FIRST_STEPS, MOST_STEPS = 20, 2000
# The method of torch's schedules that returns the rates at their counter, whatever was before
CLOSED_FORM = "_get_closed_form_lr"
TOY = (2, 8)  # rows and width
Arguments = Sequence[tuple[str, object]]
Failure = str | ConfigError  # why a trial fails; "" where it does not


def check_optimizer(draft: Draft) -> None:
    """Try the optimizer and its schedule."""
    steps, _ = draft.length()
    learning = max(1, draft.config.word.steps_of(steps))
    draft.findings.errors += optimizer_trial(draft.config.optim, learning)


def optimizer_trial(config: OptimConfig, total: int) -> list[Problem]:
    """Try an optimizer and its schedule on a toy: the first two steps and the last of a run of `total` steps.

    Whatever they raise, rates that are negative or not finite, and rows that are not finite, are problems.
    """
    plain = replace(config, schedule="constant", schedule_class="", schedule_arguments=(), warmup=0)

    def with_arguments(given: Arguments) -> Failure:
        return _failure(replace(plain, arguments=tuple(given)), 2)

    def with_schedule(given: Arguments) -> Failure:
        return _failure(replace(config, schedule_arguments=tuple(given)), total)

    what = f"--optimizer_type {config.name} cannot learn a word by step() after a plain backward()"
    flag, given = "--optimizer_args", config.arguments
    problems = _problem_of_trial(what, flag, config.name, given, with_arguments)
    if problems:
        return problems
    name = config.schedule_class or config.schedule
    flag = "--lr_scheduler_type" if config.schedule_class else "--lr_scheduler"
    what = f"{flag} {name} cannot be used in a run of {total} steps"
    flag, given = "--lr_scheduler_args", config.schedule_arguments
    return _problem_of_trial(what, flag, name, given, with_schedule)


def _problem_of_trial(
    what: str, flag: str, name: str, given: Arguments, fails: Callable[[Arguments], Failure]
) -> list[Problem]:
    """Return a failure as a problem that names the arguments without which there is none, or all."""
    reason = fails(given)
    if isinstance(reason, ConfigError):
        return list(reason.problems)
    if not reason:
        return []
    if not given:
        return [Problem(f"{what}: {reason}", hint="choose another one; --help has a list")]
    guilty = []
    for pair in given:
        others = [other for other in given if other is not pair]
        if fails(others) == "":
            guilty.append(pair)
    guilty = guilty or list(given)
    shown = " ".join(f"{key}={value!r}" for key, value in guilty)
    verb = "does" if len(guilty) == 1 else "do"
    return [Problem(f"{flag} {shown} {verb} not fit {name}: {reason}")]


def _failure(config: OptimConfig, total: int) -> Failure:
    """Return why an optimizer with its schedule fails; "" if it does not.

    It is tried on the GPU too where the CPU is not enough.
    """
    reason: Failure = ""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    for device in devices:
        try:
            with _without_trace():
                _try(config, total, torch.device(device))
        except ConfigError as error:
            reason = reason or error
        except Exception as error:  # noqa: BLE001 - whatever a package raises means that the run would end so
            reason = reason or reason_of(error)
        else:
            return ""
    return reason


@contextlib.contextmanager
def _without_trace() -> Iterator[None]:
    """Leave no trace: of what is printed, warned of, or drawn at random."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.simplefilter("ignore")
        yield


def _try(config: OptimConfig, total: int, device: torch.device) -> None:
    """Make the steps 0, 1 and the last of a run on a toy.

    Raises:
        Exception: what the run would raise.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.Parameter(torch.randn(TOY, generator=generator).to(device))
    optimizer = choose_optimizer(config)([rows])
    schedule = make_schedule(config, optimizer, total)
    can_jump = isinstance(schedule, LambdaLR) or hasattr(schedule, CLOSED_FORM)
    steps = min(total, FIRST_STEPS if can_jump else MOST_STEPS)
    for step in range(steps):
        _check_rates(optimizer, step)
        if step < 2 or step == total - 1:
            _learn(optimizer, rows, generator)
        schedule.step()
    if total > steps:
        _jump(optimizer, schedule, total - 1)
        _learn(optimizer, rows, generator)
        schedule.step()


def _jump(optimizer: torch.optim.Optimizer, schedule: LRScheduler, step: int) -> None:
    """Put an optimizer where its schedule has it at a step.

    All schedules of torch and transformers read the counter.
    """
    schedule.last_epoch = step - 1
    try:
        schedule.step()
        if hasattr(schedule, CLOSED_FORM):
            rates = getattr(schedule, CLOSED_FORM)()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
    except OverflowError:
        reason = "the learning rate of the last step would be too large for a number"
        raise ValueError(reason) from None
    _check_rates(optimizer, step)


def _learn(
    optimizer: torch.optim.Optimizer, rows: torch.nn.Parameter, generator: torch.Generator
) -> None:
    rows.grad = torch.randn(TOY, generator=generator).to(rows.device)
    optimizer.step()
    optimizer.zero_grad()
    if not rows.isfinite().all():
        raise ValueError("what it learns is not finite")


def _check_rates(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Check that no rate is negative or infinite; None is an optimizer's way to find its own.

    Raises:
        ValueError: one is.
    """
    for group in optimizer.param_groups:
        rate = group["lr"]
        if rate is not None and not 0 <= float(rate) < math.inf:
            raise ValueError(f"the learning rate of step {step + 1} would be {float(rate):g}")
