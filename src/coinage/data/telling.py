"""How faults that many files share are told: each one while they are few, else all in one error."""

from __future__ import annotations

from collections.abc import Sequence

from coinage.errors import Problem
from coinage.wording import counted

MOST_TOLD = 10  # problems of one kind that are told one by one
FIRST = 3


def gathered(problems: Sequence[Problem], noun: str, plural: str = "") -> list[Problem]:
    """Return the problems, with one in place of more than ten that are mended in the same way.

    Args:
        problems: of many files or entries; those with the same hint are of one kind.
        noun: for one of the files; see `counted`.
        plural: for many.
    """
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.hint, []).append(problem)
    told: list[Problem] = []
    for hint, kind in kinds.items():
        if len(kind) <= MOST_TOLD:
            told += kind
            continue
        places = "; ".join(problem.where for problem in kind[:FIRST])
        what = f"{counted(len(kind), noun, plural)} cannot be used; the first: {kind[0].what}"
        told.append(Problem(what, f"{places} and {len(kind) - FIRST:,} more", hint))
    return told
