"""The `coinage` console command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from coinage import __version__
from coinage.cli.console import exit_code_of
from coinage.cli.parse import LANG, Parser
from coinage.errors import ConfigError, Problem, did_you_mean
from coinage.wording import visible

USAGE = """\
commands:
  demo     teach the built-in model a new word, offline, in about a minute
  ui       make words in the browser, without a terminal
  train    train on your own images; flags as in train_textual_inversion.py
  dataset  check a dataset and show what training would see
  generate draw pictures, with or without learned words
  evaluate score learned words and checkpoints side by side
  inspect  show what an embedding file is, what it has learned, and where it works
  convert  write a learned word as another kind of file; rescale and mix words
  verify   check that a file works in other tools as in training
  report   compare runs, from the reports that they wrote
  doctor   find what keeps this machine from training, and how to mend it
  help     show this; help COMMAND shows the flags of a command

examples:
  coinage demo
  coinage demo --concept red-striped-cross --seed 1
  coinage dataset dataset.toml --token mychar --html dataset.html
  coinage generate path/to/model "a photo of mychar" --embedding output/mychar.safetensors
  coinage inspect mychar.safetensors --model path/to/model
  coinage report output --html compared.html
  coinage train --pretrained_model_name_or_path model --dataset_config dataset.toml \\
    --token_string mychar --init_word girl --output_dir output --save_model_as safetensors
"""


COMMANDS = (
    *("demo", "ui", "train", "dataset", "generate", "evaluate", "inspect", "convert", "verify"),
    *("report", "doctor"),
)


def command_parser() -> Parser:
    """Return the parser of the bare command."""
    parser = Parser(
        prog="coinage",
        description="Teach Stable Diffusion a new word (Textual Inversion).",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="coinage COMMAND [flags]",
    )
    parser.add_argument("--version", action="version", version=f"coinage {__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS)
    return parser


def asked(words: list[str]) -> list[str]:
    """Return the words of a command line, with `help` and `help COMMAND` as `--help` and `COMMAND --help`.

    `--lang` may come first; it goes to the end then, where every command takes it.
    """
    lang: list[str] = []
    if words and words[0].partition("=")[0] == LANG:
        count = 1 if "=" in words[0] else 2
        words, lang = words[count:] or ["--help"], words[:count]
    if words[:1] == ["help"]:
        command = [word for word in words[1:2] if not word.startswith("-")]
        words = [*command, "--help", *words[1 + len(command) :]]
    return [*words, *lang]


def _run(words: Sequence[str]) -> None:
    own = words if words[:1] and words[0].startswith("-") else words[:1]
    name = command_parser().parse_args(own or ["--help"]).command
    if name not in COMMANDS:
        hint = did_you_mean(name.lower(), COMMANDS) or f"the commands are {', '.join(COMMANDS)}"
        raise ConfigError([Problem(f"`{visible(name)}` is not a command of coinage", hint=hint)])
    # What others need is not imported
    command = getattr(import_module(f"coinage.cli.cmd_{name}"), f"{name}_command")
    command(words[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = asked(sys.argv[1:] if argv is None else list(argv))
    if words[:1] == ["train"]:
        from coinage.cli.train import train_command

        return train_command("coinage", words[1:], prog="coinage train")
    return exit_code_of(lambda: _run(words))


if __name__ == "__main__":
    sys.exit(main())
