"""JSON becomes dataclasses of the right types, or an error that names the value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from coinage.system.typed_json import decode


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    share: float = 0.0
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    pairs: Sequence[tuple[str, float | None]] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def test_every_value_has_the_type_of_its_field() -> None:
    value = {
        "count": 3,
        "share": 1,
        "kind": "b",
        "inner": {"name": "x"},
        "pairs": [["a", 1], ["b", None]],
        "more": {"any": [1, None]},
        "later": True,
    }
    expected = Outer(3, 1.0, "b", Inner("x"), [("a", 1.0), ("b", None)], {"any": [1, None]})
    assert decode(Outer, value) == expected
    with pytest.raises(ValueError, match="is not Outer"):
        decode(Outer, value, exact=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": True}, "'True' is not an integer"),
        ({"count": 2**63}, "is not an integer"),
        ({"count": 1, "share": float("nan")}, "'nan' is not a number"),
        ({"count": 1, "share": 10**400}, "is not a number"),
        ({"count": 1, "kind": "c"}, "'c' is not"),
        ({"count": 1, "inner": []}, r"'\[\]' is not Inner"),
        ({"count": 1, "pairs": [["a"]]}, r"\['a'\]"),
    ],
)
def test_a_value_of_another_type_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(Outer, fields)


def test_a_field_without_a_default_must_be_there() -> None:
    with pytest.raises(TypeError, match="count"):
        decode(Outer, {})
