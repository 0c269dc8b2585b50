"""`coinage report`: what runs have come to, side by side, from the reports that they wrote."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from os.path import realpath  # unlike pathlib, it takes links that lead in a circle
from pathlib import Path

from coinage.cli.parse import Parser
from coinage.errors import CoinageError, ConfigError, Problem
from coinage.report import measures
from coinage.report.charts import number
from coinage.report.measures import ENDING
from coinage.report.page import compare, plain, read
from coinage.report.record import Record
from coinage.system.files import write_bytes
from coinage.system.text_files import is_folder
from coinage.terminal.messages import print_json, print_table

log = logging.getLogger("coinage")
COLUMNS = (
    "run",
    "status",
    "steps",
    "loss",
    "turned",
    "length",
    "fixed loss",
    "works in",
    "warnings",
)
WIDTH = 120  # columns that the table may take, also in a narrow or unknown terminal
EXAMPLES = """\
examples:
  coinage report output
  coinage report output/a-report.html output/b-report.html --html compared.html
  coinage report sweep --json
"""


def report_parser() -> Parser:
    """The parser of `coinage report`."""
    parser = Parser(
        prog="coinage report",
        description="Compare runs, from the reports that they wrote.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"A NAME{ENDING}, or a folder: all of them in it and below.",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="Write a page with the runs side by side."
    )
    parser.add_argument(
        "--json", action="store_true", help="Print the records as JSON, without pictures."
    )
    return parser


def report_command(argv: Sequence[str]) -> None:
    """Run `coinage report`.

    Raises:
        ConfigError: runs that cannot be read, all of them together.
    """
    args = report_parser().parse_args(argv)
    paths, problems = _reports(args.runs)
    named = set(map(realpath, args.runs))
    if args.html and realpath(args.html) in map(realpath, paths):
        problems.append(
            Problem("--html: this is one of the reports", str(args.html), "give another file")
        )
    found: dict[Path, Record] = {}
    for path in paths:
        try:
            found[path] = read(path)
        except CoinageError as error:
            if realpath(path) in named:
                problems += error.problems
            else:  # what else is in a folder does not keep the others from being shown
                log.warning("left out: %s", error)
    if not found and not problems:
        problems.append(Problem("no report can be read", ", ".join(map(str, args.runs))))
    if problems:
        raise ConfigError(problems)
    paths, records = list(found), list(found.values())
    if args.json:
        print_json(
            [
                {"report": str(path)} | plain(record)
                for path, record in zip(paths, records, strict=True)
            ]
        )
    else:
        print_runs(records, paths)
    if args.html:
        write_bytes(args.html, compare(records, paths).encode())
        log.info("wrote %s", args.html)


def _reports(runs: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The files of reports, each once, and what is wrong with the names given."""
    paths: dict[str, Path] = {}
    problems = []
    for run in runs:
        found = sorted(run.rglob(f"*{ENDING}")) if is_folder(run) else [run]
        if not found:
            problems.append(
                Problem(
                    "no reports in the folder or below",
                    str(run),
                    f"a run writes NAME{ENDING} into its output folder",
                )
            )
        paths |= {realpath(path): path for path in found if realpath(path) not in paths}
    return list(paths.values()), problems


def print_runs(records: Sequence[Record], paths: Sequence[Path]) -> None:
    """Print one line a run on stdout."""
    rows = []
    for name, record in zip(measures.names_of(records, paths), records, strict=True):
        works = measures.works_in(record)
        cells = [name, record.status, _steps(record), _cell(measures.last_loss(record))]
        cells += [
            _cell(measures.last(measures.turned(record)), " deg"),
            _cell(measures.last(measures.relative_lengths(record)), " x"),
        ]
        cells += [
            _cell(measures.fixed_loss(record)),
            f"{works[0]} of {works[1]}" if works else "-",
            str(len(record.warnings)),
        ]
        rows.append(cells)
    print_table(COLUMNS, rows, right=range(2, len(COLUMNS)), least_width=WIDTH)


def _steps(record: Record) -> str:
    return (
        f"{record.step} of {record.total_steps}"
        if record.total_steps > record.step
        else str(record.step)
    )


def _cell(value: float | None, unit: str = "") -> str:
    return "-" if value is None else number(value) + unit
