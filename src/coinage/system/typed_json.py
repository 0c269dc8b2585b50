"""Turn JSON values into dataclasses, every value of the type that its field has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
LARGEST_INT = 2**63  # no count or seed is larger
LONGEST_SHOWN = 40  # letters of a value in a message
KIND_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def decode(kind: type[T], value: object, *, exact: bool = False) -> T:
    """Return a JSON value as a dataclass.

    Args:
        kind: a dataclass, whose fields are of simple types, lists, dicts, tuples, literals,
            optional values and dataclasses of the same.
        value: as `json.loads` returns it.
        exact: refuse keys that are not a field; False: leave them aside, since a later version may
            have written them.

    Raises:
        ValueError: a value is of another type, or a number is not finite.
        TypeError: a field without a default is missing.
    """
    target: Any = kind
    if exact and isinstance(value, dict) and not value.keys() <= _field_types(target).keys():
        _refuse(value, target)
    decoded: T = _decode(target, value)
    return decoded


@cache
def _field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if kind is float:
        try:
            number = float(value) if type(value) in (int, float) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            _refuse(value, kind)
        return number
    if kind in (int, str, bool):
        is_huge = kind is int and type(value) is int and abs(value) >= LARGEST_INT
        if type(value) is not kind or is_huge:
            _refuse(value, kind)
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        _require(value, dict, kind)
        types = _field_types(kind)
        return kind(**{name: _decode(types[name], value[name]) for name in types if name in value})
    return _decode_generic(kind, value)


def _decode_generic(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in inner:
            _refuse(value, kind)
        return value
    if origin in (list, Sequence):
        _require(value, list, kind)
        return [_decode(inner[0], entry) for entry in value]
    if origin in (dict, Mapping):
        _require(value, dict, kind)
        return {key: _decode(inner[1], entry) for key, entry in value.items()}
    if origin is tuple:
        _require(value, list, kind)
        if len(value) != len(inner):
            _refuse(value, kind)
        return tuple(map(_decode, inner, value))
    # `X | None` is the only other kind
    return None if value is None else _decode(inner[0], value)


def _require(value: object, json_type: type, kind: Any) -> None:
    if type(value) is not json_type:
        _refuse(value, kind)


def _refuse(value: object, kind: Any) -> None:
    name = KIND_NAMES.get(kind, getattr(kind, "__name__", str(kind)))
    raise ValueError(f"{str(value)[:LONGEST_SHOWN]!r} is not {name}")
