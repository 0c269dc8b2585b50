"""Print what a training command does, or would do: the head of every run, and `--dry_run`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coinage.checks.footprint import in_gb
from coinage.terminal.messages import fact
from coinage.training.outline import files_of, head_of, latents_of, trials_of

if TYPE_CHECKING:
    from coinage.checks.plan import Plan

log = logging.getLogger("coinage")


def print_head(plans: Sequence[Plan]) -> None:
    """Print what the run is: word, data, length, file, seed; of several words a line for each."""
    for label, text in head_of(plans):
        fact(label, text)


def print_plan(plans: Sequence[Plan]) -> None:
    """Print what the run would write and need, and warnings about its learning rates."""
    import torch

    from coinage.checks.forecast import forecast

    log.info("%s", files_of(plans))
    if latents := latents_of(plans):
        log.info("%s", latents)
    findings = forecast(plans)
    needs = plans[0].memory
    if torch.cuda.is_available():
        log.info("%s", needs.shown())
    else:
        about = in_gb(needs.total)
        log.info("no GPU here: the run would use the CPU (on a GPU it would take about %s)", about)
    for note in findings.notes:
        log.info("note: %s", note)
    for warning in findings.warnings:
        log.warning("%s", warning)
    for plan in plans:
        if trials := trials_of(plan):
            log.info("%s", trials)
    log.info("dry run: nothing was trained. Remove --dry_run to start")
