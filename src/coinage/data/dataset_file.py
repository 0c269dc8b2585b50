"""Dataset files (TOML or JSON) with `[general]`, `[[datasets]]` and `[[datasets.subsets]]`.

The schema and the precedence (subset, dataset, general, command line, default) are those of
sd-scripts. All problems of a file are found before any is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coinage.data.dataset_config import DatasetDefaults, Layer, make_dataset
from coinage.data.dataset_keys import KEYS, check_table
from coinage.data_config import DatasetConfig
from coinage.errors import CoinageError, Findings, Problem, did_you_mean
from coinage.system.text_files import at_home, is_there, read_json, read_toml
from coinage.wording import few

NAME = "dataset config"
# Flags that show that a file holds settings, not datasets.
SETTINGS = frozenset({
    "pretrained_model_name_or_path",
    "token_string",
    "output_dir",
    "output_name",
    "learning_rate",
    "max_train_steps",
    "max_train_epochs",
    "optimizer_type",
    "network_module",
})  # fmt: skip


def read_datasets(
    path: Path, defaults: DatasetDefaults, findings: Findings
) -> tuple[DatasetConfig, ...]:
    """Read a dataset file.

    Args:
        path: a .toml or .json file; relative image folders are taken from the working directory.
        defaults: what the command line supplies to every dataset.
        findings: gets all problems of the file, and keys that have no effect.

    Returns:
        The datasets without problems.
    """
    data = read_table(path, findings)
    if not data and findings.errors:
        return ()
    if "datasets" not in data:
        what, hint = _kind_of_file(data)
        if what:
            findings.error(f"{NAME}: {what}", str(path), hint)
            return ()
    _check_outside(data, str(path), findings)
    errors_before = len(findings.errors)
    general = data.get("general", {})
    if isinstance(general, dict):
        check_table(general, "general", f"{path}, [general]", findings)
    else:
        findings.error("`general` must be a table", str(path))
        general = {}
    general_is_right = len(findings.errors) == errors_before
    datasets = []
    tables = _tables(data.get("datasets"), "datasets", str(path), findings)
    for number, table in enumerate(tables, 1):
        where = f"{path}, [[datasets]] {number}"
        layers = _checked_layers(table, where, findings)
        if layers and general_is_right:
            dataset, subsets = layers
            base = [*defaults.layers, _from_home(Layer("[general]", general)), dataset]
            datasets.append(make_dataset(base, subsets, where, defaults, findings))
    return tuple(datasets)


def _checked_layers(
    table: Mapping[str, Any], where: str, findings: Findings
) -> tuple[Layer, list[Layer]] | None:
    """Return the values of a dataset and of its subsets; None with errors where they are wrong."""
    errors_before = len(findings.errors)
    check_table(table, "dataset", where, findings)
    layers = []
    subsets = _tables(table.get("subsets"), "datasets.subsets", where, findings)
    for number, subset in enumerate(subsets, 1):
        name = f"{where}, [[datasets.subsets]] {number}"
        check_table(subset, "subset", name, findings)
        layers.append(Layer(name, subset))
    if len(findings.errors) > errors_before:
        return None
    values = dict(table)
    values.pop("subsets", None)
    return _from_home(Layer("[[datasets]]", values)), [_from_home(layer) for layer in layers]


def read_table(path: Path, findings: Findings) -> dict[str, Any]:
    """Return the contents of a TOML or JSON file; {} with an error when it cannot be read."""
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
    """Return a problem where a file is named .toml and is JSON, or the reverse."""
    is_named_json = path.suffix.lower() == ".json"
    kind, read = ("toml", read_toml) if is_named_json else ("json", read_json)
    try:
        read(path)
    except CoinageError:
        return []
    what = f"{NAME}: the file is {kind.upper()}, and its name says otherwise"
    return [Problem(what, str(path), f"rename it to {path.stem}.{kind}")]


def _kind_of_file(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a file without datasets is, and a hint; "" for both where it is not known."""
    keys = set(data)
    for value in data.values():
        if isinstance(value, dict):
            keys |= set(value)
    if keys & SETTINGS:
        return "this is a file of settings", "pass it with --config_file"
    if is_metadata(data):
        hint = "pass it with --in_json, or name it as metadata_file in a dataset file"
        return "this is a metadata file", hint
    if isinstance(data.get("subsets"), list):
        hint = "write [[datasets]] above it, and [[datasets.subsets]] in its place"
        return "[[subsets]] stands outside of a dataset", hint
    return "", ""


def is_metadata(data: Mapping[str, Any]) -> bool:
    """Return whether a file lists images with their captions, as `--in_json` does."""
    for entry in data.values():
        if not isinstance(entry, dict) or not {"caption", "tags"} & set(entry):
            return False
    return bool(data)


def _check_outside(data: Mapping[str, Any], where: str, findings: Findings) -> None:
    """Add an error for everything beside `[general]` and `[[datasets]]`."""
    tables = ["general", "datasets"]
    others = [name for name in data if name not in tables]
    if SETTINGS & set(others):
        hint = "put settings into a file of their own, and pass it with --config_file"
        findings.error(f"{few(others)}: not a setting of a dataset", where, hint)
        return
    for name in others:
        if isinstance(data[name], dict | list):
            findings.error(f"unknown table `{name}`", where, did_you_mean(name, tables))
        else:
            hint = "put it in [general]" if name in KEYS else ""
            findings.error(f"key `{name}` stands outside of all tables", where, hint)


def _tables(value: object, name: str, where: str, findings: Findings) -> list[dict[str, Any]]:
    """Return a list of tables; [] with an error where there is none."""
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return value
    findings.error(f"needs at least one [[{name}]]", where)
    return []


def _from_home(layer: Layer) -> Layer:
    """Replace `~` at the beginning of paths by the home folder."""
    values = dict(layer.values)
    for key, value in layer.values.items():
        if KEYS[key].kind == "path":
            values[key] = at_home(value)
    return Layer(layer.name, values)


def single_subset(
    values: Mapping[str, Any], where: str, defaults: DatasetDefaults, findings: Findings
) -> tuple[DatasetConfig, ...]:
    """Build a dataset of one subset: `--in_json`, or a plain folder of images."""
    subset = Layer(where, values)
    return (make_dataset(list(defaults.layers), [subset], where, defaults, findings),)
