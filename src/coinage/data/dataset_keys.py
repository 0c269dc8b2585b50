"""The keys of dataset files: one row each, with type, place, range and the rule that it sets.

A caption or image rule takes three steps: its field in `CaptionRules` or `ImageRules`, its row in
`KEYS`, and its stage in `captions.apply_rules` or `images.load_view`. A flag of the same name, if
there is one, supplies it to all datasets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coinage.errors import Findings, did_you_mean
from coinage.system.text_files import SLASHES, at_home, path_problem
from coinage.text.placeholder import encodable

Kind = Literal["int", "float", "str", "strs", "path", "bool", "size", "range", "table"]
Level = Literal["general", "dataset", "subset"]

GENERAL_AND_DATASET: tuple[Level, ...] = ("general", "dataset")
ANYWHERE: tuple[Level, ...] = ("general", "dataset", "subset")
SUBSET_ONLY: tuple[Level, ...] = ("subset",)
LEVEL_NAMES: dict[Level, str] = {
    "general": "[general]",
    "dataset": "[[datasets]]",
    "subset": "[[datasets.subsets]]",
}
KIND_NAMES: dict[Kind, str] = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "strs": "a string, or a list of strings",
    "path": "a string",
    "bool": "true or false",
    "size": "an integer, or two: [width, height]",
    "range": "two numbers: [lo, hi]",
    "table": "a table",
}
LONGEST_NUMBER = 100  # characters of a number in quotes that are read
LONGEST_SHOWN = 60  # characters of a value in a message
LARGEST = 2**31 - 1  # no count, seed or size is meant to be larger
MOST_REPEATS = 100_000
CAPITALS = "has no effect: these models' tokenizers read capitals as small letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the dataset file.

    Attributes:
        kind: type of its value.
        levels: tables where it may stand.
        note: why it has no effect; "" where it has one.
        caption_rule: field of `CaptionRules` that it sets; "" for none.
        image_rule: field of `ImageRules` that it sets; "" for none.
        least, most: range of its value; None: no limit.
    """

    kind: Kind
    levels: tuple[Level, ...] = ANYWHERE
    note: str = ""
    caption_rule: str = ""
    image_rule: str = ""
    least: float | None = None
    most: float | None = None


