"""From checked dataset tables to frozen datasets and subsets: precedence, ranges, what excludes what."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from coinage.config import (
    BucketConfig,
    CaptionRules,
    DatasetConfig,
    ImageRules,
    Interpolation,
    SubsetConfig,
)
from coinage.errors import Findings

LARGEST_SIDE = 16384  # pixels
MOST_REPEATS = 100_000
LARGEST_COUNT = 2**31


@dataclass(frozen=True, slots=True)
class Layer:
    """Values that were set in one place; a later layer wins over an earlier one."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What the command line supplies to every dataset."""

    layers: tuple[Layer, ...]  # defaults, then given flags
    template: Literal["object", "style"] | None = None
    cached: bool = False  # latents are cached: pixels must not vary
    bucket_unit: int = 64  # bucket sides are multiples of this: 64 for SD 1.x and 2.x, 32 for SDXL
    as_reference: bool = False
    log_ratio: bool = False
    background: str = "white"  # behind transparent images


def make_dataset(
    layers: Sequence[Layer],
    subsets: Sequence[Layer],
    where: str,
    fallback: Fallback,
    findings: Findings,
) -> DatasetConfig:
    """A dataset from checked tables; what is missing or out of range is found.

    Subsets that are named twice, by whatever spelling, or have no repeats, are left out with a warning.
    """
    values = _merged(layers)
    with_metadata = ["metadata_file" in subset.values for subset in subsets]
    if any(with_metadata) and not all(with_metadata):
        odd = ", ".join(str(i) for i, has in enumerate(with_metadata, 1) if not has)
        findings.error(
            f"some subsets have a metadata_file, and subset {odd} has none",
            where,
            "put them into datasets of their own",
        )
    kept: dict[tuple[str, ...], SubsetConfig] = {}
    for layer in subsets:
        subset = make_subset([*layers, layer], layer.name, fallback, findings)
        source = str(subset.metadata_file or subset.image_dir)
        identity = (os.path.realpath(source), str(subset.metadata_file is not None))
        if identity in kept:
            findings.warn(f"{source} is in this dataset already and is left out", layer.name)
        elif subset.num_repeats < 1:
            findings.warn(f"num_repeats is {subset.num_repeats}: {source} is left out", layer.name)
        else:
            kept[identity] = subset
    return _dataset(values, tuple(kept.values()), where, fallback, findings)


