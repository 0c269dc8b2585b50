"""The `coinage` console command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from coinage import __version__
from coinage.cli.cmd_dataset import dataset_command
from coinage.cli.cmd_generate import generate_command
from coinage.cli.console import exit_code_of
from coinage.cli.kohya import train_command
from coinage.cli.parse import Parser
from coinage.demo.run import MODELS, DemoSettings, export, run

USAGE = """\
commands:
  demo     teach the built-in model a new word, offline, in about a minute
  train    train on your own images; flags as in train_textual_inversion.py
  dataset  check a dataset and show what training would see
  generate draw pictures, with or without learned words

examples:
  coinage demo
  coinage demo --concept red-striped-cross --seed 1
  coinage dataset dataset.toml --token mychar --html dataset.html
  coinage generate path/to/model "a photo of mychar" --embedding output/mychar.safetensors
  coinage train --pretrained_model_name_or_path model --dataset_config dataset.toml \\
    --token_string mychar --init_word girl --output_dir output --save_model_as safetensors
"""


def demo_parser() -> Parser:
    """The parser of `coinage demo`."""
    parser = Parser(prog="coinage demo", description="Teach the built-in model a new word and show what it learned.")
    parser.add_argument("--concept", default="moon", help="What to teach; an unknown name lists them all. Default: moon.")
    families = sorted(path.name for path in MODELS.iterdir() if path.is_dir())
    parser.add_argument("--family", default="sd1", choices=families, help="Kind of the built-in model. Default: sd1.")
    parser.add_argument("--seed", type=int, default=0, help="Makes the demo repeatable. Default: 0.")
    parser.add_argument("--steps", type=int, default=300, help="Training steps. Default: 300.")
    parser.add_argument("--word", default="zibu", help="The new word. Default: zibu.")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="Folder for everything. Default: demo_output.")
    parser.add_argument("--export", type=Path, metavar="DIR", help="Only write model and dataset to DIR, and print the command.")
    return parser


def _demo(argv: Sequence[str]) -> None:
    args = demo_parser().parse_args(argv)
    settings = DemoSettings(args.concept, args.word, args.seed, args.steps, args.export or args.output, args.family)
    if args.export:
        export(settings)
    else:
        run(settings)


def _command_parser() -> Parser:
    parser = Parser(
        prog="coinage",
        description="Teach Stable Diffusion a new word (Textual Inversion).",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="coinage COMMAND [flags]",
    )
    parser.add_argument("--version", action="version", version=f"coinage {__version__}")
    parser.add_argument("command", choices=["demo", "train", "dataset", "generate"], help=argparse.SUPPRESS)
    return parser


def _run(words: Sequence[str]) -> None:
    _command_parser().parse_args(words[:1] or ["--help"])
    {"demo": _demo, "dataset": dataset_command, "generate": generate_command}[words[0]](words[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:
        return train_command("any", words[1:], prog="coinage train")
    return exit_code_of(lambda: _run(words))


if __name__ == "__main__":
    sys.exit(main())
