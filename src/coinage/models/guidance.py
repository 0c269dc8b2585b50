"""How strongly pictures follow their prompts, in the words of each kind of pipeline."""

from __future__ import annotations

from collections.abc import Mapping

from coinage.models.base import Components
from coinage.models.facts import FamilyFacts

READS = "guidance_embeds"  # setting of transformers that read the guidance as a number, or might


def reads_guidance(parts: Components) -> bool:
    """Return whether a model reads the guidance scale as a number, and no negative prompt."""
    return bool(parts.denoiser.config.get(READS))


def idle_negative(facts: FamilyFacts, parts: Components, scale: float | None = None) -> str | None:
    """Return why a negative prompt has no effect at a guidance scale; None if it has one.

    Args:
        facts: of the model's family.
        parts: of the model.
        scale: None: the model's own.
    """
    if reads_guidance(parts):
        return "this model reads the guidance scale as a number"
    (own,) = guidance_of(facts, parts, scale).values()
    return None if own > 1 else f"with a guidance scale of {own:g} nothing is guided"


def guidance_of(
    facts: FamilyFacts, parts: Components, scale: float | None = None
) -> Mapping[str, float]:
    """Return the arguments of a pipeline for a guidance scale.

    A transformer that reads the scale as a number needs one pass a step. Others of its kind need
    classifier-free guidance, which their pipelines call `true_cfg_scale`.

    Args:
        facts: of the model's family.
        parts: of the model.
        scale: None: the model's own, which is 1 for models that were made to draw in a few steps.
    """
    reads = parts.denoiser.config.get(READS)
    if scale is None:
        scale = facts.guidance
        # Of FLUX.1, schnell alone has one shift for all sizes
        if reads is False and not parts.scheduler_config.get("use_dynamic_shifting"):
            scale = 1.0
    return {"true_cfg_scale" if reads is False else "guidance_scale": scale}
