"""Every check before the first step; `checklist` has them in order, the other files by subject."""

from coinage.checks.checklist import check, make_plans
from coinage.checks.plan import Plan

__all__ = ["Plan", "check", "make_plans"]
