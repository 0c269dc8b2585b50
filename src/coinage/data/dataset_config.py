"""Build frozen datasets and subsets from checked tables: precedence, ranges, what excludes what."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from coinage.data.dataset_keys import caption_rules_in, check_ranges, image_rules_in, shown
from coinage.data_config import (
    BucketConfig,
    CaptionRules,
    DatasetConfig,
    ImageRules,
    Interpolation,
    SpecialTags,
    SubsetConfig,
    TagDropout,
    Template,
)
from coinage.errors import Findings

LARGEST_SIDE = 16384  # pixels
SMALLEST_RESOLUTION = 8  # pixels, one latent
# Keys with which no use of an image is like another: latents that are cached would be of one use
VARYING_PIXELS = (
    "color_aug",
    "random_crop",
    "random_rotate_max_angle",
    "random_brightness_max_strength",
    "random_contrast_max_strength",
    "random_saturation_max_strength",
    "random_hue_max_strength",
)
DEFAULT_RESOLUTION = 512  # pixels; stands in where none is given, which is an error


@dataclass(frozen=True, slots=True)
class Layer:
    """Values that were set in one place; a later layer wins over an earlier one."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDefaults:
    """What the command line supplies to every dataset."""

    layers: tuple[Layer, ...]  # defaults, then given flags
    template: Template | None = None
    cached: bool = False  # latents are cached: pixels must not vary
    bucket_unit: int = 64  # bucket sides are multiples of this: 64 for SD 1.x and 2.x, 32 for SDXL
    as_reference: bool = False
    log_ratio: bool = False
    background: str = "white"  # behind transparent images


def make_dataset(
    layers: Sequence[Layer],
    subset_layers: Sequence[Layer],
    where: str,
    defaults: DatasetDefaults,
    findings: Findings,
) -> DatasetConfig:
    """Build a dataset from checked tables.

    Subsets that are named twice, in whatever spelling, or have no repeats, are left out with a
    warning.

    Args:
        layers: values of the dataset and of all that it falls back on, the default ones first.
        subset_layers: values of each subset.
        where: place of the dataset, for messages.
        defaults: what the command line supplies.
        findings: gets an error for each value that is missing or out of range.
    """
    _check_metadata_files(subset_layers, where, findings)
    subsets: dict[tuple[str, bool], SubsetConfig] = {}
    for layer in subset_layers:
        subset = make_subset([*layers, layer], layer.name, defaults, findings)
        source = str(subset.metadata_file or subset.image_dir)
        identity = (os.path.realpath(source), subset.metadata_file is not None)
        if identity in subsets:
            findings.warn(f"{source} is in this dataset already and is left out", layer.name)
        elif subset.num_repeats < 1:
            findings.warn(f"num_repeats is {subset.num_repeats}: {source} is left out", layer.name)
        else:
            subsets[identity] = subset
    return _dataset(_merged(layers), tuple(subsets.values()), where, defaults, findings)


def _check_metadata_files(subset_layers: Sequence[Layer], where: str, findings: Findings) -> None:
    """Add an error where some subsets of a dataset have a metadata file and others do not."""
    without = []
    for number, layer in enumerate(subset_layers, 1):
        if "metadata_file" not in layer.values:
            without.append(str(number))
    if without and len(without) < len(subset_layers):
        numbers = ", ".join(without)
        what = f"some subsets have a metadata_file, and subset {numbers} has none"
        findings.error(what, where, "put them into datasets of their own")


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for layer in layers:
        values |= layer.values
    return values


def _settings(layers: Sequence[Layer]) -> tuple[tuple[str, str], ...]:
    """Return what was set and where, by key; defaults are left out."""
    settings: dict[str, tuple[str, str]] = {}
    for layer in layers[1:]:
        place = layer.name[max(layer.name.rfind("[["), 0) :]  # without the file's name
        for key, value in layer.values.items():
            settings[key] = (f"{key} = {shown(value)}", place)
    return tuple(settings[key] for key in sorted(settings))


