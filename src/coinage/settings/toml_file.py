"""`--config_file`: settings as people, sd-scripts, GUIs and notebooks write them.

Keys are flags without dashes. Tables are only headings, whatever their names, one within another too; those
of `[[words]]` are words. As in sd-scripts a key that is not a flag is ignored, since GUIs write those of all
their scripts; but a key that looks like a misspelt flag is a warning. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coinage.data.dataset_file import is_metadata
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.settings import word_tables
from coinage.settings.flag_values import ABOUT_THE_FILE
from coinage.settings.flags import BY_DEST, Flag
from coinage.settings.foreign import CALLED, meant, to_be_seen
from coinage.settings.values import values_of_file
from coinage.system.text_files import at_home, read_json, read_text, read_toml
from coinage.wording import counted, few

NAME = "--config_file"
DEPTH = 4  # levels of headings; deeper tables are not read as settings
OF_DATASETS = ("datasets", "subsets")  # tables of dataset files
OTHER_SUFFIXES = (".json", ".yaml", ".yml")
OF_ACCELERATE = re.compile(
    r"^(compute_environment|distributed_type|num_processes|machine_rank):", re.MULTILINE
)
YAML = re.compile(r"^[\w-]+:(\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Settings:
    """The contents of a settings file.

    Attributes:
        shared: values of flags.
        words: of each `[[words]]` table what it is called in messages, and the values of its flags.
        remarks: warnings and notes.
        folders: a problem if the file names folders of images, which belong in dataset files.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[tuple[str, dict[str, Any]], ...] = ()
    remarks: Findings = field(default_factory=Findings)
    folders: Problem | None = None


def settings_path(name: str) -> Path:
    """Return the file that `--config_file` names; the suffix .toml may be left out."""
    path = Path(at_home(name))
    if path.suffix.lower() == ".toml" or not path.name:
        return path
    longer = path.with_name(f"{path.name}.toml")
    there = os.path.isfile(path) and not os.path.exists(longer)  # noqa: PTH110, PTH113 - take any name
    return path if there else longer


def read_settings(path: Path, flags: Mapping[str, Flag], *, strict: bool = False) -> Settings:
    """Read a settings file.

    Args:
        path: of a TOML file.
        flags: those of the script, by name without dashes.
        strict: a key that is not a flag is an error.

    Raises:
        ConfigError: it cannot be read, is another kind of file, or has values that do not fit their flags:
            all of them.
    """
    data = _read(path)
    folders = _folders(data, path)
    words, problems = _words(data, path)
    keys = flat(data, flags)
    remarks = Findings()
    values, wrong = values_of_file(keys, flags, str(path))
    problems += wrong
    if strict:
        problems += _unknown(keys, flags, str(path))
    else:
        _remark_on_unknown(keys, flags, str(path), remarks)
    tables = []
    for number, table in enumerate(words, 1):
        word_keys = flat(table, flags)
        label = word_tables.label_of(number, word_keys)
        where = f"{path}, {label}"
        problems += word_tables.key_problems(word_keys, list(flags), where)
        word_values, wrong = values_of_file(word_keys, flags, where)
        problems += wrong
        if strict:
            problems += _unknown(word_keys, flags, where)
        else:
            _note_idle([name for name in word_keys if name not in flags], where, remarks)
        tables.append((label, word_values))
    if problems:
        raise ConfigError(dict.fromkeys([*problems, *remarks.warnings]))
    return Settings(values, tuple(tables), remarks, folders)


def flat(data: Mapping[str, Any], flags: Mapping[str, Flag], depth: int = DEPTH) -> dict[str, Any]:
    """Return the values of all tables, the later one where several have a key."""
    values: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict) and depth > 1 and not _is_argument_table(name, value, flags):
            values |= flat(value, flags, depth - 1)
        elif name not in ABOUT_THE_FILE:
            values[name] = value
    return values


def _is_argument_table(name: str, table: Mapping[str, Any], flags: Mapping[str, Flag]) -> bool:
    """Return whether a table is a flag's value, as `[optimizer_args]`, and not a heading."""
    values = any(key in flags or isinstance(value, dict) for key, value in table.items())
    return name in flags and flags[name].kind == "list" and not values


def _is_tables(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(table, dict) for table in value)


def _folders(data: dict[str, Any], path: Path) -> Problem | None:
    """Take tables of image folders out of the file, and return a problem about them."""
    names = [name for name in OF_DATASETS if _is_tables(data.get(name))]
    if not names:
        return None
    others = set(data) - {*names, "general"}
    for name in names:
        del data[name]
    if "datasets" in names and not others:
        return _is_dataset_file(path)
    what = f"{NAME}: [[{names[0]}]] is not read: folders of images belong in a dataset file"
    hint = "put [[datasets]] and [[datasets.subsets]] into one, and pass it with --dataset_config"
    return Problem(what, str(path), hint)


