"""Group errors that many files share, so that a long list becomes one error."""

from __future__ import annotations

from collections.abc import Sequence

from coinage.errors import Problem
from coinage.wording import counted

MOST_SEPARATE = 10  # problems of one kind that stay as they are
MOST_NAMED = 3  # files of one kind that are named in its error


def group_problems(problems: Sequence[Problem], noun: str, plural: str = "") -> list[Problem]:
    """Return the problems, with one in place of more than ten that have the same hint.

    Args:
        problems: of many files or entries.
        noun: for one of the files; see `counted`.
        plural: for many.
    """
    by_hint: dict[str, list[Problem]] = {}
    for problem in problems:
        by_hint.setdefault(problem.hint, []).append(problem)
    grouped: list[Problem] = []
    for hint, group in by_hint.items():
        if len(group) <= MOST_SEPARATE:
            grouped += group
            continue
        places = "; ".join(problem.where for problem in group[:MOST_NAMED])
        what = f"{counted(len(group), noun, plural)} cannot be used; the first: {group[0].what}"
        grouped.append(Problem(what, f"{places} and {len(group) - MOST_NAMED:,} more", hint))
    return grouped
