"""`coinage demo`: teach the built-in model a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coinage.cli.parse import Parser
from coinage.demo.run import DemoSettings, export, run
from coinage.demo.worlds import MODELS, WORLDS


def demo_parser() -> Parser:
    """Return the parser of `coinage demo`."""
    parser = Parser(
        prog="coinage demo",
        description="Teach the built-in model a new word and show what it learned.",
    )
    parser.add_argument(
        "--concept",
        default="moon",
        help="What to teach; an unknown name lists them all. Default: moon.",
    )
    families = sorted(path.name for path in MODELS.iterdir() if path.is_dir())
    parser.add_argument(
        "--family",
        default="sd1",
        choices=families,
        help="Kind of the built-in model. Default: sd1.",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="Makes the demo repeatable. Default: 0."
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="Training steps. Default: 300, or 100 for models of flow matching.",
    )
    parser.add_argument("--word", default="zibu", help="The new word. Default: zibu.")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        help="Folder for everything. Default: demo_output.",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="Only write model and dataset to DIR, and print the command.",
    )
    return parser


def demo_command(argv: Sequence[str]) -> None:
    """Run `coinage demo`.

    Raises:
        ConfigError: wrong flags, or the folder cannot be written.
        TrainingError: the training command failed.
    """
    args = demo_parser().parse_args(argv)
    steps = WORLDS[args.family].training_steps if args.steps is None else args.steps
    settings = DemoSettings(
        args.concept, args.word, args.seed, steps, args.export or args.output, args.family
    )
    if args.export:
        export(settings)
    else:
        run(settings)
