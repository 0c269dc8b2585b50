"""`coinage verify`: compare what a file does in other tools with what it does here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.checks.model import model_problems
from coinage.cli.parse import Parser
from coinage.config import ModelConfig
from coinage.errors import CoinageError, Findings
from coinage.models.facts import DEFAULT
from coinage.models.hub_files import detect_family
from coinage.terminal.messages import print_json, print_line, print_table

if TYPE_CHECKING:
    from coinage.embeddings.verify import Check

log = logging.getLogger("coinage")


def verify_parser() -> Parser:
    """Return the parser of `coinage verify`."""
    parser = Parser(
        prog="coinage verify",
        description="Load a file as other tools do, and compare what a prompt becomes.",
    )
    add = parser.add_argument
    add("file", type=Path, help="An embedding file.")
    add("--model", required=True, help="The model: a file, a diffusers folder or a hub id.")
    add("--token", help="The word. Default: as the file says, or its name.")
    cache_help = "Folder of tokenizers, for a model in a single file."
    add("--tokenizer_cache_dir", type=Path, help=cache_help)
    add("--clip_skip", type=int, help="As in training.")
    add("--json", action="store_true", help="Print the table as JSON.")
    return parser


def verify_command(argv: Sequence[str]) -> None:
    """Run `coinage verify`.

    Raises:
        ConfigError: the model cannot be used.
        CoinageError: the file cannot be read, does not fit the model, or gives other results or
            could not be tried in a tool that loads it.
    """
    args = verify_parser().parse_args(argv)
    family = detect_family(args.model) or DEFAULT.name
    model = ModelConfig(
        source=args.model,
        family=family,
        tokenizer_cache=args.tokenizer_cache_dir,
        clip_skip=args.clip_skip,
    )
    Findings(errors=model_problems(model)).raise_errors()
    from coinage.embeddings.verify import usage, verify_file
    from coinage.models.quiet import quiet_libraries

    quiet_libraries()
    verification = verify_file(args.file, model, args.token)
    checks = verification.checks
    if args.json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(("tool", "loads", "difference", "write", ""), [_cells(c) for c in checks])
        for line in usage(args.file, family, checks, verification.token):
            print_line(line)
    _raise_differences(args.file, checks)


def _cells(check: Check) -> tuple[str, ...]:
    difference = ""
    if check.in_part:
        difference = "a part of it"
    elif check.untried:
        difference = "could not be tried"
    elif check.difference is not None:
        difference = f"{check.difference:.1e}" + ("" if check.same else " NOT the same")
    return check.tool, "yes" if check.loads else "no", difference, check.write, check.why


def _raise_differences(path: Path, checks: Sequence[Check]) -> None:
    """Stop if the file gives other results, or could not be tried, in a tool that loads it.

    Raises:
        CoinageError: it does, or could not.
    """
    from coinage.embeddings.verify import COMPARED

    compared = [check for check in checks if check.tool in COMPARED and check.loads]
    different = [
        check.tool for check in compared if not (check.same or check.untried or check.in_part)
    ]
    if different:
        tools = ", ".join(different)
        raise CoinageError(f"this file gives different results in {tools}", str(path))
    untried = [f"{check.tool}: {check.why}" for check in compared if check.untried]
    if untried:
        raise CoinageError(f"this file could not be tried in {'; '.join(untried)}", str(path))
