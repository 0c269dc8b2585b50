"""What `coinage train` does where nothing is said: the best that was measured. The two scripts do as in sd-scripts."""

from __future__ import annotations

import argparse
from pathlib import Path

from coinage.data.captioned_images import has_captions
from coinage.data.folder import list_folder
from coinage.errors import Findings
from coinage.models.hub_files import native_side
from coinage.optim.reach import USUAL_ANGLE
from coinage.settings.flags import BY_DEST, DECIDED

# Steps in which the angle falls to 0.7 of the first; it does not ask how long the run is
TIMESCALE = 5
# Pixels that differ each time cannot be kept
VARIED = ("color_aug", "random_crop", "face_crop_aug_range")


def decided(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what was left open.

    Without an optimizer and a rate, the measured best: `benchmarks/quality.py`. With one of them, what sd-scripts would do.
    """
    if (
        args.optimizer_type is None
        and args.learning_rate is None
        and not (args.use_8bit_adam or args.use_lion_optimizer)
    ):
        args.optimizer_type, args.learning_rate = "Directional", USUAL_ANGLE
        if args.lr_scheduler is None and not args.lr_scheduler_type:
            args.lr_scheduler, args.lr_scheduler_timescale = (
                "inverse_sqrt",
                args.lr_scheduler_timescale or TIMESCALE,
            )
    if args.init_word is None and not args.weights:
        args.init_word = "auto"
    if args.early_stop is None:
        args.early_stop = args.max_train_steps is None and args.max_train_epochs is None
    args.save_model_as = args.save_model_as or "safetensors"
    if args.train_data_dir and not args.dataset_config:
        _take_images_as_they_are(args)
    for name in DECIDED:
        flag = BY_DEST[name.removeprefix("--")]
        if getattr(args, flag.dest) is None:
            setattr(args, flag.dest, flag.default)
    return args


def _take_images_as_they_are(args: argparse.Namespace) -> None:
    """A folder of images is enough: no captions, no size, any shape."""
    if args.cache_latents is None:
        args.cache_latents = not any(getattr(args, name) for name in VARIED)
    folder = Path(args.train_data_dir)
    plain = folder.is_dir() and not list_folder(folder, "", "folder", Findings()).folders
    captioned = args.in_json or has_captions(
        folder, args.caption_extention or args.caption_extension
    )
    if plain and not captioned and not args.use_style_template:
        args.use_object_template = True
    take_own_size(args, args.pretrained_model_name_or_path)


def take_own_size(args: argparse.Namespace, model: str | None) -> None:
    """Where no resolution is said, take the size that a model is made for, and buckets if they fit."""
    if args.resolution is None and model:
        side = native_side(model)
        args.resolution = str(side) if side else None
        args.enable_bucket = args.enable_bucket or (side or 0) >= args.min_bucket_reso
