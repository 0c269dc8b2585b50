"""Dataset files (TOML or JSON): `[general]`, `[[datasets]]`, `[[datasets.subsets]]`, and the folder layout.

The schema and the precedence (subset, dataset, general, command line, default) are the reference
trainer's. All problems of a file are found before any is reported.
"""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coinage.config import BucketConfig, CaptionRules, DatasetConfig, SubsetConfig
from coinage.errors import ConfigError, Problem, did_you_mean

log = logging.getLogger("coinage")

Kind = Literal["int", "float", "str", "bool", "size", "range", "table"]
EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "size": "an integer, or two: [width, height]",
    "range": "two numbers: [lo, hi]",
    "table": "a table",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the dataset file: its type and the levels (G, D, S) where it may stand."""

    kind: Kind
    levels: str = "GDS"
    acts: bool = True


KEYS: dict[str, Key] = {
    "resolution": Key("size", "GD"),
    "batch_size": Key("int", "GD"),
    "enable_bucket": Key("bool", "GD"),
    "bucket_no_upscale": Key("bool", "GD", acts=False),
    "min_bucket_reso": Key("int", "GD"),
    "max_bucket_reso": Key("int", "GD"),
    "bucket_reso_steps": Key("int", "GD"),
    "network_multiplier": Key("float", "GD", acts=False),
    "validation_split": Key("float", "GDS", acts=False),
    "validation_seed": Key("int", "GD", acts=False),
    "resize_interpolation": Key("str", acts=False),
    "num_repeats": Key("int"),
    "caption_separator": Key("str"),
    "keep_tokens": Key("int"),
    "token_warmup_min": Key("int"),
    "token_warmup_step": Key("float"),
    "keep_tokens_separator": Key("str"),
    "secondary_separator": Key("str"),
    "caption_prefix": Key("str"),
    "caption_suffix": Key("str"),
    "shuffle_caption": Key("bool"),
    "enable_wildcard": Key("bool"),
    "color_aug": Key("bool", acts=False),
    "flip_aug": Key("bool"),
    "random_crop": Key("bool", acts=False),
    "face_crop_aug_range": Key("range", acts=False),
    "custom_attributes": Key("table", acts=False),
    "caption_dropout_rate": Key("float"),
    "caption_tag_dropout_rate": Key("float"),
    "caption_dropout_every_n_epochs": Key("int"),
    "caption_extension": Key("str"),
    "cache_info": Key("bool", acts=False),
    "class_tokens": Key("str"),
    "is_reg": Key("bool", "S"),
    "alpha_mask": Key("bool", acts=False),
    "metadata_file": Key("str", "S", acts=False),
    "conditioning_data_dir": Key("str", "S", acts=False),
    "image_dir": Key("str", "S"),
}
BUCKET_STEP = 64  # pixels, for SD 1.x and 2.x
LEVELS = {"G": "[general]", "D": "[[datasets]]", "S": "[[datasets.subsets]]"}


def _fits(value: object, kind: Kind) -> bool:
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "size":
        return _fits(value, "int") or (isinstance(value, list) and len(value) == 2 and all(_fits(v, "int") for v in value))
    if kind == "range":
        return isinstance(value, list) and len(value) == 2 and all(_fits(v, "float") for v in value)
    return isinstance(value, {"str": str, "bool": bool, "table": dict}[kind])


def _check_table(table: Mapping[str, Any], level: str, where: str, child: str | None) -> list[Problem]:
    problems = []
    for name, value in table.items():
        if name == child:
            continue
        key = KEYS.get(name)
        if key is None:
            known = [k for k, v in KEYS.items() if level in v.levels]
            problems.append(Problem(f"unknown key `{name}`", where, did_you_mean(name, known)))
        elif level not in key.levels:
            allowed = " or ".join(LEVELS[x] for x in key.levels)
            problems.append(Problem(f"key `{name}` does not belong here", where, f"put it in {allowed}"))
        elif not _fits(value, key.kind):
            problems.append(Problem(f"`{name} = {json.dumps(value, default=str)}` is not {EXPECTED[key.kind]}", where))
    return problems


def _load(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in (".toml", ".json"):
        raise ConfigError([Problem("the dataset config must be a .toml or .json file", str(path))])
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise ConfigError([Problem("dataset config not found", str(path))]) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError([Problem(f"cannot read the dataset config: {error}", str(path))]) from None
    if not isinstance(data, dict):
        raise ConfigError([Problem("the dataset config must be a table", str(path))])
    return data


def _tables(value: object, name: str, where: str, problems: list[Problem]) -> list[dict[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return value
    problems.append(Problem(f"needs at least one [[{name}]]", where))
    return []


def read_datasets(path: Path, fallback: Mapping[str, Any]) -> tuple[tuple[DatasetConfig, ...], set[str]]:
    """Read a dataset file.

    Args:
        path: a .toml or .json file; relative image folders are taken from the working directory.
        fallback: values of the command line, by key.

    Returns:
        The datasets, and the keys in use that have no effect yet.

    Raises:
        ConfigError: all problems of the file.
    """
    data = _load(path)
    problems: list[Problem] = []
    tables = ["general", "datasets"]
    problems += [Problem(f"unknown table `{x}`", str(path), did_you_mean(x, tables)) for x in data if x not in tables]
    general = data.get("general", {})
    if not isinstance(general, dict):
        problems.append(Problem("`general` must be a table", str(path)))
        general = {}
    general_problems = _check_table(general, "G", f"{path}, [general]", None)
    problems += general_problems
    datasets, idle = [], _idle(general)
    for i, table in enumerate(_tables(data.get("datasets"), "datasets", str(path), problems), 1):
        where = f"{path}, [[datasets]] {i}"
        wrong = _check_table(table, "D", where, "subsets")
        subsets = _tables(table.get("subsets"), "datasets.subsets", where, wrong)
        for j, subset in enumerate(subsets, 1):
            wrong += _check_table(subset, "S", f"{where}, [[datasets.subsets]] {j}", None)
        idle = idle.union(_idle(table), *map(_idle, subsets))
        problems += wrong
        if not wrong and not general_problems:
            datasets.append(_dataset({**fallback, **general, **table}, subsets, where, problems))
    if problems:
        raise ConfigError(problems)
    return tuple(datasets), idle


def _idle(table: Mapping[str, Any]) -> set[str]:
    """The table's keys that have no effect yet."""
    return {name for name in table if name in KEYS and not KEYS[name].acts}


