"""Dataset files (TOML or JSON): `[general]`, `[[datasets]]`, `[[datasets.subsets]]`, and the folder layout.

The schema and the precedence (subset, dataset, general, command line, default) are those of
sd-scripts. All problems of a file are found before any is reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coinage.config import DatasetConfig
from coinage.data.dataset_config import Fallback, Layer, make_dataset, shown
from coinage.data.folder import Contents, describe, holds_images, list_folder, tell_left_out
from coinage.errors import CoinageError, Findings, Problem, did_you_mean
from coinage.system.text_files import SLASHES, at_home, is_there, path_problem, read_json, read_toml
from coinage.text.placeholder import encodable
from coinage.wording import few

Kind = Literal["int", "float", "str", "path", "bool", "size", "range", "table"]
NAME = "dataset config"
EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "path": "a string",
    "bool": "true or false",
    "size": "an integer, or two: [width, height]",
    "range": "two numbers: [lo, hi]",
    "table": "a table",
}
MOST_DIGITS = 100  # of a number in quotes
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
    "metadata_file": Key("path", "S"),
    "conditioning_data_dir": Key("path"),
    "image_dir": Key("path", "S"),
}
LEVELS = {"G": "[general]", "D": "[[datasets]]", "S": "[[datasets.subsets]]"}
FLAG_ONLY = (
    "prior_loss_weight",
    "max_token_length",
    "debug_dataset",
    "cache_latents",
    "cache_latents_to_disk",
    "vae_batch_size",
)
# Flags that tell a file of settings from one of datasets.
SETTINGS = (
    "pretrained_model_name_or_path", "token_string", "output_dir", "output_name", "learning_rate", "max_train_steps",
    "max_train_epochs", "optimizer_type", "network_module",
)  # fmt: skip
# Keys of other models' dataset files, and those of other tools: ours for the same, or "".
FOREIGN = {
    "system_prompt": "", "skip_image_resolution": "", "multires_training": "", "t5xxl_max_token_length": "", "apply_t5_attn_mask": "",
    "cache_directory": "", "control_directory": "", "video_directory": "", "target_frames": "",
    "image_directory": "image_dir", "image_jsonl_file": "metadata_file", "repeats": "num_repeats", "train_data_dir": "image_dir",
    "dataset_repeats": "num_repeats", "train_batch_size": "batch_size", "in_json": "metadata_file",
}  # fmt: skip


def _fits(value: object, kind: Kind) -> bool:
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if kind == "float":
        # False for nan
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
        )
    if kind == "size":
        return _fits(value, "int") or (
            isinstance(value, list) and len(value) == 2 and all(_fits(v, "int") for v in value)
        )
    if kind == "range":
        return isinstance(value, list) and len(value) == 2 and all(_fits(v, "float") for v in value)
    if kind in ("str", "path"):
        return isinstance(value, str) and "\0" not in value and encodable(value)
    return isinstance(value, {"bool": bool, "table": dict}[kind])


def _check_table(table: Mapping[str, Any], level: str, where: str, findings: Findings) -> None:
    for name, value in table.items():
        if level == "D" and name == "subsets":
            continue
        key = KEYS.get(name)
        if key is None and name in FLAG_ONLY:
            findings.error(
                f"key `{name}` does not belong in the file",
                where,
                f"pass --{name} on the command line",
            )
        elif key is None:
            findings.error(f"unknown key `{name}`", where, _meant(name, level))
        elif level not in key.levels:
            allowed = " or ".join(LEVELS[x] for x in key.levels)
            findings.error(f"key `{name}` does not belong here", where, f"put it in {allowed}")
        elif not _fits(value, key.kind):
            findings.error(
                f"`{name} = {shown(value)}` is not {EXPECTED[key.kind]}",
                where,
                _plainer(name, value, key.kind),
            )
        elif key.kind == "path" and (why := path_problem(at_home(value))):
            findings.error(
                f"`{name} = {shown(value)}`: {why}", where, SLASHES if "character" in why else ""
            )
        elif key.note:
            findings.note(f"{name} {key.note}")


def _meant(name: str, level: str) -> str:
    """A hint for an unknown key."""
    if name in FOREIGN:
        return (
            f"it is called `{FOREIGN[name]}` here"
            if FOREIGN[name]
            else "it is for other models: leave it out"
        )
    return did_you_mean(name, [key for key, value in KEYS.items() if level in value.levels])


def _plainer(name: str, value: object, kind: Kind) -> str:
    """A hint where a number stands in quotes, or is written as 2.0."""
    read: object = int(value) if isinstance(value, float) and value.is_integer() else None
    if isinstance(value, str) and len(value) < MOST_DIGITS:
        try:
            read = json.loads(f"[{value}]" if "," in value else value.lower())
        except ValueError:
            return ""
    return f"write {name} = {shown(read)}" if _fits(read, kind) else ""


def read_table(path: Path, findings: Findings) -> dict[str, Any]:
    """The contents of a TOML or JSON file; {} with an error when it cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".json") and is_there(path):
        findings.error("the dataset config must be a .toml or .json file", str(path))
        return {}
    try:
        data = read_json(path, NAME) if suffix == ".json" else read_toml(path, NAME)
    except CoinageError as error:
        findings.errors += _misnamed(path) or error.problems
        return {}
    if not isinstance(data, dict):
        findings.error("the dataset config must be a table", str(path))
        return {}
    return data


