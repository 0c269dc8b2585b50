"""Samplers by the names that prompts and flags give them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sampler:
    """A diffusers scheduler.

    Attributes:
        class_name: in diffusers.
        settings: those that differ from the model's own scheduler settings.
    """

    class_name: str
    settings: Mapping[str, object] = field(default_factory=dict)


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": Sampler("DDPMScheduler", {"clip_sample": False}),
    "pndm": Sampler("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "lms": Sampler("LMSDiscreteScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler", {"clip_sample": False}),
    "dpm_2": Sampler("KDPM2DiscreteScheduler"),
    "dpm_2_a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "dpmsolver": Sampler(
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "dpmsolver++": Sampler("DPMSolverMultistepScheduler"),
    "dpmsingle": Sampler("DPMSolverSinglestepScheduler"),
}
# sd-scripts' second names, each the first one with k_ in front
SECOND_NAMES = ("k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a")
SAMPLER_NAMES = (*SAMPLERS, *SECOND_NAMES)


def find_sampler(name: str) -> Sampler:
    """Return the sampler of one of `SAMPLER_NAMES`."""
    return SAMPLERS[name.removeprefix("k_")]