def _dataset(values: Mapping[str, Any], subsets: Sequence[Mapping[str, Any]], where: str, problems: list[Problem]) -> DatasetConfig:
    """A dataset of checked tables. Regularisation images and folders named twice are left out, and told."""
    kept: dict[Path, SubsetConfig] = {}
    for j, subset in enumerate(subsets, 1):
        read = _subset({**values, **subset}, f"{where}, [[datasets.subsets]] {j}", problems)
        folder = read.image_dir.resolve()
        if subset.get("is_reg"):
            # They do not hold the word: as ordinary images they would spoil the run.
            log.warning("%s: regularisation images are left out, as they do not teach the word", read.where)
        elif folder in kept:
            log.warning("%s: %s is in this dataset already and is left out", read.where, read.image_dir)
        else:
            kept[folder] = read
    return dataset_from(values, tuple(kept.values()), where, problems)


def dataset_from(values: Mapping[str, Any], subsets: tuple[SubsetConfig, ...], where: str, problems: list[Problem]) -> DatasetConfig:
    """A dataset from merged values; what is missing or out of range is added to `problems`."""
    resolution = values.get("resolution")
    if resolution is None:
        problems.append(Problem("`resolution` is missing", where, "add resolution = 512 (1024 for SDXL), or pass --resolution"))
        resolution = 512
    width, height = resolution if isinstance(resolution, list | tuple) else (resolution, resolution)
    buckets = BucketConfig(
        enabled=values["enable_bucket"],
        min_side=values["min_bucket_reso"],
        max_side=values["max_bucket_reso"],
        step=values["bucket_reso_steps"],
    )
    positive = ("batch_size", "bucket_reso_steps")
    problems += [Problem(f"`{name}` must be at least 1", where) for name in positive if values[name] < 1]
    if min(width, height) < 8:
        problems.append(Problem(f"resolution {width}x{height} is too small", where, "use at least 8 pixels"))
    if buckets.enabled and values["bucket_reso_steps"] >= 1:
        problems += _bucket_problems(buckets, width, height, where)
    return DatasetConfig(resolution_wh=(width, height), batch_size=values["batch_size"], buckets=buckets, subsets=subsets, where=where)