def _misnamed(path: Path) -> list[Problem]:
    """Whether a file's name says TOML and it is JSON, or the reverse."""
    is_named_json = path.suffix.lower() == ".json"
    kind, read = ("toml", read_toml) if is_named_json else ("json", read_json)
    try:
        read(path)
    except CoinageError:
        return []
    what = f"{NAME}: the file is {kind.upper()}, and its name says otherwise"
    return [Problem(what, str(path), f"rename it to {path.stem}.{kind}")]


def _other_file(data: Mapping[str, Any]) -> tuple[str, str]:
    """What a file without datasets is, and where it belongs; "" where it is none of the usual mistakes."""
    keys = {*data, *(key for value in data.values() if isinstance(value, dict) for key in value)}
    if keys & set(SETTINGS):
        return "this is a file of settings", "pass it with --config_file"
    if is_metadata(data):
        return (
            "this is a metadata file",
            "pass it with --in_json, or name it as metadata_file in a dataset file",
        )
    if isinstance(data.get("subsets"), list):
        return (
            "[[subsets]] stands outside of a dataset",
            "write [[datasets]] above it, and [[datasets.subsets]] in its place",
        )
    return "", ""


def is_metadata(data: Mapping[str, Any]) -> bool:
    """Return whether a file names images with their captions, as `--in_json` does."""
    return bool(data) and all(
        isinstance(entry, dict) and bool({"caption", "tags"} & set(entry))
        for entry in data.values()
    )


def _check_outside(data: Mapping[str, Any], where: str, findings: Findings) -> None:
    """Find what stands beside `[general]` and `[[datasets]]`."""
    tables = ["general", "datasets"]
    others = [name for name in data if name not in tables]
    settings = [name for name in others if name in SETTINGS]
    if settings:
        hint = "put settings into a file of their own, and pass it with --config_file"
        findings.error(f"{few(others)}: not of a dataset", where, hint)
        return
    for name in others:
        if isinstance(data[name], dict | list):
            findings.error(f"unknown table `{name}`", where, did_you_mean(name, tables))
        else:
            findings.error(
                f"key `{name}` stands outside of all tables",
                where,
                "put it in [general]" if name in KEYS else "",
            )


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
    what, hint = ("", "") if "datasets" in data else _other_file(data)
    if what:
        findings.error(f"{NAME}: {what}", str(path), hint)
        return ()
    _check_outside(data, str(path), findings)
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
        named = [
            Layer(f"{where}, [[datasets.subsets]] {j}", subset)
            for j, subset in enumerate(subsets, 1)
        ]
        for subset in named:
            _check_table(subset.values, "S", subset.name, findings)
        if len(findings.errors) == before and not general_is_wrong:
            own = {key: value for key, value in table.items() if key != "subsets"}
            layers = [
                _from_home(Layer("[general]", general)),
                _from_home(Layer("[[datasets]]", own)),
            ]
            homed = [_from_home(subset) for subset in named]
            datasets.append(
                make_dataset([*fallback.layers, *layers], homed, where, fallback, findings)
            )
    return tuple(datasets)


def _from_home(layer: Layer) -> Layer:
    """Have paths that begin with `~` begin with the home folder."""
    paths = {key: at_home(value) for key, value in layer.values.items() if KEYS[key].kind == "path"}
    return Layer(layer.name, {**layer.values, **paths})


def folder_layout(
    root: Path, regularisation: Path | None, fallback: Fallback, findings: Findings
) -> tuple[DatasetConfig, ...]:
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
    before = len(findings.errors)
    contents = list_folder(root, "", f"{flag} folder", findings)
    if len(findings.errors) > before:
        return []
    layers = []
    for folder in contents.folders:
        repeats, name = _repeats_and_name(folder)
        path = str(root / folder)
        if repeats >= 1:
            layers.append(
                Layer(path, {"image_dir": path, "num_repeats": repeats, "class_tokens": name})
            )
        else:
            findings.warn(f"{path} is not named like 10_mychar and is left out")
    if not layers and contents.images:
        return [Layer(str(root), {"image_dir": str(root)})]
    beside = sorted(
        [*contents.images, *(name for names in contents.others.values() for name in names)]
    )
    if layers and beside:
        are = "1 image is" if len(beside) == 1 else f"{len(beside):,} images are"
        findings.note(
            f"{root}: only images in its subfolders are taken; {are} left out: {few(beside)}"
        )
    if not layers:
        tell_left_out(contents, root, findings)
    if not layers and not contents.others:
        _tell_of_nothing(contents, root, flag, findings)
    return layers


def _repeats_and_name(folder: str) -> tuple[int, str]:
    """The number in front of a folder's name, as Python reads it, and the rest; 0 where there is none."""
    count, _, name = folder.partition("_")
    try:
        return int(count), name
    except ValueError:
        return 0, name


def _tell_of_nothing(contents: Contents, root: Path, flag: str, findings: Findings) -> None:
    """Tell of a folder with neither images nor subfolders to use."""
    inside = f"holds {found}" if (found := describe(contents)) else "is empty"
    what = f"{flag}: no images and no usable subfolder; the folder {inside}"
    hint = "put images into it, or into subfolders like 10_mychar (ten repeats of each image)"
    filled = [name for name in contents.folders if holds_images(str(root / name))]
    if filled:
        hint = f"rename {filled[0]} to 10_{filled[0]} (ten repeats of each image), or name that folder itself"
    findings.error(what, str(root), hint)


def single_subset(
    values: Mapping[str, Any], where: str, fallback: Fallback, findings: Findings
) -> tuple[DatasetConfig, ...]:
    """A dataset of one subset: `--in_json`, or a plain folder of images."""
    return (make_dataset(list(fallback.layers), [Layer(where, values)], where, fallback, findings),)
