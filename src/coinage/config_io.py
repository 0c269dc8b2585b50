"""Dataset files (TOML or JSON): `[general]`, `[[datasets]]`, `[[datasets.subsets]]`, and the folder layout.

The schema and the precedence (subset, dataset, general, command line, default) are the reference
trainer's. All problems of a file are found before any is reported.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coinage.config import IMAGE_SUFFIXES, DatasetConfig
from coinage.config_build import Fallback, Layer, make_dataset, shown
from coinage.errors import Findings, did_you_mean
from coinage.words import encodable

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
LARGEST = 2**31  # no count, seed or size is meant to be larger


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the dataset file: its type, the levels (G, D, S) where it may stand, why it does nothing."""

    kind: Kind
    levels: str = "GDS"
    note: str = ""


KEYS: dict[str, Key] = {
    "resolution": Key("size", "GD"),
    "batch_size": Key("int", "GD"),
    "enable_bucket": Key("bool", "GD"),
    "bucket_no_upscale": Key("bool", "GD"),
    "min_bucket_reso": Key("int", "GD"),
    "max_bucket_reso": Key("int", "GD"),
    "bucket_reso_steps": Key("int", "GD"),
    "network_multiplier": Key("float", "GD", "is for LoRA networks and has no effect on a word"),
    "validation_split": Key("float"),
    "validation_seed": Key("int", "GD"),
    "resize_interpolation": Key("str"),
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
    "color_aug": Key("bool"),
    "flip_aug": Key("bool"),
    "random_crop": Key("bool"),
    "face_crop_aug_range": Key("range"),
    "custom_attributes": Key("table", "GDS", "is for custom dataset classes and has no effect"),
    "caption_dropout_rate": Key("float"),
    "caption_tag_dropout_rate": Key("float"),
    "caption_dropout_every_n_epochs": Key("int"),
    "caption_extension": Key("str"),
    "cache_info": Key("bool"),
    "class_tokens": Key("str"),
    "is_reg": Key("bool", "S"),
    "alpha_mask": Key("bool"),
    "metadata_file": Key("str", "S"),
    "conditioning_data_dir": Key("str"),
    "image_dir": Key("str", "S"),
}
LEVELS = {"G": "[general]", "D": "[[datasets]]", "S": "[[datasets.subsets]]"}
FLAG_ONLY = ("prior_loss_weight", "max_token_length", "debug_dataset", "cache_latents", "cache_latents_to_disk", "vae_batch_size")


def _fits(value: object, kind: Kind) -> bool:
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST  # False for nan
    if kind == "size":
        return _fits(value, "int") or (isinstance(value, list) and len(value) == 2 and all(_fits(v, "int") for v in value))
    if kind == "range":
        return isinstance(value, list) and len(value) == 2 and all(_fits(v, "float") for v in value)
    if kind == "str":
        return isinstance(value, str) and "\0" not in value and encodable(value)
    return isinstance(value, {"bool": bool, "table": dict}[kind])


def _check_table(table: Mapping[str, Any], level: str, where: str, findings: Findings) -> None:
    for name, value in table.items():
        if level == "D" and name == "subsets":
            continue
        key = KEYS.get(name)
        if key is None and name in FLAG_ONLY:
            findings.error(f"key `{name}` does not belong in the file", where, f"pass --{name} on the command line")
        elif key is None:
            known = [k for k, v in KEYS.items() if level in v.levels]
            findings.error(f"unknown key `{name}`", where, did_you_mean(name, known))
        elif level not in key.levels:
            allowed = " or ".join(LEVELS[x] for x in key.levels)
            findings.error(f"key `{name}` does not belong here", where, f"put it in {allowed}")
        elif not _fits(value, key.kind):
            findings.error(f"`{name} = {shown(value)}` is not {EXPECTED[key.kind]}", where)
        elif key.note:
            findings.note(f"{name} {key.note}")


def read_table(path: Path, findings: Findings) -> dict[str, Any]:
    """The contents of a TOML or JSON file; {} with an error when it cannot be read."""
    if path.suffix.lower() not in (".toml", ".json") and path.exists():
        findings.error("the dataset config must be a .toml or .json file", str(path))
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except FileNotFoundError:
        findings.error("dataset config not found", str(path))
        return {}
    except (OSError, ValueError, RecursionError) as error:  # ValueError: bad TOML, JSON, UTF-8 or number
        findings.error(f"cannot read the dataset config: {error}", str(path))
        return {}
    if not isinstance(data, dict):
        findings.error("the dataset config must be a table", str(path))
        return {}
    return data


