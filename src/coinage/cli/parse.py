"""From the command line and its config file to plain values, without importing torch."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from coinage.cli import entries
from coinage.cli.flags import BY_DEST, Flag, flags_of
from coinage.cli.own_defaults import decided
from coinage.errors import ConfigError, Problem, did_you_mean
from coinage.files import write_bytes

SECRETS = ("wandb_api_key", "huggingface_token")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: short, with a hint, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem(message, hint=f"see {self.prog} --help")])


def ratio(text: str) -> float:
    """A count, a fraction below 1, or a percentage: "100", "0.1", "10%"."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if 0 < value < 1 or (value == 0 and text.endswith("%")):
        return value
    return int(text)


def _add(parser: argparse._ActionsContainer, flag: Flag) -> None:
    note = f" ({flag.note})" if flag.note else ""
    shown = "" if flag.default in (None, "", False) else f" Default: {flag.default}."
    text = (flag.help + shown + note).replace("%", "%%")
    if flag.kind == "switch":
        parser.add_argument(flag.name, action="store_true", default=flag.default, help=text)
    elif flag.kind == "list":
        parser.add_argument(flag.name, nargs="*", default=flag.default, help=text, metavar="K=V")
    else:
        kinds: dict[str, Any] = {"str": str, "int": int, "float": float, "ratio": ratio, "path": Path}
        metavar = None if flag.choices else flag.kind.upper()
        parser.add_argument(
            flag.name, type=kinds[flag.kind], default=flag.default, choices=flag.choices or None, help=text, metavar=metavar
        )


EPILOG = """\
example:
  accelerate launch --num_cpu_threads_per_process 1 train_textual_inversion.py \\
    --pretrained_model_name_or_path=path/to/model --dataset_config=dataset.toml \\
    --token_string=mychar --init_word=girl --num_vectors_per_token=4 \\
    --output_dir=output --save_model_as=safetensors --max_train_steps=1600 \\
    --learning_rate=5e-4 --mixed_precision=bf16 --cache_latents
"""


def build_parser(script: str, prog: str) -> Parser:
    """The parser of the script "sd" or "sdxl", with one help section per group."""
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


def _config_path(name: str) -> Path:
    path = Path(name)
    return path if path.suffix == ".toml" else path.with_name(path.name + ".toml")


def _as_words(name: str, value: Any, where: str) -> list[str] | Problem:
    """A config file's value as it would stand on the command line."""
    kind = BY_DEST[name].kind
    if kind == "switch":
        if not isinstance(value, bool):
            return Problem(f"`{name}` must be true or false", where)
        return [f"--{name}"] if value else []
    if kind == "list":
        return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return [f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"]


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The values of a config file, and those of each word that it has a table for. Other tables are only headings."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError([Problem("--config_file: file not found", str(path))]) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([Problem(f"--config_file: {error}", str(path))]) from None
    tables = data.get(entries.TABLE)
    several = isinstance(tables, list) and bool(tables) and all(isinstance(table, dict) for table in tables)
    words = data.pop(entries.TABLE) if several else []
    return _flat(data), [_flat(table) for table in words]


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat


def _converted(values: Mapping[str, Any], where: str, parser: Parser) -> argparse.Namespace:
    """A config file's values, converted by the parser of the command line."""
    problems, words = [], []
    for name, value in values.items():
        converted = _as_words(name, value, where)
        if isinstance(converted, Problem):
            problems.append(converted)
        else:
            words += converted
    if problems:
        raise ConfigError(problems)
    try:
        return parser.parse_args(words)
    except ConfigError as error:
        raise ConfigError([Problem(p.what, where) for p in error.problems]) from None


def _with_file(path: Path, argv: Sequence[str], parser: Parser, known: Sequence[str]) -> argparse.Namespace:
    """The command line's values, else those of a config file; and as `words` the same of each word in it."""
    shared, tables = _read(path)
    names = [*known, entries.TABLE]
    problems = [Problem(f"unknown key `{name}`", str(path), did_you_mean(name, names)) for name in shared if name not in known]
    labels = [entries.label_of(number, values) for number, values in enumerate(tables, 1)]
    for label, values in zip(labels, tables, strict=True):
        problems += entries.key_problems(values, known, f"{path}, {label}")
    if problems:
        raise ConfigError(problems)

    def parsed(values: Mapping[str, Any], where: str) -> argparse.Namespace:
        return parser.parse_args(argv, namespace=_converted(values, where, parser))

    args = parsed(shared, str(path))
    given = _given(argv, parser, known)
    problems = entries.command_problems(given) if tables else []
    words = []
    for label, values in zip(labels, tables, strict=True):
        try:
            own = parsed(entries.merged(shared, values), f"{path}, {label}")
            words.append(entries.Entry(label, own, tuple(name for name in values if name in given)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    args.words = words
    return args


def _given(argv: Sequence[str], parser: Parser, known: Sequence[str]) -> set[str]:
    """The flags that a command line has, whatever their values."""
    unset = object()
    found = parser.parse_args(argv, namespace=argparse.Namespace(**dict.fromkeys(known, unset)))
    return {name for name in known if getattr(found, name) is not unset}


def parse(script: str, argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Values of all flags of a script: command line, else config file, else default; `words` has those of each word of the file.

    Raises:
        ConfigError: unknown flags, with the nearest known one; values of the wrong type.
    """
    parser = build_parser(script, prog)
    args, unknown = parser.parse_known_args(argv)
    flags = flags_of(script)
    names = [flag.name for flag in flags]
    if unknown:
        problems = []
        for word in unknown:
            name = word.split("=")[0]
            text = f"unknown flag {name}" if name.startswith("-") else f"unexpected word {word!r}"
            problems.append(Problem(text, hint=did_you_mean(name, names) or f"see {prog} --help"))
        raise ConfigError(problems)
    args.words = []
    if args.config_file and not args.output_config:
        args = _with_file(_config_path(args.config_file), argv, parser, [flag.dest for flag in flags])
    for own in (args, *(word.args for word in args.words)):
        own.script = script
        if script == "any":
            decided(own)
    return args


def write_config(args: argparse.Namespace) -> Path:
    """Write the values that differ from the defaults to --config_file; secrets are left out.

    Raises:
        ConfigError: no --config_file, or the file exists.
    """
    import tomli_w

    if not args.config_file:
        raise ConfigError([Problem("--output_config needs --config_file", hint="add --config_file settings.toml")])
    path = _config_path(args.config_file)
    if path.exists():
        raise ConfigError([Problem("--output_config: the file exists", str(path), "name another file, or delete it")])
    skip = {*SECRETS, "config_file", "output_config", "script", "words"}
    values = {k: v for k, v in vars(args).items() if k not in skip and v != BY_DEST[k].default}
    text = tomli_w.dumps({k: str(v) if isinstance(v, Path) else v for k, v in values.items()})
    write_bytes(path, text.encode())
    return path