KEYS: dict[str, Key] = {
    # Datasets
    "resolution": Key(kind="size", levels=GENERAL_AND_DATASET),
    "batch_size": Key(kind="int", levels=GENERAL_AND_DATASET, least=1),
    "enable_bucket": Key(kind="bool", levels=GENERAL_AND_DATASET),
    "bucket_no_upscale": Key(kind="bool", levels=GENERAL_AND_DATASET),
    "min_bucket_reso": Key(kind="int", levels=GENERAL_AND_DATASET),
    "max_bucket_reso": Key(kind="int", levels=GENERAL_AND_DATASET),
    "bucket_reso_steps": Key(kind="int", levels=GENERAL_AND_DATASET, least=1),
    "validation_seed": Key(kind="int", levels=GENERAL_AND_DATASET),
    # Subsets
    "image_dir": Key(kind="path", levels=SUBSET_ONLY),
    "metadata_file": Key(kind="path", levels=SUBSET_ONLY),
    "is_reg": Key(kind="bool", levels=SUBSET_ONLY),
    "num_repeats": Key(kind="int", most=MOST_REPEATS),
    "samples_per_epoch": Key(kind="int", least=1, most=MOST_REPEATS),
    "loss_weight": Key(kind="float", least=0, most=1000),
    "prior_prediction": Key(kind="bool", levels=SUBSET_ONLY),
    "validation_split": Key(kind="float", least=0, most=1),
    "caption_extension": Key(kind="str"),
    "class_tokens": Key(kind="str"),
    "cache_info": Key(kind="bool"),
    "conditioning_data_dir": Key(kind="path"),
    # Caption rules
    "caption_separator": Key(kind="str", caption_rule="separator"),
    "shuffle_caption": Key(kind="bool", caption_rule="shuffle"),
    "keep_tokens": Key(kind="int", caption_rule="keep_tokens", least=0, most=LARGEST),
    "keep_tokens_separator": Key(kind="str", caption_rule="keep_separator"),
    "secondary_separator": Key(kind="str", caption_rule="secondary_separator"),
    "enable_wildcard": Key(kind="bool", caption_rule="wildcard"),
    "caption_tag_dropout_rate": Key(kind="float", caption_rule="tag_dropout", least=0, most=1),
    "tag_dropout_mode": Key(kind="str", caption_rule="tag_dropout_mode"),
    "tag_dropout_special_tags": Key(kind="strs", caption_rule="special_tags"),
    "tag_dropout_special_tags_mode": Key(kind="str", caption_rule="special_tags_mode"),
    "tag_dropout_special_tags_regex": Key(kind="bool", caption_rule="special_tags_regex"),
    "token_warmup_min": Key(kind="int", caption_rule="warmup_min", least=0, most=LARGEST),
    "token_warmup_step": Key(kind="float", caption_rule="warmup", least=0, most=LARGEST),
    "caption_prefix": Key(kind="str", caption_rule="prefix"),
    "caption_suffix": Key(kind="str", caption_rule="suffix"),
    # Image rules
    "flip_aug": Key(kind="bool", image_rule="flip"),
    "color_aug": Key(kind="bool", image_rule="color"),
    "random_crop": Key(kind="bool", image_rule="random_crop"),
    "face_crop_aug_range": Key(kind="range", image_rule="face_crop"),
    "random_rotate_max_angle": Key(kind="float", image_rule="rotate", least=0, most=180),
    "random_brightness_max_strength": Key(kind="float", image_rule="brightness", least=0, most=1),
    "random_contrast_max_strength": Key(kind="float", image_rule="contrast", least=0, most=1),
    "random_saturation_max_strength": Key(kind="float", image_rule="saturation", least=0, most=1),
    "random_hue_max_strength": Key(kind="float", image_rule="hue", least=0, most=1),
    "resize_interpolation": Key(kind="str", image_rule="interpolation"),
    "alpha_mask": Key(kind="bool", image_rule="alpha_mask"),
    # Refused or without effect
    "caption_dropout_rate": Key(kind="float"),
    "caption_dropout_every_n_epochs": Key(kind="int"),
    "network_multiplier": Key(
        kind="float",
        levels=GENERAL_AND_DATASET,
        note="is for LoRA networks and has no effect on a word",
    ),
    "caps_randomize_probability": Key(kind="float", least=0, most=1, note=CAPITALS),
    "caps_randomize_mode": Key(kind="str", note=CAPITALS),
    "caps_randomize_lowercase": Key(kind="bool", note=CAPITALS),
    "custom_attributes": Key(kind="table", note="is for custom dataset classes and has no effect"),
}
FLAG_ONLY = (
    "prior_loss_weight",
    "max_token_length",
    "debug_dataset",
    "cache_latents",
    "cache_latents_to_disk",
    "vae_batch_size",
)
# Keys of other models' dataset files and of other tools: our name for the same, or "".
FOREIGN_KEYS = {
    "system_prompt": "",
    "skip_image_resolution": "",
    "multires_training": "",
    "t5xxl_max_token_length": "",
    "apply_t5_attn_mask": "",
    "cache_directory": "",
    "control_directory": "",
    "video_directory": "",
    "target_frames": "",
    "image_directory": "image_dir",
    "image_jsonl_file": "metadata_file",
    "repeats": "num_repeats",
    "train_data_dir": "image_dir",
    "dataset_repeats": "num_repeats",
    "train_batch_size": "batch_size",
    "in_json": "metadata_file",
    "path": "image_dir",
    "balancing": "num_repeats",
    "balancing_strategy": "samples_per_epoch",
    "tag_delimiter": "caption_separator",
    "keep_tags_count": "keep_tokens",
    "enable_tag_shuffling": "shuffle_caption",
    "tag_dropout_probability": "caption_tag_dropout_rate",
    "enable_random_flip": "flip_aug",
    "enable_crop_jitter": "random_crop",
    "resolution_override": "resolution",
}


def shown(value: object) -> str:
    """Return a value as a file has it, in at most 60 characters."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4300 digits
        return "..."
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def caption_rules_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `CaptionRules` that some keys set."""
    rules = {}
    for name, key in KEYS.items():
        if key.caption_rule and name in values:
            value = values[name]
            if key.kind == "strs":
                value = _texts(value, values.get("caption_separator") or ",")
            rules[key.caption_rule] = value
    return rules


def _texts(value: str | list[str] | None, separator: str) -> tuple[str, ...]:
    """Return the texts of a list, or those between separators; empty ones are left out."""
    texts = value.split(separator) if isinstance(value, str) else value or []
    return tuple(filter(None, (text.strip() for text in texts)))


