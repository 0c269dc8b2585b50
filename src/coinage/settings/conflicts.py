"""Flags that cannot be given together. Imports no torch."""

from __future__ import annotations

from coinage.errors import Findings, Problem
from coinage.settings.defaults import AUTO
from coinage.settings.flag_values import FlagValues
from coinage.settings.scripts import Script
from coinage.settings.word_tables import stays

MOST_HEAVY = 1.75  # beyond it, and below -1, places would lie outside of the range
MOST_BETA = 100
LEAST_EXPONENT = -500  # below it a density is too small for numbers
KEEP_ONE = "keep one of them"


def conflicts(values: FlagValues) -> list[Problem]:
    """Find flags that exclude each other, or that need another one."""
    findings = Findings()
    _check_model(values, findings)
    _check_timesteps(values, findings)
    _check_start(values, findings)
    _check_window(values, findings)
    _check_precision(values, findings)
    _check_sharding(values, findings)
    if values.keep_best == "scores" and not (values.score_clip or values.score_dino):
        what, hint = "--keep_best scores needs what scores", "add --score_clip or --score_dino"
        findings.error(what, hint=hint)
    if values.keep_best == "scores" and values.role == "negative":
        what = "--keep_best scores draws the word in prompts, and it is for the negative one"
        findings.error(what, hint="leave out scores")
    negative = values.metadata_is_negative_embedding
    if negative and negative.lower() not in ("true", "false"):
        findings.error(f"--metadata_is_negative_embedding {negative} is neither true nor false")
    return findings.errors


def _check_model(values: FlagValues, findings: Findings) -> None:
    if values.script == Script.SDXL and values.v2:
        findings.error(
            "--v2 is for Stable Diffusion 2.x, and this is the script for SDXL",
            hint="use train_textual_inversion.py --v2",
        )
    if values.v_parameterization and values.v_pred_like_loss:
        findings.error(
            "--v_pred_like_loss is for models that predict the noise",
            hint="leave out --v_parameterization",
        )


def _check_timesteps(values: FlagValues, findings: Findings) -> None:
    low = values.min_timestep or 0
    high = 1000 if values.max_timestep is None else values.max_timestep
    if low >= high:
        what = f"--min_timestep {low} must be below --max_timestep {high}"
        findings.error(what, hint="they may be 0 to 1000")
    _check_distribution(values, findings)
    if values.adaptive_noise_scale and not values.noise_offset:
        what = "--adaptive_noise_scale needs --noise_offset"
        findings.error(what, hint="add --noise_offset 0.05")


def _check_distribution(values: FlagValues, findings: Findings) -> None:
    """Find numbers with which a distribution of timesteps would be none."""
    kind, weight, bias = values.timestep_distribution, values.noising_weight, values.noising_bias
    what = f"--timestep_distribution {kind} with --noising_weight {weight:g}"
    ends = (-0.5 - bias, 0.5 - bias)  # distances from its middle
    if kind == "heavy_tail" and not -1 <= weight <= MOST_HEAVY:
        findings.error(f"{what}: its weight is at most {MOST_HEAVY}", hint="use -1 to 1.75")
    elif kind == "beta" and not (0 < weight <= MOST_BETA and 0 < bias <= MOST_BETA):
        what = "--timestep_distribution beta needs --noising_weight and --noising_bias above 0"
        findings.error(f"{what}, up to {MOST_BETA}", hint="1 for both is even; 0.5 and 1 is usual")
    elif kind == "logit_normal" and weight <= -1:
        findings.error(f"{what}: its spread is 1 more, which must be above 0", hint="0 is usual")
    elif kind == "sigmoid" and max(weight * end for end in ends) < LEAST_EXPONENT:
        hint = "use a smaller --noising_bias or --noising_weight"
        findings.error(f"{what} and --noising_bias {bias:g} leaves no timestep", hint=hint)
    elif kind == "inverted_parabola":
        nearest = 0 if ends[0] < 0 < ends[1] else min(map(abs, ends))
        if weight * nearest**2 >= 2:
            hint = "use a smaller --noising_bias or --noising_weight"
            findings.error(f"{what} and --noising_bias {bias:g} leaves no timestep", hint=hint)


def _check_start(values: FlagValues, findings: Findings) -> None:
    if values.init_word is not None and not values.init_word.strip():
        hint = "give a known word close to the concept, such as girl"
        findings.error("--init_word is empty", hint=hint)
    if values.init_word == AUTO and values.weights:
        findings.error("--init_word auto and --weights exclude each other", hint=KEEP_ONE)


def _check_window(values: FlagValues, findings: Findings) -> None:
    """Check that the word learns at all."""
    start, end = values.start_step or 0, values.end_step
    if end is not None and end <= start:
        what = f"--end_step {end} must be after --start_step {start}"
        findings.error(what, hint="leave out --end_step to learn until the run ends")
    if stays(vars(values)):
        hint = (
            "give it a [[words]] table of its own in a config file, with train = false and weights, "
            "beside a word that learns"
        )
        findings.error("--train false: no word learns", hint=hint)


def _check_precision(values: FlagValues, findings: Findings) -> None:
    if values.full_fp16 and values.full_bf16:
        findings.error("--full_fp16 and --full_bf16 exclude each other", hint=KEEP_ONE)
    if values.full_fp16 and values.mixed_precision != "fp16":
        findings.error("--full_fp16 needs --mixed_precision fp16")
    if values.full_bf16 and values.mixed_precision != "bf16":
        findings.error("--full_bf16 needs --mixed_precision bf16")
    for name in ("fp8_base", "low_memory"):
        if getattr(values, name) and values.mixed_precision == "no":
            what = f"--{name} needs --mixed_precision"
            findings.error(what, hint="add --mixed_precision bf16, or fp16")
    if values.low_memory and values.torch_compile:
        findings.error("--low_memory and --torch_compile exclude each other", hint=KEEP_ONE)


def _check_sharding(values: FlagValues, findings: Findings) -> None:
    if values.deepspeed and values.zero_stage == 3:
        what = "--zero_stage 3 shards a model that is frozen: it would only cost time"
        findings.error(what, hint="leave out --deepspeed")
    if "nvme" in (values.offload_optimizer_device, values.offload_param_device):
        what = "offloading a few kilobytes to NVMe would only cost time"
        findings.error(what, hint="leave out the --offload_* flags")
