"""The defaults of `coinage train`: the best that was measured. The two scripts keep those of sd-scripts."""

from __future__ import annotations

from typing import Any

from coinage.config import AUTO_PRECISION
from coinage.optim.reach import USUAL_ANGLE
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import BY_DEST, DECIDED
from coinage.settings.scripts import Script

# Steps in which the angle falls to 0.7 of the first; it does not depend on how long the run is
TIMESCALE = 5
# Pixels that differ each time cannot be cached
VARIED = ("color_aug", "random_crop", "face_crop_aug_range")
AUTO = "auto"  # of --init_word


def with_defaults(values: FlagValues) -> FlagValues:
    """Fill in what `coinage train` decides where nothing was given, as far as flags alone tell it.

    Without an optimizer and a rate, the measured best: `benchmarks/quality.py`. With one of them, what
    sd-scripts would do.
    """
    if values.script != Script.COINAGE:
        return values
    chosen = _optimizer(values) | _switches(values)
    if values.init_word is None and not values.weights:
        chosen["init_word"] = AUTO
    if not values.save_model_as:
        chosen["save_model_as"] = "safetensors"
    if values.cache_latents is None and values.train_data_dir and not values.dataset_config:
        chosen["cache_latents"] = not any(getattr(values, name) for name in VARIED)
    if values.mixed_precision is None:
        chosen["mixed_precision"] = _precision(values)
    filled = values.changed(**chosen)
    for name in DECIDED:
        flag = BY_DEST[name.removeprefix("--")]
        if getattr(filled, flag.dest) is None:
            chosen[flag.dest] = flag.default
    return values.changed(**chosen)


def _switches(values: FlagValues) -> dict[str, Any]:
    """Return what is switched on where nothing was said."""
    is_open = values.max_train_steps is None and values.max_train_epochs is None
    on = {"early_stop": is_open, "compare_images": True, "show_word": True}
    return {name: value for name, value in on.items() if getattr(values, name) is None}


def _precision(values: FlagValues) -> str:
    """Return the precision that other flags ask for; without them that of the device, found by the checks."""
    if values.full_fp16 != values.full_bf16:
        return "fp16" if values.full_fp16 else "bf16"
    return AUTO_PRECISION


def _optimizer(values: FlagValues) -> dict[str, Any]:
    """Return the optimizer, its rate and its schedule, where none of the first two was given."""
    old_flags = values.use_8bit_adam or values.use_lion_optimizer
    if values.optimizer_type is not None or values.learning_rate is not None or old_flags:
        return {}
    chosen: dict[str, Any] = {"optimizer_type": "Directional", "learning_rate": USUAL_ANGLE}
    if values.lr_scheduler is None and not values.lr_scheduler_type:
        chosen["lr_scheduler"] = "inverse_sqrt"
        chosen["lr_scheduler_timescale"] = values.lr_scheduler_timescale or TIMESCALE
    return chosen
