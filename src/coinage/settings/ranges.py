"""What the numbers of flags may be, as data, and one rule that asks. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from coinage.errors import Problem
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import BY_DEST

DRAW = -1  # of --seed, in AUTOMATIC1111's convention: draw one
MOST = 2**31 - 1  # of what is counted
MOST_SEED = 2**63 - 1
LARGEST_SIDE = 16384  # pixels
FACTOR = 1000.0  # more than any strength or weight of a loss is good for


@dataclass(frozen=True, slots=True)
class Range:
    """The values that mean something. NaN and infinity never do.

    Attributes:
        least: the smallest one.
        most: the largest one.
        above: `least` itself is too small.
        hint: what is usual.
    """

    least: float
    most: float
    above: bool = False
    hint: str = ""

    def __contains__(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and value <= self.most

    def why_not(self, value: float) -> str:
        """Say what is wrong with a value; "" for one that is in the range."""
        if value in self:
            return ""
        if not math.isfinite(value):
            return "is not a finite number"
        if value > self.most:
            return f"must be at most {self.most:{',' if isinstance(self.most, int) else 'g'}}"
        return f"must be {'above' if self.above else 'at least'} {self.least:g}"


COUNT = Range(1, MOST)
ANY_COUNT = Range(0, MOST)
SHARE = Range(0, 1)
# Each flag with a number, unless it has a list of choices. A test holds that none is left out.
RANGES: Mapping[str, Range] = {
    "num_vectors_per_token": Range(1, 75, hint="a prompt has room for 75 tokens"),
    "clip_skip": Range(1, 100),
    "dataset_repeats": Range(1, 100_000),
    "train_batch_size": Range(1, 100_000),
    "prior_loss_weight": Range(0, FACTOR, hint="1 is usual"),
    "max_data_loader_n_workers": Range(0, 1024, hint="8 is usual"),
    "keep_tokens": ANY_COUNT,
    "token_warmup_min": ANY_COUNT,
    "token_warmup_step": ANY_COUNT,
    "min_bucket_reso": Range(1, LARGEST_SIDE),
    "max_bucket_reso": Range(1, LARGEST_SIDE),
    "bucket_reso_steps": Range(1, LARGEST_SIDE),
    "vae_batch_size": Range(1, 100_000),
    "save_every_n_epochs": COUNT,
    "save_every_n_steps": COUNT,
    "save_n_epoch_ratio": COUNT,
    "save_last_n_epochs": COUNT,
    "save_last_n_steps": COUNT,
    "save_last_n_epochs_state": COUNT,
    "save_last_n_steps_state": COUNT,
    "max_train_steps": COUNT,
    "max_train_epochs": COUNT,
    "seed": Range(DRAW, MOST_SEED, hint="-1 draws one"),
    "gradient_accumulation_steps": Range(1, 100_000),
    "learning_rate": Range(0, 1e6),
    "max_grad_norm": Range(0, 1e9, hint="0 is off"),
    "lr_warmup_steps": ANY_COUNT,
    "lr_decay_steps": ANY_COUNT,
    "lr_scheduler_num_cycles": Range(1, 100_000),
    "lr_scheduler_power": Range(0, 100.0),
    "lr_scheduler_timescale": COUNT,
    "lr_scheduler_min_lr_ratio": SHARE,
    "noise_offset": Range(0, FACTOR, hint="0.05 is usual"),
    "adaptive_noise_scale": Range(-FACTOR, FACTOR, hint="0.005 is usual"),
    "multires_noise_iterations": Range(0, 1000, hint="6 is usual"),
    "multires_noise_discount": Range(0, 1, hint="0 to 1; 0.3 is usual"),
    "ip_noise_gamma": Range(0, FACTOR, hint="0.1 is usual"),
    "min_timestep": Range(0, 999),
    "max_timestep": Range(1, 1000),
    "huber_c": Range(0, 1, above=True, hint="0.1 is usual"),
    "huber_scale": Range(0, FACTOR, above=True, hint="1 is usual"),
    "min_snr_gamma": Range(0, 1e6, hint="5 is usual"),
    "v_pred_like_loss": Range(0, FACTOR),
    # As in sd-scripts, 0 and what is below it switch previews off; a note says so.
    "sample_every_n_steps": Range(-MOST, MOST),
    "sample_every_n_epochs": Range(-MOST, MOST),
    "ddp_timeout": Range(0, 525_600, hint="minutes, up to a year; 0 is as if it were left out"),
    "caption_tag_dropout_rate": SHARE,
    "validation_split": SHARE,
    "validation_seed": Range(0, MOST_SEED),
    "validate_every_n_steps": COUNT,
    "validate_every_n_epochs": COUNT,
    "autopilot": Range(2, 64, hint="4 is a good number; or leave it out"),
}


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
