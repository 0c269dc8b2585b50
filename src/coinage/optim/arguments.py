"""Whether `key=value` arguments fit a class, by its signature: names, then kinds of values. Nothing is called."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from coinage.errors import Problem, did_you_mean

# In annotations, beside the kinds
NO_KIND = {"None", "Optional", "Union", "typing", "Tensor", "torch"}
NUMBER = int | float | None
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def argument_problems(
    flag: str,
    name: str,
    taker: Callable[..., Any],
    given: Mapping[str, object],
    ours: Collection[str],
) -> list[Problem]:
    """Find arguments that are unknown, missing, or of another kind than the signature says.

    Args:
        flag: that gives them.
        name: of the class, as the user wrote it.
        taker: the class or function.
        given: the user's arguments.
        ours: parameters that are filled in for the user.
    """
    try:
        every = inspect.signature(taker).parameters
    except (TypeError, ValueError):  # written in another language
        return []
    named = {key: one for key, one in every.items() if one.kind in NAMED and key not in ours}
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in every.values())
    problems = []
    for key, value in given.items():
        if key not in named and not takes_any:
            hint = did_you_mean(key, list(named)) or (
                f"one of {', '.join(named)}" if named else "leave it out"
            )
            problems.append(
                Problem(f"{flag} do not fit {name}: it has no argument {key}", hint=hint)
            )
        elif wanted := _wanted(named.get(key), value):
            problems.append(
                Problem(f"{flag} do not fit {name}: {key}={value!r}, and it must be {wanted}")
            )
    missing = [
        key
        for key, one in named.items()
        if one.default is inspect.Parameter.empty and key not in given
    ]
    if missing:
        what = f"{flag} do not fit {name}: it needs {', '.join(missing)}"
        problems.append(
            Problem(what, hint=f"add {flag} {' '.join(f'{key}=...' for key in missing)}")
        )
    return problems


def _wanted(parameter: inspect.Parameter | None, value: object) -> str:
    """What a value should be; "" where it may be right."""
    default = parameter.default if parameter else None
    if not _finite(value):
        return "a finite number"
    if value is None or parameter is None:
        return ""
    kind = _kind(parameter)
    if kind is bool and not (isinstance(value, bool) or value in (0, 1)):
        return "True or False"
    if kind is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    if kind is tuple and not (
        isinstance(value, tuple | list) and all(isinstance(one, NUMBER) for one in value)
    ):
        return f"numbers such as {default}"
    return ""


def _finite(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _kind(parameter: inspect.Parameter) -> type | None:
    """The kind of a parameter's values: bool, float for all numbers, tuple of them; None where it is not clear."""
    default = parameter.default
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float):
        return float
    if (
        isinstance(default, tuple)
        and default
        and all(isinstance(one, int | float) for one in default)
    ):
        return tuple
    note = parameter.annotation
    text = note if isinstance(note, str) else getattr(note, "__name__", "") or str(note)
    kinds = set(re.findall(r"[A-Za-z]\w*", text)) - NO_KIND
    if default is not None and default is not inspect.Parameter.empty:
        return None
    return bool if kinds == {"bool"} else float if kinds and kinds <= {"int", "float"} else None