def image_rules_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `ImageRules` that some keys set."""
    rules = {}
    for name, key in KEYS.items():
        if key.image_rule and name in values:
            value = values[name]
            rules[key.image_rule] = tuple(value) if isinstance(value, list) else value
    return rules


def check_ranges(
    values: Mapping[str, Any], where: str, findings: Findings, *, of_subset: bool
) -> None:
    """Add an error for each number outside of its key's range.

    Args:
        values: by key, each of its key's type.
        where: table of the file, for messages.
        findings: gets the errors.
        of_subset: check the keys that a subset may have; False: those of datasets alone.
    """
    for name, key in KEYS.items():
        value = values.get(name)
        if value is None or ("subset" in key.levels) != of_subset:
            continue
        too_small = key.least is not None and not value >= key.least
        too_large = key.most is not None and not value <= key.most
        if not (too_small or too_large):
            continue
        if key.most is None:
            findings.error(f"`{name}` must be at least {key.least:g}", where)
        elif key.least is None:
            findings.error(f"`{name}` {value} is too large", where, f"use at most {key.most}")
        else:
            allowed = f"use a number from {key.least} to {key.most}"
            findings.error(f"`{name}` {value} is out of range", where, allowed)


def check_table(table: Mapping[str, Any], level: Level, where: str, findings: Findings) -> None:
    """Check names, places and types of the keys in a table of a dataset file.

    Args:
        table: as read.
        level: which table it is.
        where: its place in the file, for messages.
        findings: gets an error for each wrong key, and a note for each that has no effect.
    """
    for name, value in table.items():
        if level == "dataset" and name == "subsets":
            continue
        key = KEYS.get(name)
        if key is not None:
            _check_value(name, key, value, level, where, findings)
        elif name in FLAG_ONLY:
            hint = f"pass --{name} on the command line"
            findings.error(f"key `{name}` does not belong in the file", where, hint)
        else:
            findings.error(f"unknown key `{name}`", where, _hint_for_unknown(name, level))


def _check_value(
    name: str, key: Key, value: Any, level: Level, where: str, findings: Findings
) -> None:
    if level not in key.levels:
        allowed = " or ".join(LEVEL_NAMES[level] for level in key.levels)
        findings.error(f"key `{name}` does not belong here", where, f"put it in {allowed}")
        return
    if not _has_kind(value, key.kind):
        what = f"`{name} = {shown(value)}` is not {KIND_NAMES[key.kind]}"
        findings.error(what, where, _hint_for_number(name, value, key.kind))
        return
    reason = path_problem(at_home(value)) if key.kind == "path" else ""
    if reason:
        hint = SLASHES if "character" in reason else ""
        findings.error(f"`{name} = {shown(value)}`: {reason}", where, hint)
    elif key.note:
        findings.note(f"{name} {key.note}")


def _has_kind(value: object, kind: Kind) -> bool:
    """Return whether a value is of a type, and no number larger than anyone means."""
    if kind == "int":
        return type(value) is int and abs(value) <= LARGEST
    if kind == "float":  # nan compares as False
        return type(value) in (int, float) and -LARGEST <= value <= LARGEST  # type: ignore[operator]
    if kind in ("size", "range"):
        number: Kind = "int" if kind == "size" else "float"
        return _is_pair(value, number) or (kind == "size" and _has_kind(value, number))
    if kind == "strs":
        texts = value if isinstance(value, list) else [value]
        return all(_has_kind(text, "str") for text in texts)
    if kind in ("str", "path"):
        return isinstance(value, str) and "\0" not in value and encodable(value)
    return isinstance(value, bool if kind == "bool" else dict)


def _is_pair(value: object, kind: Kind) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return _has_kind(value[0], kind) and _has_kind(value[1], kind)


def _hint_for_unknown(name: str, level: Level) -> str:
    if name in FOREIGN_KEYS:
        ours = FOREIGN_KEYS[name]
        return f"it is called `{ours}` here" if ours else "it is for other models: leave it out"
    allowed = [key for key, row in KEYS.items() if level in row.levels]
    return did_you_mean(name, allowed)


def _hint_for_number(name: str, value: object, kind: Kind) -> str:
    """Return a hint where a number stands in quotes or is written as 2.0; "" otherwise."""
    number: object = None
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, str) and len(value) < LONGEST_NUMBER:
        try:
            number = json.loads(f"[{value}]" if "," in value else value.lower())
        except ValueError:
            return ""
    return f"write {name} = {shown(number)}" if _has_kind(number, kind) else ""
