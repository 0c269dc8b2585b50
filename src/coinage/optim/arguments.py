"""Check `key=value` arguments against the signature of a class, without calling anything."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from coinage.errors import Problem, did_you_mean

# Names in annotations that are not kinds of values
NO_KIND = {"None", "Optional", "Union", "typing", "Tensor", "torch"}
NUMBER = int | float | None
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def argument_problems(
    flag: str,
    name: str,
    taker: Callable[..., Any],
    given: Mapping[str, object],
    filled_in: Collection[str],
) -> list[Problem]:
    """Find arguments that are unknown, missing, or of another kind than the signature says.

    Args:
        flag: that gives them.
        name: of the class, as the user wrote it.
        taker: the class or function.
        given: the user's arguments.
        filled_in: parameters that are filled in for the user.
    """
    try:
        parameters = inspect.signature(taker).parameters
    except (TypeError, ValueError):  # written in another language
        return []
    named = {k: p for k, p in parameters.items() if p.kind in NAMED and k not in filled_in}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    does_not_fit = f"{flag} do not fit {name}"
    problems = []
    for key, value in given.items():
        if key not in named and not takes_any:
            hint = did_you_mean(key, list(named))
            hint = hint or (f"one of {', '.join(named)}" if named else "leave it out")
            problems.append(Problem(f"{does_not_fit}: it has no argument {key}", hint=hint))
        elif wanted := _wanted(named.get(key), value):
            what = f"{does_not_fit}: {key}={value!r}, and it must be {wanted}"
            problems.append(Problem(what))
    missing = []
    for key, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            missing.append(key)
    if missing:
        hint = f"add {flag} {' '.join(f'{key}=...' for key in missing)}"
        problems.append(Problem(f"{does_not_fit}: it needs {', '.join(missing)}", hint=hint))
    return problems


def _wanted(parameter: inspect.Parameter | None, value: object) -> str:
    """Return what a value should be; "" where it may be right."""
    if not _finite(value):
        return "a finite number"
    if value is None or parameter is None:
        return ""
    kind = _kind(parameter)
    if kind is bool and not (isinstance(value, bool) or value in (0, 1)):
        return "True or False"
    if kind is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    if kind is tuple and not _are_numbers(value):
        return f"numbers such as {parameter.default}"
    return ""


def _are_numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, NUMBER) for item in value)


def _finite(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _kind(parameter: inspect.Parameter) -> type | None:
    """Return the kind of a parameter's values: bool, float for any number, or tuple; None if unclear."""
    default = parameter.default
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float):
        return float
    if default and _are_numbers_in_tuple(default):
        return tuple
    if default is not None and default is not inspect.Parameter.empty:
        return None
    kinds = _names_in(parameter.annotation) - NO_KIND
    if kinds == {"bool"}:
        return bool
    return float if kinds and kinds <= {"int", "float"} else None


def _are_numbers_in_tuple(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, int | float) for item in value)


def _names_in(annotation: object) -> set[str]:
    """Return the names of types in an annotation."""
    named = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    text = named or str(annotation)
    return set(re.findall(r"[A-Za-z]\w*", text))