def _dataset(
    values: Mapping[str, Any],
    subsets: tuple[SubsetConfig, ...],
    where: str,
    defaults: DatasetDefaults,
    findings: Findings,
) -> DatasetConfig:
    resolution: Any = values.get("resolution")
    if resolution is None:
        hint = "add resolution = 512 (1024 for SDXL), or pass --resolution"
        findings.error("`resolution` is missing", where, hint)
        resolution = DEFAULT_RESOLUTION
    is_square = isinstance(resolution, int | float)
    width, height = (resolution, resolution) if is_square else resolution
    buckets = BucketConfig(
        enabled=values["enable_bucket"],
        min_side=values["min_bucket_reso"],
        max_side=values["max_bucket_reso"],
        step=values["bucket_reso_steps"],
        no_upscale=values["bucket_no_upscale"],
        log_ratio=defaults.log_ratio,
    )
    check_ranges(values, where, findings, of_subset=False)
    size = f"resolution {width}x{height}"
    if min(width, height) < SMALLEST_RESOLUTION:
        hint = f"use at least {SMALLEST_RESOLUTION} pixels"
        findings.error(f"{size} is too small", where, hint)
    elif max(width, height) > LARGEST_SIDE:
        findings.error(f"{size} is too large", where, f"use at most {LARGEST_SIDE} pixels")
    elif buckets.step >= 1:
        _check_step(buckets, width, height, where, defaults.bucket_unit, findings)
    return DatasetConfig(
        resolution_wh=(width, height),
        batch_size=values["batch_size"],
        buckets=buckets,
        validation_seed=values["validation_seed"],
        subsets=subsets,
        where=where,
    )


def _check_step(
    buckets: BucketConfig, width: int, height: int, where: str, unit: int, findings: Findings
) -> None:
    """Check that the resolution fits the bucket step, and the step the model's unit (pixels)."""
    step = buckets.step
    multiple = step if buckets.enabled else SMALLEST_RESOLUTION
    if width % multiple or height % multiple:
        sides = [max(1, round(side / multiple)) * multiple for side in (width, height)]
        what = f"resolution {width}x{height} is not a multiple of {multiple}"
        findings.warn(what, where, f"{sides[0]}x{sides[1]} is")
    if not buckets.enabled:
        return
    if step % unit:
        what = f"`bucket_reso_steps` {step} is not a multiple of {unit}"
        findings.error(what, where, f"use {-(-step // unit) * unit}")
    elif not buckets.no_upscale:  # otherwise each image makes its own bucket, without limits
        _check_limits(buckets, width, height, where, findings)


