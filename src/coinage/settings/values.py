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
    """Return the value that a settings file gives a flag; the default where it gives none.

    None are "", [], and false in place of a text or number.

    Raises:
        ValueError: what is wrong with it, to stand behind the value: "is not a number".
    """
    if value in ("", [], {}) or (
        value is False and flag.kind != "switch" and not _also(flag, value)
    ):
        return flag.default
    return read_value(flag, value)


def read_value(flag: Flag, value: Any) -> Any:
    """Return a value as the flag has it, whether it comes as text or as a number; raises as `from_file`."""
    if flag.kind == "switch":
        return _switch(value)
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
    """How choices are compared: without letter case, and 2.0 as 2."""
    return (
        str(int(value) if isinstance(value, float) and value.is_integer() else value)
        .strip()
        .casefold()
    )


def _also(flag: Flag, value: Any) -> bool:
    return any(name == _name(value) for name, _ in flag.also)


def _choice(flag: Flag, value: Any) -> Any:
    known: dict[str, Any] = {_name(choice): choice for choice in flag.choices}
    if flag.default is None:
        known[NOT_SET] = None
    if isinstance(value, bool) or _name(value) not in known:
        raise ValueError(f"is not one of {', '.join(map(str, flag.choices))}")
    return known[_name(value)]


def _switch(value: Any) -> bool:
    found = WORDS.get(_name(value))
    if found is None:
        raise ValueError("must be true or false")
    return found


def _list(value: Any) -> list[str] | None:
    """Arguments such as "weight_decay=0.01": a list of them, one alone, or a table."""
    if isinstance(value, dict):
        return [f"{name}={argument}" for name, argument in value.items()]
    return [_text(part) for part in value] if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError("is not text")


def _whole(value: Any) -> int:
    """A whole number, also as text, as 2.0 or as 1e3."""
    try:
        plain = isinstance(value, str) and value.strip().lstrip("+-").isdigit()
        number = int(value) if plain else value
        number = (
            number if isinstance(number, int) and not isinstance(number, bool) else _number(number)
        )
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
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        return number if 0 < number < 1 or (number == 0 and text.endswith("%")) else int(text)
    except ValueError:
        raise ValueError(
            "is neither a whole number of steps nor a fraction below 1, such as 0.1 or 10%"
        ) from None


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
            told = "`" + name + ("`" if flags[name].secret else f" = {shown(value)}`")
            problems.append(Problem(f"{told} {error}", where))
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
