"""Flags of noise and loss that mean nothing to a model, by how it was trained. Imports no torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from coinage.checks.plan import Draft
from coinage.config import TrainConfig
from coinage.models.facts import FACTS, FamilyFacts

# Of discrete diffusion: a flag, and the part and field of the configuration that it sets
DIFFUSION_FLAGS: tuple[tuple[str, str, str], ...] = (
    ("--v_parameterization", "model", "prediction_type"),
    ("--zero_terminal_snr", "model", "zero_terminal_snr"),
    ("--noise_offset", "noise", "offset"),
    ("--adaptive_noise_scale", "noise", "adaptive_offset"),
    ("--multires_noise_iterations", "noise", "pyramid_levels"),
    ("--ip_noise_gamma", "noise", "perturbation"),
    ("--min_snr_gamma", "loss", "min_snr_gamma"),
    ("--debiased_estimation_loss", "loss", "debiased"),
    ("--scale_v_pred_loss_like_noise_pred", "loss", "scale_v"),
    ("--v_pred_like_loss", "loss", "v_like"),
    ("--sample_sampler", "preview", "sampler"),
)
FLOW_FLAGS: tuple[tuple[str, str, str], ...] = (("--flow_weighting", "loss", "flow_weighting"),)
# The same of the commands that draw, by their names there
DRAWING_FLAGS = ("v_parameterization", "zero_terminal_snr")
USUAL_SAMPLER = "ddim"  # of those commands
OWN_SAMPLERS = ("euler", "k_euler")  # what flow matching is drawn with in any case


def set_aside_flags(draft: Draft) -> None:
    """Take back the flags that have no meaning for the model's family, and note which they are."""
    facts = FACTS[draft.config.model.family]
    rows = DIFFUSION_FLAGS if facts.is_flow else FLOW_FLAGS
    config, names = draft.config, []
    for flag, part, name in rows:
        usual = _usual(config, part, name)
        value = getattr(getattr(config, part), name)
        if value == usual or (name == "sampler" and value in OWN_SAMPLERS):
            continue
        config = replace(config, **{part: replace(getattr(config, part), **{name: usual})})
        names.append(flag)
    if names:
        draft.findings.note(_no_effect(names, facts))
        draft.config = config


def set_aside_drawing_flags(args: Namespace, facts: FamilyFacts) -> list[str]:
    """Take back flags of a command that draws that have no meaning for a family; return notes on them.

    Args:
        args: of the command, in which they are changed; it may lack those of `DRAWING_FLAGS`.
        facts: of the model's family.
    """
    names = []
    if facts.is_flow:
        if args.sampler not in (USUAL_SAMPLER, *OWN_SAMPLERS):
            names.append("--sampler")
        args.sampler = OWN_SAMPLERS[0]
        for name in DRAWING_FLAGS:
            if getattr(args, name, False):
                names.append(f"--{name}")
                setattr(args, name, False)
    notes = [_no_effect(names, facts)] if names else []
    if getattr(args, "show_word", False) and not facts.cross_attends:
        args.show_word = False
        notes.append(
            f"--show-word has no effect: {facts.display_name} does not show where a word acts"
        )
    return notes


def _no_effect(names: Sequence[str], facts: FamilyFacts) -> str:
    """Return a note that flags have no meaning for a family."""
    way = "flow matching" if facts.is_flow else "diffusion"
    verb = "has" if len(names) == 1 else "have"
    return f"{', '.join(names)} {verb} no effect: {facts.display_name} is trained by {way}"


def _usual(config: TrainConfig, part: str, name: str) -> Any:
    """Return the default of a field."""
    (field,) = (one for one in fields(getattr(config, part)) if one.name == name)
    return field.default
