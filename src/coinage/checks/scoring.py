"""Check what scores a word during a run. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from coinage.checks.plan import Draft
from coinage.errors import CoinageError
from coinage.scoring.encoder_files import encoder_problems
from coinage.scoring.prompts import templates_of


def check_scoring(draft: Draft) -> None:
    """Find encoders and prompts that cannot be used, where scores decide which word is the best."""
    config, findings = draft.config, draft.findings
    if config.save.best_by != "scores":
        return
    scoring = config.scoring
    if scoring.clip:
        findings.errors += encoder_problems("clip", scoring.clip, "--score_clip")
    if scoring.dino:
        findings.errors += encoder_problems("dino", scoring.dino, "--score_dino")
    try:
        templates_of(scoring.prompts)
    except CoinageError as error:
        findings.errors += [replace(p, what=f"--score_{p.what}") for p in error.problems]
