"""Parse the command line and its config file into plain values, without importing torch."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from coinage.cli.language import LANGUAGES, can_show, language_of
from coinage.errors import ConfigError, Problem
from coinage.settings import word_tables
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import SECRETS, Flag, flags_of
from coinage.settings.foreign import CALLED, DASHES, bare, meant
from coinage.settings.mapping import merge, values_to_toml
from coinage.settings.scripts import Script
from coinage.settings.toml_file import Settings, read_settings, settings_path
from coinage.settings.values import values_of_command
from coinage.system.files import write_bytes
from coinage.wording import few

LANG = "--lang"
LANG_HELP = "Language of this help, and of nothing else. Default: that of LANG and the like."
HELP = ("-h", "--help", LANG)
# Not a negative number, and no text that begins with a dash
FLAG = re.compile(rf"[{DASHES}]+[^\W\d][^\s=]*(=|$)")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are short, with a hint, and exit code 2.

    Its help is in the language of `--lang`, or of the environment.
    """

    def __init__(self, *, lang_help: str = LANG_HELP, **more: Any) -> None:
        super().__init__(**more)
        self._words: Sequence[str] = ()
        self.add_argument(LANG, choices=LANGUAGES, default=argparse.SUPPRESS, help=lang_help)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse words as the base class does, and keep them: `--help` may come before `--lang`."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._words, namespace)

    def print_help(self, file: Any = None) -> None:
        """Print the help, in English where the stream cannot show another language."""
        stream = sys.stdout if file is None else file
        if language_of(self._words, os.environ) == "ja":
            from coinage.cli.japanese_help import japanese_help

            text = japanese_help(self)
            if can_show(text, stream):
                self._print_message(text, stream)
                return
        super().print_help(stream)

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem(message, hint=f"see {self.prog} --help")])


def _add(parser: argparse._ActionsContainer, flag: Flag) -> None:
    """Add a flag; its value stays text, and is read by the flag table."""
    note = f" ({flag.note})" if flag.note else ""
    shown = f" Default: {flag.shown_default}." if flag.shown_default else ""
    text = (flag.help + shown + note).replace("%", "%%")
    if flag.kind == "switch" and flag.choices:
        choices = "{" + ",".join(map(str, flag.choices)) + "}"
        name = flag.name
        parser.add_argument(
            name, nargs="?", const=True, default=flag.default, help=text, metavar=choices
        )
    elif flag.kind == "switch":
        parser.add_argument(flag.name, action="store_true", default=flag.default, help=text)
    elif flag.kind == "list":
        parser.add_argument(flag.name, nargs="*", default=flag.default, help=text, metavar="K=V")
    else:
        metavar = flag.kind.upper()
        if flag.choices:
            metavar = "{" + ",".join(map(str, flag.choices)) + "}"
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
    """Return the parser of a script, with one help section per group."""
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


def parse(script: str, argv: Sequence[str], prog: str) -> FlagValues:
    """Return the values of all flags of a script: command line, else config file, else default.

    Args:
        script: "sd", "sdxl" or "coinage".
        argv: the words of the command line after the program's name.
        prog: the program's name, for messages.

    Raises:
        ConfigError: unknown flags, with the nearest known one, and values that do not fit their flags:
            all of them.
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
        problems += word_tables.command_problems(given)
    values, wrong = merge(Script(script), flags, given, settings)
    if problems or wrong:
        raise ConfigError(dict.fromkeys([*problems, *wrong]))
    return values


def _command(
    argv: Sequence[str], flags: Mapping[str, Flag], parser: Parser
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values of the flags that a command line has, and what is wrong with it."""
    words, problems = _known_words(argv, flags, parser.prog)
    unset = object()
    try:
        empty = argparse.Namespace(**dict.fromkeys(flags, unset))
        parsed, extra = parser.parse_known_args(words, empty)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    for word in extra:
        hint = f"see {parser.prog} --help"
        problems.append(Problem(f"unexpected word {word!r}", hint=hint))
    given = {name: value for name, value in vars(parsed).items() if value is not unset}
    given.pop("lang", None)  # it is for the help
    values, wrong = values_of_command(given, flags)
    return values, problems + wrong


def _known_words(
    argv: Sequence[str], flags: Mapping[str, Flag], prog: str
) -> tuple[list[str], list[Problem]]:
    """Return a command line with its flags in full, without unknown ones; and what is wrong with those."""
    words: list[str] = []
    problems = []
    after_unknown = False  # words that follow an unknown flag are its values
    for word in argv:
        if not FLAG.match(word):
            if not after_unknown:
                words.append(word)
            continue
        name, equals, value = word.partition("=")
        alike = _alike(name, flags)
        after_unknown = len(alike) != 1 and not equals
        if len(alike) == 1:
            words.append(f"{alike[0]}{equals}{value}")
            continue
        shown = [flag for flag in alike if bare(flag) not in SECRETS]
        hint = f"it may be {few(shown, 5)}" if shown else f"see {prog} --help"
        hint = meant(bare(name), list(flags)) or hint
        problems.append(Problem(f"unknown flag {name}", hint=hint))
    return words, problems


def _alike(name: str, flags: Mapping[str, Flag]) -> list[str]:
    """Return the flag of this name, or else all flags that begin with it.

    Other tools may use the name for another flag: then none is returned.
    """
    if name in HELP or (name.startswith("--") and name[2:] in flags):
        return [name]
    alike = [flag for flag in flags if f"--{flag}".startswith(name)]
    elsewhere = CALLED.get(bare(name), ())
    if elsewhere and alike != list(elsewhere):
        return []
    return [f"--{flag}" for flag in alike]


def write_config(values: FlagValues) -> Path:
    """Write the values that differ from the defaults to --config_file; secrets are left out.

    Raises:
        ConfigError: no --config_file, or the file exists.
    """
    if not values.config_file:
        what, hint = "--output_config needs --config_file", "add --config_file settings.toml"
        raise ConfigError([Problem(what, hint=hint)])
    path = settings_path(values.config_file)
    if path.exists():
        what, hint = "--output_config: the file already exists", "name another file, or delete it"
        raise ConfigError([Problem(what, str(path), hint)])
    write_bytes(path, values_to_toml(values).encode())
    return path
