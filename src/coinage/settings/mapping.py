"""Merge values of a mapping, a settings file and a command line; read and write TOML.

Imports no torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from coinage.config import TrainConfig
from coinage.errors import ConfigError, Findings, Problem, did_you_mean
from coinage.settings import word_tables
from coinage.settings.build import build
from coinage.settings.companions import companions_apart, with_others
from coinage.settings.flag_values import ABOUT_THE_FILE, FlagValues, WordValues, make_values
from coinage.settings.flags import Flag, flags_of
from coinage.settings.foreign import meant
from coinage.settings.scripts import Script
from coinage.settings.tidy import tidy
from coinage.settings.toml_file import Settings, read_settings
from coinage.settings.values import values_of_file
from coinage.system.files import write_bytes
from coinage.system.text_files import as_path


def config_from_mapping(values: Mapping[str, object], script: str) -> TrainConfig:
    """Make a configuration from values of flags: `TrainConfig.from_mapping`."""
    kind = _script(script)
    flags = {flag.dest: flag for flag in flags_of(kind)}
    if not isinstance(values, Mapping):
        what = f"the values are of type {type(values).__name__}, not a mapping"
        hint = 'give a dict, such as {"token_string": "mychar"}; from_toml reads a file'
        raise ConfigError([Problem(what, hint=hint)])
    given = {name: _plain(value) for name, value in values.items() if value is not None}
    problems = _unknown(given, flags)
    read, wrong = values_of_file(given, flags, "")
    merged, more = merge(kind, flags, {}, Settings(read))
    problems += [*wrong, *more]
    try:
        config, _ = build(merged)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return config


def config_from_toml(path: str | Path, script: str) -> TrainConfig:
    """Read the configuration of a file with one word: `TrainConfig.from_toml`."""
    configs = configs_from_toml(path, script)
    if len(configs) > 1:
        what = f"the file has {len(configs)} words, and this is for a file with one"
        hint = "TrainConfig.list_from_toml returns the configurations of all"
        raise ConfigError([Problem(what, str(path), hint)])
    return configs[0]


def configs_from_toml(path: str | Path, script: str) -> list[TrainConfig]:
    """Read the configurations of all words of a file: `TrainConfig.list_from_toml`."""
    kind = _script(script)
    flags = {flag.dest: flag for flag in flags_of(kind)}
    settings = read_settings(as_path(path, "path"), flags, strict=True)
    values, problems = merge(kind, flags, {}, settings)
    learning, companions, wrong = companions_apart(values.words or (WordValues("", values),))
    problems += wrong
    configs = []
    for word in learning:
        try:
            configs.append(build(word.values)[0])
        except ConfigError as error:
            problems += [problem.within(word.label) for problem in error.problems]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return with_others(configs, companions)


def config_to_toml(config: TrainConfig, path: str | Path | None) -> str:
    """Return a configuration as TOML, and write it: `TrainConfig.to_toml`."""
    if config.values is None:
        what = "this configuration was not made from values, so it cannot be written as TOML"
        raise ConfigError([Problem(what, hint="make it with TrainConfig.from_mapping")])
    text = values_to_toml(config.values)
    again = config_from_mapping(tomllib.loads(text), config.values.script)
    if again != _without_secrets(build(config.values)[0]):
        what = "an empty text that overrides a default cannot be written as TOML"
        raise ConfigError([Problem(what, hint="leave out values that are empty")])
    if not _is_made_of_its_values(config):
        what = "this configuration was changed after it was made from its values"
        hint = "make another one with TrainConfig.from_mapping, with the values that it is to have"
        raise ConfigError([Problem(what, hint=hint)])
    if path is not None:
        write_bytes(as_path(path, "path"), text.encode())
    return text


def values_to_toml(values: FlagValues) -> str:
    """Return the values that differ from the script's defaults as TOML, without secrets."""
    import tomli_w

    given = values.given()
    for name, value in given.items():
        if isinstance(value, Path):
            given[name] = str(value)
    header = f"# Settings of {values.script.program}\n"
    return header + tomli_w.dumps(given)


def merge(
    script: Script, flags: Mapping[str, Flag], command: Mapping[str, Any], settings: Settings
) -> tuple[FlagValues, list[Problem]]:
    """Put together what a command line, a settings file and the defaults say, in this order.

    Args:
        script: whose flags these are.
        flags: by name without dashes.
        command: values of the command line.
        settings: those of the file.

    Returns:
        The values, in `words` those of each word of the file; and what is wrong with them.
    """
    problems: list[Problem] = []

    def finished(values: Mapping[str, Any]) -> FlagValues:
        remarks = Findings(warnings=[*settings.remarks.warnings], notes=[*settings.remarks.notes])
        tidied, wrong = tidy(make_values(script, {**values, **command}, remarks), flags)
        problems.extend(wrong)
        return tidied.changed(typed=tuple(command))

    shared = finished(settings.shared)
    words = []
    for label, of_word in settings.words:
        values = finished(word_tables.merged(settings.shared, of_word))
        for name in of_word:
            if name in command:
                what = f"--{name} of the command line is taken, not that of the config file"
                values.remarks.note(what)
        words.append(WordValues(label, values))
    every = [word.values for word in words] or [shared]
    if settings.folders:
        for values in every:
            if not any(getattr(values, name) for name in word_tables.DATA):
                problems.append(settings.folders)
            values.remarks.warnings.append(settings.folders)
    return shared.changed(words=tuple(words)), list(dict.fromkeys(problems))


def _script(name: str) -> Script:
    try:
        return Script(name)
    except ValueError:
        hint = did_you_mean(str(name), list(Script)) or f"one of {', '.join(Script)}"
        raise ConfigError([Problem(f"there is no script {name!r}", hint=hint)]) from None


def _plain(value: object) -> object:
    """Return a value of Python's as a TOML file would have it."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of NumPy or torch
        return value.tolist()
    return value


def _unknown(given: Mapping[str, object], flags: Mapping[str, Flag]) -> list[Problem]:
    """Find keys that are not flags of the script."""
    problems = []
    for name in given:
        if not isinstance(name, str):
            what = f"the key {name!r} is not a text"
            problems.append(Problem(what, hint="keys are names of flags without dashes"))
        elif name == word_tables.TABLE:
            what = f"`{name}`: a mapping is for one word"
            problems.append(Problem(what, hint="make a configuration for each word"))
        elif name in ABOUT_THE_FILE:
            problems.append(Problem(f"`{name}` is for the command line alone"))
        elif name not in flags:
            problems.append(Problem(f"unknown key `{name}`", hint=meant(name, list(flags), "")))
    return problems


def _without_secrets(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        log=replace(config.log, wandb_key=None),
        hub=replace(config.hub, token=None),
    )


def _is_made_of_its_values(config: TrainConfig) -> bool:
    return config.values is not None and build(config.values)[0] == config