def _tables(value: object, name: str, where: str, findings: Findings) -> list[dict[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return value
    findings.error(f"needs at least one [[{name}]]", where)
    return []


def read_datasets(path: Path, fallback: Fallback, findings: Findings) -> tuple[DatasetConfig, ...]:
    """Read a dataset file.

    Args:
        path: a .toml or .json file; relative image folders are taken from the working directory.
        fallback: values of the command line and defaults, by key.
        findings: gets all problems of the file, and keys that have no effect.

    Returns:
        The datasets without problems.
    """
    data = read_table(path, findings)
    if not data and findings.errors:
        return ()
    tables = ["general", "datasets"]
    for name in data:
        if name not in tables:
            findings.error(f"unknown table `{name}`", str(path), did_you_mean(name, tables))
    general = data.get("general", {})
    if not isinstance(general, dict):
        findings.error("`general` must be a table", str(path))
        general = {}
    before = len(findings.errors)
    _check_table(general, "G", f"{path}, [general]", findings)
    general_is_wrong = len(findings.errors) > before
    datasets = []
    for i, table in enumerate(_tables(data.get("datasets"), "datasets", str(path), findings), 1):
        where = f"{path}, [[datasets]] {i}"
        before = len(findings.errors)
        _check_table(table, "D", where, findings)
        subsets = _tables(table.get("subsets"), "datasets.subsets", where, findings)
        layers = [*fallback.layers, Layer("[general]", general), Layer("[[datasets]]", {k: v for k, v in table.items() if k != "subsets"})]
        named = [Layer(f"{where}, [[datasets.subsets]] {j}", subset) for j, subset in enumerate(subsets, 1)]
        for subset in named:
            _check_table(subset.values, "S", subset.name, findings)
        if len(findings.errors) == before and not general_is_wrong:
            datasets.append(make_dataset(layers, named, where, fallback, findings))
    return tuple(datasets)


def folder_layout(root: Path, regularisation: Path | None, fallback: Fallback, findings: Findings) -> tuple[DatasetConfig, ...]:
    """The dataset of `--train_data_dir`: subfolders `N_name` with N repeats and captions "name".

    Args:
        root: holds the subfolders; or images, which are then all of one subset.
        regularisation: the same for regularisation images.
        fallback: values of the command line and defaults, by key.
        findings: gets an error when a folder is missing or has no such subfolder.
    """
    subsets = _subfolders(root, "--train_data_dir", findings)
    if regularisation is not None:
        reg = _subfolders(regularisation, "--reg_data_dir", findings)
        subsets += [Layer(layer.name, {**layer.values, "is_reg": True}) for layer in reg]
    if findings.errors:
        return ()
    return (make_dataset(list(fallback.layers), subsets, str(root), fallback, findings),)


def _subfolders(root: Path, flag: str, findings: Findings) -> list[Layer]:
    layers = []
    try:
        children = sorted(root.iterdir())
        folders = [child for child in children if child.is_dir()]
        has_images = any(child.suffix.lower() in IMAGE_SUFFIXES for child in children)
    except OSError as error:
        findings.error(f"{flag}: cannot read the folder: {error.strerror}", str(root), "check the path")
        return []
    for folder in folders:
        count, _, name = folder.name.partition("_")
        if count.isdecimal() and int(count) >= 1:
            layers.append(Layer(str(folder), {"image_dir": str(folder), "num_repeats": int(count), "class_tokens": name}))
        else:
            findings.warn(f"{folder} is not named like 10_mychar and is left out")
    if not layers and has_images:
        return [Layer(str(root), {"image_dir": str(root)})]
    if not layers:
        hint = "name subfolders like 10_mychar: ten repeats of each image in it"
        findings.error(f"{flag}: no usable subfolder", str(root), hint)
    return layers


def single_subset(values: Mapping[str, Any], where: str, fallback: Fallback, findings: Findings) -> tuple[DatasetConfig, ...]:
    """A dataset of one subset: `--in_json`, or a plain folder of images."""
    return (make_dataset(list(fallback.layers), [Layer(where, values)], where, fallback, findings),)
