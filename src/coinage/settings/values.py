"""Read a flag's value from a command line or a settings file, by the flag table. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coinage.data.dataset_keys import shown
from coinage.errors import Problem
from coinage.settings.flags import Flag

WORDS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)
NOT_SET = "none"  # what some tools write for a choice that is left open


def from_command(flag: Flag, value: Any) -> Any:
    """Return the value of a flag of the command line; raises as `from_file`."""
    if flag.path and value == "":
        return flag.default
    return read_value(flag, value)


def from_file(flag: Flag, value: Any) -> Any:
    """Return the value that a settings file gives a flag, or the default if it gives none.

    Empty values ("", [], {}), and false in place of a text or number, count as not given.

    Raises:
        ValueError: the value does not fit; the message continues a sentence that begins with the
            value: "is not a number".
    """
    is_off = value is False and flag.kind != "switch" and not _also(flag, value)
    if is_off or value in ("", [], {}):
        return flag.default
    return read_value(flag, value)


def read_value(flag: Flag, value: Any) -> Any:
    """Return a value as the flag has it, whether it comes as text or as a number; raises as `from_file`."""
    if flag.kind == "switch":
        return _switch(flag, value)
    if flag.kind == "list":
        return _list(value)
    if isinstance(value, list):
        if flag.path and len(value) > 1:
            raise ValueError("is not one path")
        value = ",".join(map(_text, value))
    if _also(flag, value):
        meant = dict(flag.also)[_name(value)]
        return flag.default if meant is None else meant
    return _choice(flag, value) if flag.choices else READERS[flag.kind](value)


def _name(value: Any) -> str:
    """Return a value as choices are compared: without letter case, and 2.0 as 2."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _also(flag: Flag, value: Any) -> bool:
    return any(name == _name(value) for name, _ in flag.also)


def _choice(flag: Flag, value: Any) -> Any:
    known: dict[str, Any] = {_name(choice): choice for choice in flag.choices}
    if flag.default is None:
        known[NOT_SET] = None
    if isinstance(value, bool) or _name(value) not in known:
        raise ValueError(f"is not one of {', '.join(map(str, flag.choices))}")
    return known[_name(value)]


def _switch(flag: Flag, value: Any) -> bool | str:
    """Return whether a switch is on; of one with choices, any but the first stays what it is."""
    name = _name(value)
    if name in flag.choices:
        return name == flag.choices[0] or name
    switch = WORDS.get(name)
    if switch is None:
        raise ValueError(" or ".join(("must be true or false", *map(str, flag.choices[1:]))))
    return switch


def _list(value: Any) -> list[str] | None:
    """Return arguments such as "weight_decay=0.01" of a list, a single text or a table."""
    if isinstance(value, dict):
        return [f"{name}={argument}" for name, argument in value.items()]
    if isinstance(value, list):
        return list(map(_text, value))
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError("is not text")


def _whole(value: Any) -> int:
    """Return a whole number, given also as text, as 2.0 or as 1e3."""
    try:
        if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        number = _number(value)
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise ValueError("is not a whole number")


def _number(value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError("is not a number")


def ratio(value: Any) -> float:
    """Return a count, a fraction below 1, or a percentage: 100, "100", "0.1", "10%".

    Raises:
        ValueError: it is none of them.
    """
    text = _text(value).strip()
    is_percentage = text.endswith("%")
    try:
        number = float(text[:-1]) / 100 if is_percentage else float(text)
        if 0 < number < 1 or (number == 0 and is_percentage):
            return number
        return int(text)
    except ValueError:
        reason = "is neither a whole number of steps nor a fraction below 1, such as 0.1 or 10%"
        raise ValueError(reason) from None


READERS: Mapping[str, Callable[[Any], Any]] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "ratio": ratio,
    "path": lambda value: Path(_text(value)),
}


def values_of_file(
    given: Mapping[str, Any], flags: Mapping[str, Flag], where: str
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values that a file gives to flags, and what is wrong; other keys are left out."""
    values, problems = {}, []
    for name, value in given.items():
        if name not in flags:
            continue
        try:
            values[name] = from_file(flags[name], value)
        except ValueError as error:
            setting = name if flags[name].secret else f"{name} = {shown(value)}"
            problems.append(Problem(f"`{setting}` {error}", where))
    return values, problems


def values_of_command(
    given: Mapping[str, Any], flags: Mapping[str, Flag]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values that a command line gives to flags, and what is wrong with others."""
    values, problems = {}, []
    for name, value in given.items():
        try:
            values[name] = from_command(flags[name], value)
        except ValueError as error:
            problems.append(Problem(f"--{name} {value or repr(value)} {error}"))
    return values, problems
