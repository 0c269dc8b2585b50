"""Flags of noise and loss that mean nothing to a model, by how it was trained. Imports no torch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from coinage.checks.plan import Draft
from coinage.config import TrainConfig
from coinage.models.facts import FACTS

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
        way = "flow matching" if facts.is_flow else "diffusion"
        verb = "has" if len(names) == 1 else "have"
        flags = ", ".join(names)
        what = f"{flags} {verb} no effect: {facts.display_name} is trained by {way}"
        draft.findings.note(what)
        draft.config = config


def _usual(config: TrainConfig, part: str, name: str) -> Any:
    """Return the default of a field."""
    (field,) = (one for one in fields(getattr(config, part)) if one.name == name)
    return field.default