def shown(value: object) -> str:
    """A value as the file has it, shortened."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4300 digits
        return "..."
    return text if len(text) <= 60 else f"{text[:57]}..."


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for layer in layers:
        values |= layer.values
    return values


def _settings(layers: Sequence[Layer]) -> tuple[tuple[str, str], ...]:
    """What was set, and where it counts; defaults are left out."""
    found: dict[str, tuple[Any, str]] = {}
    for layer in layers[1:]:
        place = layer.name[max(layer.name.rfind("[["), 0) :]  # without the file's name
        found |= {key: (value, place) for key, value in layer.values.items()}
    return tuple(
        (f"{key} = {shown(value)}", where) for key, (value, where) in sorted(found.items())
    )


def _dataset(
    values: Mapping[str, Any],
    subsets: tuple[SubsetConfig, ...],
    where: str,
    fallback: Fallback,
    findings: Findings,
) -> DatasetConfig:
    resolution = values.get("resolution")
    if resolution is None:
        findings.error(
            "`resolution` is missing",
            where,
            "add resolution = 512 (1024 for SDXL), or pass --resolution",
        )
        resolution = 512
    width, height = resolution if isinstance(resolution, list | tuple) else (resolution, resolution)
    buckets = BucketConfig(
        enabled=values["enable_bucket"],
        min_side=values["min_bucket_reso"],
        max_side=values["max_bucket_reso"],
        step=values["bucket_reso_steps"],
        no_upscale=values["bucket_no_upscale"],
        log_ratio=fallback.log_ratio,
    )
    for name in ("batch_size", "bucket_reso_steps"):
        if values[name] < 1:
            findings.error(f"`{name}` must be at least 1", where)
    if min(width, height) < 8:
        findings.error(f"resolution {width}x{height} is too small", where, "use at least 8 pixels")
    elif max(width, height) > LARGEST_SIDE:
        findings.error(
            f"resolution {width}x{height} is too large", where, f"use at most {LARGEST_SIDE} pixels"
        )
    elif values["bucket_reso_steps"] >= 1:
        _check_buckets(buckets, width, height, where, fallback.bucket_unit, findings)
    return DatasetConfig(
        resolution_wh=(width, height),
        batch_size=values["batch_size"],
        buckets=buckets,
        validation_seed=values["validation_seed"],
        subsets=subsets,
        where=where,
    )


def _check_buckets(
    buckets: BucketConfig, width: int, height: int, where: str, unit: int, findings: Findings
) -> None:
    step = buckets.step
    multiple = step if buckets.enabled else 8
    if width % multiple or height % multiple:
        nearest = f"{max(1, round(width / multiple)) * multiple}x{max(1, round(height / multiple)) * multiple}"
        findings.warn(
            f"resolution {width}x{height} is not a multiple of {multiple}", where, f"{nearest} is"
        )
    if not buckets.enabled:
        return
    if step % unit:
        findings.error(
            f"`bucket_reso_steps` {step} is not a multiple of {unit}",
            where,
            f"use {-(-step // unit) * unit}",
        )
        return
    if buckets.no_upscale:
        return  # each image makes its own bucket: the limits are not used
    low = buckets.min_side // step * step
    high = -(-buckets.max_side // step) * step
    if low < step:
        findings.error(
            f"`min_bucket_reso` {buckets.min_side} is below `bucket_reso_steps` {step}",
            where,
            f"use {step} or more",
        )
    if high > LARGEST_SIDE:
        findings.error(
            f"`max_bucket_reso` {buckets.max_side} is too large",
            where,
            f"use at most {LARGEST_SIDE}",
        )
    if min(width, height) < low:
        findings.error(
            f"resolution {width}x{height} is below `min_bucket_reso` {low}",
            where,
            "lower min_bucket_reso",
        )
    if max(width, height) > high:
        findings.error(
            f"resolution {width}x{height} is above `max_bucket_reso` {high}",
            where,
            "raise max_bucket_reso",
        )


def _extensions(value: str | None) -> tuple[str, ...]:
    if value is None:
        return (".caption", ".txt")
    return (value if value.startswith(".") else f".{value}",)


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def make_subset(
    layers: Sequence[Layer], where: str, fallback: Fallback, findings: Findings
) -> SubsetConfig:
    """A subset from the layers that apply to it, the default ones first."""
    values = _merged(layers)
    if not values.get("image_dir") and "metadata_file" not in values:
        findings.error("`image_dir` is missing", where)
    if values.get("metadata_file") == "":
        findings.error("`metadata_file` is empty", where, "name the file, or leave the key out")
    if "metadata_file" in values and any(
        "caption_extension" in layer.values for layer in layers[-2:]
    ):
        findings.note(
            "caption_extension has no effect with a metadata_file, which holds the captions"
        )
    _check_values(values, where, fallback, findings)
    return SubsetConfig(
        image_dir=_path(values.get("image_dir")),
        metadata_file=_path(values.get("metadata_file")),
        mask_dir=_path(values["conditioning_data_dir"]),
        num_repeats=values["num_repeats"],
        regularisation=values.get("is_reg", False),
        validation_split=values["validation_split"],
        caption_extensions=_extensions(values["caption_extension"]),
        class_tokens=values.get("class_tokens"),
        cache_sizes=values["cache_info"],
        captions=_caption_rules(values, fallback),
        images=ImageRules(
            flip=values["flip_aug"],
            color=values["color_aug"],
            random_crop=values["random_crop"],
            face_crop=tuple(values["face_crop_aug_range"])
            if values["face_crop_aug_range"]
            else None,
            interpolation=values["resize_interpolation"],
            alpha_mask=values["alpha_mask"],
            background=fallback.background,
            as_reference=fallback.as_reference,
        ),
        where=where,
        settings=_settings(layers),
    )


def _caption_rules(values: Mapping[str, Any], fallback: Fallback) -> CaptionRules:
    return CaptionRules(
        separator=values["caption_separator"],
        shuffle=values["shuffle_caption"],
        keep_tokens=values["keep_tokens"],
        keep_separator=values["keep_tokens_separator"],
        secondary_separator=values["secondary_separator"],
        wildcard=values["enable_wildcard"],
        tag_dropout=values.get("caption_tag_dropout_rate", 0),
        warmup_min=values["token_warmup_min"],
        warmup=values["token_warmup_step"],
        prefix=values["caption_prefix"],
        suffix=values["caption_suffix"],
        # Regularisation images show the class: a sentence with the word would teach the class as the word.
        template=None if values.get("is_reg") else fallback.template,
        as_reference=fallback.as_reference,
    )


def _check_values(
    values: Mapping[str, Any], where: str, fallback: Fallback, findings: Findings
) -> None:
    for name in ("keep_tokens", "token_warmup_min", "token_warmup_step"):
        if not 0 <= values[name] < LARGEST_COUNT:
            findings.error(
                f"`{name}` {values[name]} is out of range", where, f"use 0 to {LARGEST_COUNT - 1}"
            )
    if values["num_repeats"] > MOST_REPEATS:
        findings.error(
            f"`num_repeats` {values['num_repeats']} is too large",
            where,
            f"use at most {MOST_REPEATS}",
        )
    if not values["caption_separator"]:
        findings.error("`caption_separator` must not be empty", where)
    for name in ("caption_tag_dropout_rate", "validation_split"):
        if not 0 <= values.get(name, 0) <= 1:
            findings.error(f"`{name}` {values[name]} must be between 0 and 1", where)
    hint = "without its caption an image has no word to teach; use caption_tag_dropout_rate"
    for name in ("caption_dropout_rate", "caption_dropout_every_n_epochs"):
        if values.get(name):
            findings.error(f"`{name}` is not for Textual Inversion", where, hint)
    _check_images(values, where, fallback, findings)


def _check_images(
    values: Mapping[str, Any], where: str, fallback: Fallback, findings: Findings
) -> None:
    method = values["resize_interpolation"]
    if method is not None and method not in get_args(Interpolation):
        findings.error(
            f"`resize_interpolation` {method!r} is not known",
            where,
            f"one of {', '.join(get_args(Interpolation))}",
        )
    for name in ("color_aug", "random_crop"):
        if fallback.cached and values[name]:
            findings.error(
                f"`{name}` varies the pixels, which cached latents cannot",
                where,
                f"drop --cache_latents or {name}",
            )
    face = values["face_crop_aug_range"]
    if face and not 0 < face[0] <= face[1]:
        findings.error(
            f"`face_crop_aug_range` {list(face)} is not a range",
            where,
            "write [lo, hi] with 0 < lo <= hi, such as [2.0, 4.0]",
        )
    if face and (fallback.cached or values["enable_bucket"]):
        why = "cached latents" if fallback.cached else "buckets"
        findings.note(f"face_crop_aug_range has no effect with {why}: images are cut in the middle")
