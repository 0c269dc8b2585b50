"""Build the configuration of optimizer and learning rate schedule from flag values."""

from __future__ import annotations

from coinage.config import OptimConfig
from coinage.errors import Problem
from coinage.optim.table import (
    find_optimizer,
    norm_problems,
    optimizer_problems,
    schedule_problems,
    warmup_problems,
)
from coinage.settings.flag_values import FlagValues
from coinage.settings.pairs import read_pairs


def build_optimizer(values: FlagValues, problems: list[Problem]) -> OptimConfig:
    """Return optimizer and schedule; add what is wrong with them to `problems`."""
    name = _optimizer_name(values, problems)
    arguments = read_pairs(values.optimizer_args, "--optimizer_args", problems)
    given = dict(arguments)
    own_rate = given.get("relative_step", True) or given.get("warmup_init")
    relative_step = find_optimizer(name).path.endswith(".Adafactor") and bool(own_rate)
    warmup = values.lr_warmup_steps
    problems += optimizer_problems(name)
    problems += warmup_problems(name, warmup)
    problems += norm_problems(name, values.norm_mode)
    problems += schedule_problems(
        values.lr_scheduler, warmup, values.lr_scheduler_type, relative_step
    )
    return OptimConfig(
        name=name,
        learning_rate=values.learning_rate,
        arguments=arguments,
        max_grad_norm=values.max_grad_norm,
        norm_mode=values.norm_mode,
        accumulation=values.gradient_accumulation_steps,
        relative_step=relative_step,
        schedule=values.lr_scheduler,
        schedule_class=values.lr_scheduler_type,
        schedule_arguments=read_pairs(values.lr_scheduler_args, "--lr_scheduler_args", problems),
        warmup=warmup,
        decay=values.lr_decay_steps,
        cycles=values.lr_scheduler_num_cycles,
        power=values.lr_scheduler_power,
        timescale=values.lr_scheduler_timescale,
        min_rate=values.lr_scheduler_min_lr_ratio,
    )


def _optimizer_name(values: FlagValues, problems: list[Problem]) -> str:
    """Return the name that one of three flags gives."""
    names = []
    if values.use_8bit_adam:
        names.append("AdamW8bit")
    if values.use_lion_optimizer:
        names.append("Lion")
    if values.optimizer_type:
        names.append(values.optimizer_type)
    if len(names) > 1:
        what = "--optimizer_type, --use_8bit_adam and --use_lion_optimizer exclude each other"
        problems.append(Problem(what, hint="keep --optimizer_type"))
    return names[-1] if names else "AdamW"
