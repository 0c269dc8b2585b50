"""Merge the findings of several words into one list. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from coinage.checks.plan import Plan
from coinage.errors import Problem

H = TypeVar("H", bound=Hashable)


def merge_notes(plans: Sequence[Plan]) -> list[str]:
    """Return the notes of all words, each named unless it is about all of them."""
    notes = [plan.notes for plan in plans]
    return _merge([plan.label for plan in plans], notes, _note_of)


def merge_warnings(plans: Sequence[Plan]) -> list[Problem]:
    """Return the warnings of all words, each with its word unless it is about all of them."""
    return merge_problems([plan.label for plan in plans], [plan.warnings for plan in plans])


def merge_problems(labels: Sequence[str], problems: Sequence[Sequence[Problem]]) -> list[Problem]:
    """Return the problems of all words, each with its word unless it is about all of them."""
    return _merge(labels, problems, lambda label, problem: problem.within(label))


def _merge(
    labels: Sequence[str], findings: Sequence[Sequence[H]], name: Callable[[str, H], H]
) -> list[H]:
    """Return what was found for all words, once, and then what was found for some, by name."""
    if len(labels) == 1:
        return list(dict.fromkeys(findings[0]))
    shared = set.intersection(*map(set, findings))
    common = [finding for finding in dict.fromkeys(findings[0]) if finding in shared]
    merged = list(common)
    for label, of_word in zip(labels, findings, strict=True):
        merged += [name(label, finding) for finding in of_word if finding not in common]
    return merged


def _note_of(label: str, note: str) -> str:
    return f"{label}: {note}"
