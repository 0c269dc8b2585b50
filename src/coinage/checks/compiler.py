"""Check that torch has the compiler that is asked for."""

from __future__ import annotations

from coinage.checks.plan import Draft
from coinage.config import TrainConfig
from coinage.errors import Problem


def check_compiler(draft: Draft) -> None:
    """Find a compiler that torch does not have."""
    draft.findings.errors += compiler_problems(draft.config)


def compiler_problems(config: TrainConfig) -> list[Problem]:
    """Find out whether torch has the compiler that is asked for."""
    backend = config.model.compile_backend
    if backend is None:
        return []
    from torch._dynamo import list_backends

    known = [*list_backends(exclude_tags=()), "eager"]
    if backend in known:
        return []
    what = f"--dynamo_backend {backend} is not available in this version of torch"
    return [Problem(what, hint=f"one of {', '.join(sorted(known))}")]