def _bucket_problems(buckets: BucketConfig, width: int, height: int, where: str) -> list[Problem]:
    step = buckets.step
    if step % BUCKET_STEP:
        hint = f"use {-(-step // BUCKET_STEP) * BUCKET_STEP}"
        return [Problem(f"`bucket_reso_steps` {step} is not a multiple of {BUCKET_STEP}", where, hint)]
    low = buckets.min_side // step * step
    high = -(-buckets.max_side // step) * step
    problems = []
    if low < step:
        problems.append(Problem(f"`min_bucket_reso` {buckets.min_side} is below `bucket_reso_steps` {step}", where, f"use {step} or more"))
    if min(width, height) < low:
        problems.append(Problem(f"resolution {width}x{height} is below `min_bucket_reso` {low}", where, "lower min_bucket_reso"))
    if max(width, height) > high:
        problems.append(Problem(f"resolution {width}x{height} is above `max_bucket_reso` {high}", where, "raise max_bucket_reso"))
    return problems


def _extensions(value: str | None) -> tuple[str, ...]:
    if value is None:
        return (".caption", ".txt")
    return (value if value.startswith(".") else f".{value}",)


def _subset(values: Mapping[str, Any], where: str, problems: list[Problem]) -> SubsetConfig:
    if "image_dir" not in values:
        problems.append(Problem("`image_dir` is missing", where))
    if values["num_repeats"] < 1:
        problems.append(Problem("`num_repeats` must be at least 1", where))
    if "metadata_file" in values:
        problems.append(Problem("`metadata_file` is not supported yet", where, "write captions into text files beside the images"))
    problems += _caption_problems(values, where)
    return SubsetConfig(
        image_dir=Path(values.get("image_dir", "")),
        num_repeats=values["num_repeats"],
        caption_extensions=_extensions(values["caption_extension"]),
        class_tokens=values.get("class_tokens"),
        flip=values["flip_aug"],
        captions=CaptionRules(
            separator=values["caption_separator"],
            shuffle=values["shuffle_caption"],
            keep_tokens=values["keep_tokens"],
            keep_separator=values["keep_tokens_separator"],
            secondary_separator=values["secondary_separator"],
            wildcard=values["enable_wildcard"],
            tag_dropout=values.get("caption_tag_dropout_rate", 0),
            warmup_min=values["token_warmup_min"],
            warmup_steps=_warmup(values["token_warmup_step"], values["max_train_steps"]),
            prefix=values["caption_prefix"],
            suffix=values["caption_suffix"],
            template=values["template"],
        ),
        where=where,
    )


def _warmup(value: float, steps: int) -> int:
    """Tag warm-up in steps; a value below 1 is a fraction of the run."""
    return int(value * steps) if value < 1 else int(value)


def _caption_problems(values: Mapping[str, Any], where: str) -> list[Problem]:
    counts = ("keep_tokens", "token_warmup_min", "token_warmup_step")
    problems = [Problem(f"`{name}` must not be negative", where) for name in counts if values[name] < 0]
    if not values["caption_separator"]:
        problems.append(Problem("`caption_separator` must not be empty", where))
    if not 0 <= values.get("caption_tag_dropout_rate", 0) <= 1:
        problems.append(Problem("`caption_tag_dropout_rate` must be between 0 and 1", where))
    hint = "without its caption an image has no word to teach; use caption_tag_dropout_rate"
    refused = [name for name in ("caption_dropout_rate", "caption_dropout_every_n_epochs") if values.get(name)]
    problems += [Problem(f"`{name}` is not for Textual Inversion", where, hint) for name in refused]
    return problems


def folder_layout(root: Path, values: Mapping[str, Any]) -> tuple[DatasetConfig, ...]:
    """The dataset of `--train_data_dir`: subfolders `N_name` with N repeats and captions "name".

    Raises:
        ConfigError: the folder is missing or has no such subfolder.
    """
    problems: list[Problem] = []
    subsets = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []:
        count, _, name = folder.name.partition("_")
        if count.isdecimal() and int(count) >= 1:
            subset = {**values, "image_dir": str(folder), "num_repeats": int(count), "class_tokens": name}
            subsets.append(_subset(subset, str(folder), problems))
        else:
            log.warning("%s is not named like 10_mychar and is left out", folder)
    if not subsets:
        hint = "name subfolders like 10_mychar: ten repeats of each image in it"
        what = "no usable subfolder" if root.is_dir() else "folder not found"
        problems.append(Problem(f"--train_data_dir: {what}", str(root), hint))
    dataset = dataset_from(values, tuple(subsets), str(root), problems)
    if problems:
        raise ConfigError(problems)
    return (dataset,)