def _check_limits(
    buckets: BucketConfig, width: int, height: int, where: str, findings: Findings
) -> None:
    """Check the smallest and the largest bucket side."""
    step = buckets.step
    low = buckets.min_side // step * step
    high = -(-buckets.max_side // step) * step
    if low < step:
        what = f"`min_bucket_reso` {buckets.min_side} is below `bucket_reso_steps` {step}"
        findings.error(what, where, f"use {step} or more")
    if high > LARGEST_SIDE:
        what = f"`max_bucket_reso` {buckets.max_side} is too large"
        findings.error(what, where, f"use at most {LARGEST_SIDE}")
    if min(width, height) < low:
        what = f"resolution {width}x{height} is below `min_bucket_reso` {low}"
        findings.error(what, where, "lower min_bucket_reso")
    if max(width, height) > high:
        what = f"resolution {width}x{height} is above `max_bucket_reso` {high}"
        findings.error(what, where, "raise max_bucket_reso")


def make_subset(
    layers: Sequence[Layer], where: str, defaults: DatasetDefaults, findings: Findings
) -> SubsetConfig:
    """Build a subset from the layers that apply to it, the default ones first."""
    values = _merged(layers)
    _check_source(values, layers, where, findings)
    check_ranges(values, where, findings, of_subset=True)
    _check_uses(values, layers, where, findings)
    _check_caption_keys(values, where, findings)
    _check_image_keys(values, where, defaults, findings)
    return SubsetConfig(
        image_dir=_path(values.get("image_dir")),
        metadata_file=_path(values.get("metadata_file")),
        mask_dir=_path(values["conditioning_data_dir"]),
        num_repeats=values["num_repeats"],
        samples_per_epoch=values.get("samples_per_epoch"),
        loss_weight=values.get("loss_weight", 1.0),
        prior_prediction=values.get("prior_prediction", False),
        regularisation=values.get("is_reg", False),
        validation_split=values["validation_split"],
        caption_extensions=_extensions(values["caption_extension"]),
        class_tokens=values.get("class_tokens"),
        cache_sizes=values["cache_info"],
        captions=CaptionRules(
            **caption_rules_in(values),
            # Regularisation images show the class: with the word, they would teach it the class.
            template=None if values.get("is_reg") else defaults.template,
            as_reference=defaults.as_reference,
        ),
        images=ImageRules(
            **image_rules_in(values),
            background=defaults.background,
            as_reference=defaults.as_reference,
        ),
        where=where,
        settings=_settings(layers),
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _extensions(value: str | None) -> tuple[str, ...]:
    if value is None:
        return (".caption", ".txt")
    return (value if value.startswith(".") else f".{value}",)


def _check_source(
    values: Mapping[str, Any], layers: Sequence[Layer], where: str, findings: Findings
) -> None:
    """Check where the images come from."""
    if "metadata_file" not in values:
        if not values.get("image_dir"):
            findings.error("`image_dir` is missing", where)
        return
    if not values["metadata_file"]:
        findings.error("`metadata_file` is empty", where, "name the file, or leave the key out")
    # Defaults and [general] may set it for other subsets
    if any("caption_extension" in layer.values for layer in layers[-2:]):
        note = "caption_extension has no effect with a metadata_file, which holds the captions"
        findings.note(note)


def _check_uses(
    values: Mapping[str, Any], layers: Sequence[Layer], where: str, findings: Findings
) -> None:
    """Check how often images are used, and how much they count."""
    if values.get("samples_per_epoch") and "num_repeats" in layers[-1].values:
        findings.note(f"num_repeats has no effect with samples_per_epoch ({where})")
    if values.get("loss_weight") == 0:
        hint = "num_repeats = 0 leaves its images out"
        findings.warn("`loss_weight` is 0: the subset teaches nothing", where, hint)


def _check_caption_keys(values: Mapping[str, Any], where: str, findings: Findings) -> None:
    if not values["caption_separator"]:
        findings.error("`caption_separator` must not be empty", where)
    _check_tag_dropout(values, where, findings)
    hint = "without its caption an image has no word to teach; use caption_tag_dropout_rate"
    for name in ("caption_dropout_rate", "caption_dropout_every_n_epochs"):
        if values.get(name):
            findings.error(f"`{name}` is not for Textual Inversion", where, hint)


def _check_tag_dropout(values: Mapping[str, Any], where: str, findings: Findings) -> None:
    """Check how tags are left out, and which never are."""
    for name, options in (
        ("tag_dropout_mode", get_args(TagDropout)),
        ("tag_dropout_special_tags_mode", get_args(SpecialTags)),
    ):
        if values[name] not in options:
            hint = f"one of {', '.join(options)}"
            findings.error(f"`{name}` {values[name]!r} is not known", where, hint)
    if values["tag_dropout_special_tags_regex"]:
        for pattern in caption_rules_in(values)["special_tags"]:
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"`tag_dropout_special_tags`: {pattern!r} is not a regular expression"
                findings.error(f"{what}: {error}", where, "put patterns with commas into a list")
    _note_idle_tags(values, findings)


def _note_idle_tags(values: Mapping[str, Any], findings: Findings) -> None:
    """Note settings of the tag dropout that nothing uses."""
    tags = values["tag_dropout_special_tags"]
    if not values["caption_tag_dropout_rate"]:
        if tags or values["tag_dropout_mode"] != "random":
            findings.note("tag_dropout_* has no effect without caption_tag_dropout_rate")
    elif not tags and (
        values["tag_dropout_special_tags_regex"]
        or values["tag_dropout_special_tags_mode"] != "whitelist"
    ):
        findings.note("tag_dropout_special_tags_* has no effect without tag_dropout_special_tags")


def _check_image_keys(
    values: Mapping[str, Any], where: str, defaults: DatasetDefaults, findings: Findings
) -> None:
    method, methods = values["resize_interpolation"], get_args(Interpolation)
    if method is not None and method not in methods:
        hint = f"one of {', '.join(methods)}"
        findings.error(f"`resize_interpolation` {method!r} is not known", where, hint)
    for name in VARYING_PIXELS:
        if defaults.cached and values[name]:
            what = f"`{name}` varies the pixels, which cached latents cannot"
            findings.error(what, where, f"drop --cache_latents or {name}")
    face_range = values["face_crop_aug_range"]
    if not face_range:
        return
    low, high = face_range
    if not 0 < low <= high:
        what = f"`face_crop_aug_range` {list(face_range)} is not a range"
        findings.error(what, where, "write [lo, hi] with 0 < lo <= hi, such as [2.0, 4.0]")
    if defaults.cached or values["enable_bucket"]:
        reason = "cached latents" if defaults.cached else "buckets"
        findings.note(
            f"face_crop_aug_range has no effect with {reason}: images are cut in the middle"
        )
