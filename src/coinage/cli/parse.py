"""From the command line and its config file to plain values, without importing torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from coinage.errors import ConfigError, Findings, Problem
from coinage.settings import word_tables as entries
from coinage.settings.defaults import decided
from coinage.settings.flags import BY_DEST, SECRETS, Flag, flags_of
from coinage.settings.foreign import CALLED, DASHES, bare, meant
from coinage.settings.scripts import Script
from coinage.settings.tidy import tidy
from coinage.settings.toml_file import Settings, read_settings, settings_path
from coinage.settings.values import values_of_command
from coinage.system.files import write_bytes
from coinage.wording import few

HELP = ("-h", "--help")
# Not a negative number, and no text that begins with a dash
FLAG = re.compile(rf"[{DASHES}]+[^\W\d][^\s=]*(=|$)")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: short, with a hint, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem(message, hint=f"see {self.prog} --help")])


def _add(parser: argparse._ActionsContainer, flag: Flag) -> None:
    """Add a flag; its value stays text, and is read by the flag table."""
    note = f" ({flag.note})" if flag.note else ""
    shown = f" Default: {flag.shown_default}." if flag.shown_default else ""
    text = (flag.help + shown + note).replace("%", "%%")
    if flag.kind == "switch":
        parser.add_argument(flag.name, action="store_true", default=flag.default, help=text)
    elif flag.kind == "list":
        parser.add_argument(flag.name, nargs="*", default=flag.default, help=text, metavar="K=V")
    else:
        metavar = (
            "{" + ",".join(map(str, flag.choices)) + "}" if flag.choices else flag.kind.upper()
        )
        parser.add_argument(flag.name, default=flag.default, help=text, metavar=metavar)


EPILOG = """\
example:
  accelerate launch --num_cpu_threads_per_process 1 train_textual_inversion.py \\
    --pretrained_model_name_or_path=path/to/model --dataset_config=dataset.toml \\
    --token_string=mychar --init_word=girl --num_vectors_per_token=4 \\
    --output_dir=output --save_model_as=safetensors --max_train_steps=1600 \\
    --learning_rate=5e-4 --mixed_precision=bf16 --cache_latents
"""


def build_parser(script: str, prog: str) -> Parser:
    """Return the parser of a `Script`, with one help section per group."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [flags]",
        description="Train a Textual Inversion embedding: teach Stable Diffusion a new word.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag in flags_of(script):
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        _add(groups[flag.group], flag)
    return parser


def parse(script: str, argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Return the values of all flags of a script: command line, else config file, else default.

    `words` has those of each word of the file, and `told` what is to be said of the file.

    Raises:
        ConfigError: unknown flags, with the nearest known one; values that are none of their flags: all of them.
    """
    flags = {flag.dest: flag for flag in flags_of(script)}
    given, problems = _command(argv, flags, build_parser(script, prog))
    settings = Settings()
    if given.get("config_file") and not given.get("output_config"):
        try:
            settings = read_settings(settings_path(given["config_file"]), flags)
        except ConfigError as error:
            problems += error.problems
    if settings.words:
        problems += entries.command_problems(given)
    args, wrong = _merged(script, flags, given, settings)
    if problems or wrong:
        raise ConfigError(dict.fromkeys([*problems, *wrong]))
    if script == Script.ANY:
        for own in (args, *(word.args for word in args.words)):
            decided(own)
    return args


def _merged(
    script: str, flags: Mapping[str, Flag], given: Mapping[str, Any], settings: Settings
) -> tuple[argparse.Namespace, list[Problem]]:
    """The values of a run, in `words` those of each word of its file; and what is wrong with them."""
    problems: list[Problem] = []

    def finished(values: Mapping[str, Any]) -> argparse.Namespace:
        defaults = {name: flag.default for name, flag in flags.items()}
        args = argparse.Namespace(**defaults | dict(values) | dict(given))
        args.script, args.words = script, []
        args.told = Findings(warnings=[*settings.told.warnings], notes=[*settings.told.notes])
        problems.extend(tidy(args, flags))
        return args

    args = finished(settings.shared)
    for label, own in settings.words:
        overruled = tuple(name for name in own if name in given)
        args.words.append(
            entries.Entry(label, finished(entries.merged(settings.shared, own)), overruled)
        )
    every = [word.args for word in args.words] or [args]
    if settings.folders:
        if not all(any(getattr(own, name) for name in entries.DATA) for own in every):
            problems.append(settings.folders)
        for own in every:
            own.told.warnings.append(settings.folders)
    return args, problems


def _command(
    argv: Sequence[str], flags: Mapping[str, Flag], parser: Parser
) -> tuple[dict[str, Any], list[Problem]]:
    """The values of the flags that a command line has, and what is wrong with it."""
    words, problems = _known_words(argv, flags, parser.prog)
    unset = object()
    try:
        found, extra = parser.parse_known_args(
            words, argparse.Namespace(**dict.fromkeys(flags, unset))
        )
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    problems += [
        Problem(f"unexpected word {word!r}", hint=f"see {parser.prog} --help") for word in extra
    ]
    given = {name: value for name, value in vars(found).items() if value is not unset}
    values, wrong = values_of_command(given, flags)
    return values, problems + wrong


def _known_words(
    argv: Sequence[str], flags: Mapping[str, Flag], prog: str
) -> tuple[list[str], list[Problem]]:
    """A command line with its flags in full, without unknown ones and their values; and what is wrong with those."""
    words: list[str] = []
    problems = []
    lost = False  # the last flag is unknown, and what follows are its values
    for word in argv:
        if not FLAG.match(word):
            words += [] if lost else [word]
            continue
        name, equals, value = word.partition("=")
        alike = _alike(name, flags)
        lost = len(alike) != 1 and not equals
        if len(alike) == 1:
            words.append(f"{alike[0]}{equals}{value}")
            continue
        shown = [flag for flag in alike if bare(flag) not in SECRETS]
        hint = f"it may be {few(shown, 5)}" if shown else f"see {prog} --help"
        problems.append(
            Problem(f"unknown flag {name}", hint=meant(bare(name), list(flags)) or hint)
        )
    return words, problems


def _alike(name: str, flags: Mapping[str, Flag]) -> list[str]:
    """The flag of a name, else those that begin so; none where other tools mean something else by the name."""
    if name in HELP or (name.startswith("--") and name[2:] in flags):
        return [name]
    alike = [f"--{flag}" for flag in flags if f"--{flag}".startswith(name)]
    elsewhere = CALLED.get(bare(name), ())
    return alike if not elsewhere or [bare(flag) for flag in alike] == [*elsewhere] else []


def write_config(args: argparse.Namespace) -> Path:
    """Write the values that differ from the defaults to --config_file; secrets are left out.

    Raises:
        ConfigError: no --config_file, or the file exists.
    """
    import tomli_w

    if not args.config_file:
        raise ConfigError(
            [Problem("--output_config needs --config_file", hint="add --config_file settings.toml")]
        )
    path = settings_path(args.config_file)
    if path.exists():
        raise ConfigError(
            [
                Problem(
                    "--output_config: the file exists", str(path), "name another file, or delete it"
                )
            ]
        )
    skip = {*SECRETS, "config_file", "output_config"}
    shown = {k: v for k, v in vars(args).items() if k in BY_DEST and k not in skip}
    values = {k: v for k, v in shown.items() if v != BY_DEST[k].default}
    text = tomli_w.dumps({k: str(v) if isinstance(v, Path) else v for k, v in values.items()})
    write_bytes(path, text.encode())
    return path
