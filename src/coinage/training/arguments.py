"""Check the arguments of `coinage.train` and of a model, before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import TypeVar

from coinage.config import TrainConfig
from coinage.errors import ConfigError, Findings, Problem, did_you_mean
from coinage.training.observers.base import Observer

T = TypeVar("T")
CONFIG_HINT = "make a TrainConfig with TrainConfig.from_mapping or TrainConfig.from_toml"


def checked_configs(config: object) -> list[TrainConfig]:
    """Return the configurations of one word or several.

    Raises:
        ConfigError: it is neither a configuration nor a sequence of some.
    """
    configs = [config] if isinstance(config, TrainConfig) else _listed(config)
    findings = Findings()
    if not configs:
        findings.error("config: the sequence is empty", hint="give at least one TrainConfig")
    for given in configs:
        if not isinstance(given, TrainConfig):
            findings.error(f"config: {_kind(given)} is not a TrainConfig", hint=CONFIG_HINT)
    findings.raise_errors()
    return [given for given in configs if isinstance(given, TrainConfig)]


def checked_observers(observers: object) -> list[Observer]:
    """Return observers as a list, which the runs of several words can share.

    Raises:
        ConfigError: it is not a sequence of observers, or a priority is not a number.
    """
    findings = Findings()
    checked: list[Observer] = []
    if isinstance(observers, Observer):
        what = f"observers: {_kind(observers)} stands alone"
        findings.error(what, hint="give a list, such as observers=[MyObserver()]")
    for observer in _listed(observers) if not findings.errors else ():
        if isinstance(observer, type) and issubclass(observer, Observer):
            hint = f"give an object of it: {observer.__name__}()"
            findings.error(f"observers: {observer.__name__} is a class", hint=hint)
        elif not isinstance(observer, Observer):
            what = f"observers: {_kind(observer)} is not an observer"
            findings.error(what, hint="derive its class from coinage.Observer")
        elif not _is_number(observer.priority):
            what = f"observers: the priority {observer.priority!r} of {_kind(observer)}"
            findings.error(f"{what} is not a number", hint="see coinage.Priority")
        else:
            checked.append(observer)
    findings.raise_errors()
    return checked


def check_callable(name: str, value: object, what: str) -> None:
    """See that an argument can be called, or is None.

    Args:
        name: of the argument.
        value: of the argument.
        what: it should be.

    Raises:
        ConfigError: it can not.
    """
    if value is not None and not callable(value):
        findings = Findings()
        findings.error(f"{name}: {_kind(value)} cannot be called", hint=f"give {what}")
        findings.raise_errors()


def one_of(name: str, value: T, known: Sequence[str]) -> T:
    """Return a value that is None or known.

    Raises:
        ConfigError: it is not.
    """
    if value is not None and value not in known:
        hint = did_you_mean(str(value), known) or f"use one of {', '.join(known)}"
        raise ConfigError([Problem(f"{name}: {value!r} is not known", hint=hint)])
    return value


def check_number(
    name: str, value: object, *, at_least: float, below: float = math.inf, whole: bool = True
) -> None:
    """See that an argument is a number in a range.

    Raises:
        ConfigError: it is not.
    """
    wanted = f"a {'whole ' if whole else ''}number of at least {at_least:g}"
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        what = f"{name}: {value!r} is not {wanted}"
    elif not float(value) >= at_least:
        what = f"{name}: {value} is too small"
    elif not float(value) < below:
        what, wanted = f"{name}: {value} is too large", f"a number below {below:g}"
    else:
        return
    raise ConfigError([Problem(what, hint=f"use {wanted}")])


def _listed(values: object) -> list[object]:
    """Return the members of a sequence; anything else as its only member."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    members: Iterator[object] = iter(values)
    return list(members)


def _kind(value: object) -> str:
    """Return what a value is, for messages."""
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
