"""Check the numbers of flags against the ranges of the flag table. Imports no torch."""

from __future__ import annotations

from coinage.errors import Problem
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import BY_DEST, FLAGS

RANGES = {flag.dest: flag.range for flag in FLAGS if flag.range}


def sound_values(values: FlagValues) -> tuple[FlagValues, list[Problem]]:
    """Check the numbers of all flags.

    Returns:
        The values, wrong ones replaced by their defaults, so that each is reported once; and what is wrong.
    """
    wrong = range_problems(values)
    defaults = {name: BY_DEST[name].default for name in wrong}
    return values.changed(**defaults), list(wrong.values())


def range_problems(values: FlagValues) -> dict[str, Problem]:
    """Find numbers that mean nothing, by flag."""
    problems = {}
    for name, allowed in RANGES.items():
        value = getattr(values, name, None)
        reason = "" if value is None else allowed.why_not(value)
        if reason:
            problems[name] = Problem(f"--{name} {value} {reason}", hint=allowed.hint)
    return problems