def _is_dataset_file(path: Path) -> Problem:
    hint = f"pass it with --dataset_config {path}"
    return Problem(f"{NAME}: this is a dataset file", str(path), hint)


def _words(data: dict[str, Any], path: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Take the tables of words out of the file; a misspelt one is a problem."""
    problems = []
    table = word_tables.TABLE
    hint = f"write [[{table}]], and below it the flags of one word"
    for name, value in data.items():
        if name == table and not isinstance(value, dict) and not _is_tables(value):
            what = f"`{table}` is reserved for the tables of words"
            problems.append(Problem(what, str(path), hint))
        is_similar = name != table and name.rstrip("s") == table.rstrip("s")
        if is_similar and _is_tables(value):
            problems.append(Problem(f"[[{name}]] is not read", str(path), hint))
    if problems or isinstance(data.get(table), dict):
        return [], problems
    return data.pop(table, []), []


def _unknown(keys: Mapping[str, Any], flags: Mapping[str, Flag], where: str) -> list[Problem]:
    """Find keys that are not flags."""
    problems = []
    for name in keys:
        if name not in flags:
            hint = meant(name, list(flags), "")
            problems.append(Problem(f"unknown key `{name}`", where, hint))
    return problems


def _remark_on_unknown(
    keys: Mapping[str, Any], flags: Mapping[str, Flag], where: str, remarks: Findings
) -> None:
    """Warn of each key that seems to be meant as a flag, and note all others together."""
    idle = []
    for name in keys:
        if name in flags:
            continue
        said_otherwise = any(other in keys for other in CALLED.get(name, ()))
        if name not in BY_DEST and to_be_seen(name, flags) and not said_otherwise:
            what = f"`{name}` is not a flag and has no effect"
            remarks.warn(what, where, meant(name, list(flags), ""))
        else:
            idle.append(name)
    _note_idle(idle, where, remarks)


def _note_idle(names: list[str], where: str, remarks: Findings) -> None:
    if not names:
        return
    verb = "are not flags of this script and have"
    if len(names) == 1:
        verb = "is not a flag of this script and has"
    what = f"{counted(len(names), 'key')} {verb} no effect: {few(names, 5)}"
    remarks.note(f"{where}: {what}")


def _read(path: Path) -> dict[str, Any]:
    """Return the contents of a settings file.

    Raises:
        ConfigError: it cannot be read, or is a file of another kind: which one.
    """
    try:
        data = read_toml(path, NAME)
    except CoinageError as error:
        raise ConfigError(_other_kind(path) or error.problems) from None
    if path.suffix.lower() != ".toml":
        hint = f"rename it to {path.stem}.toml"
        what = f"{NAME}: the file is TOML, but its name does not end in .toml"
        raise ConfigError([Problem(what, str(path), hint)])
    return data


def _other_kind(path: Path) -> list[Problem]:
    """Find out what a file is that is not TOML; nothing where it is none of the usual ones."""
    if path.stem.endswith(OTHER_SUFFIXES) and not os.path.lexists(path):
        return [Problem(f"{NAME}: file not found", str(path.with_suffix("")))]
    try:
        text = read_text(path)
    except CoinageError:
        return []
    if OF_ACCELERATE.search(text):
        command = f"accelerate launch --config_file {path} train_textual_inversion.py ..."
        hint = f"give it to accelerate: {command}"
        return [Problem(f"{NAME}: these are the settings of accelerate, in YAML", str(path), hint)]
    if problem := _json_problem(path):
        return [problem]
    if path.suffix.lower() in OTHER_SUFFIXES and YAML.search(text):
        what, hint = f"{NAME}: the file is YAML, not TOML", "write learning_rate = 0.001"
        return [Problem(what, str(path), hint)]
    return []


def _json_problem(path: Path) -> Problem | None:
    """Find out which of the JSON files of a training this is; None where it is not JSON."""
    try:
        data = read_json(path)
    except CoinageError:
        return None
    if isinstance(data, dict) and "datasets" in data:
        return _is_dataset_file(path)
    if isinstance(data, dict) and is_metadata(data):
        return Problem(f"{NAME}: this is a metadata file", str(path), "pass it with --in_json")
    hint = "give the .toml file that the GUI writes when a training begins"
    what = f"{NAME}: the file is JSON, as GUIs store their settings, not TOML"
    return Problem(what, str(path), hint)
