"""Settings that states of earlier versions lack: fields of the configuration with `repr=False`.

Digests in states are made of the text of rules, and must stay the same while such a field is at its
default. So it is no part of that text, and is added where it is set.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def set_later(settings: DataclassInstance) -> dict[str, Any]:
    """Return the later fields that differ from their defaults, by name."""
    values = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if not one.repr and value != one.default:
            values[one.name] = value
    return values


def with_set_later(settings: DataclassInstance) -> dict[str, Any]:
    """Return all fields by name, but later ones only where they are set."""
    values = {one.name: getattr(settings, one.name) for one in fields(settings) if one.repr}
    return values | set_later(settings)
