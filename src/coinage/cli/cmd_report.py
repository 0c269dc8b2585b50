"""`coinage report`: compare runs from the reports that they wrote."""

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
from coinage.report.comparison import render_comparison
from coinage.report.measures import REPORT_SUFFIX
from coinage.report.page import as_plain, read_report
from coinage.report.record import Record
from coinage.system.files import write_bytes
from coinage.system.text_files import is_folder
from coinage.terminal.messages import print_json, print_table

log = logging.getLogger("coinage")
TEXT_COLUMNS = ("run", "status")
NUMBER_COLUMNS = ("steps", "loss", "turned", "length", "fixed loss", "works in", "warnings")
TABLE_WIDTH = 120  # columns that the table may take, also in a narrow or unknown terminal
EXAMPLES = """\
examples:
  coinage report output
  coinage report output/a-report.html output/b-report.html --html compared.html
  coinage report sweep --json
"""


def report_parser() -> Parser:
    """Return the parser of `coinage report`."""
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
        help=f"A NAME{REPORT_SUFFIX}, or a folder: all of them in it and below.",
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
    paths, problems = _find_reports(args.runs)
    if args.html and realpath(args.html) in map(realpath, paths):
        what = "--html: this is one of the reports"
        problems.append(Problem(what, str(args.html), "give another file"))
    records, unreadable = _read_reports(paths, args.runs)
    problems += unreadable
    if not records and not problems:
        problems.append(Problem("no report can be read", ", ".join(map(str, args.runs))))
    if problems:
        raise ConfigError(problems)
    if args.json:
        print_json([{"report": str(path)} | as_plain(run) for path, run in records.items()])
    else:
        print_runs(list(records.values()), list(records))
    if args.html:
        page = render_comparison(list(records.values()), list(records))
        write_bytes(args.html, page.encode())
        log.info("wrote %s", args.html)


def _find_reports(runs: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """Return the files of reports, each once, and what is wrong with the names given."""
    paths: dict[str, Path] = {}
    problems = []
    for run in runs:
        reports = sorted(run.rglob(f"*{REPORT_SUFFIX}")) if is_folder(run) else [run]
        if not reports:
            hint = f"a run writes NAME{REPORT_SUFFIX} into its output folder"
            problems.append(Problem("no reports in the folder or below", str(run), hint))
        for path in reports:
            paths.setdefault(realpath(path), path)
    return list(paths.values()), problems


def _read_reports(
    paths: Sequence[Path], runs: Sequence[Path]
) -> tuple[dict[Path, Record], list[Problem]]:
    """Return the records of reports, and what is wrong with those that were named themselves.

    What else is in a folder is left out with a warning, and does not hide the others.
    """
    named = set(map(realpath, runs))
    records: dict[Path, Record] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            records[path] = read_report(path)
        except CoinageError as error:
            if realpath(path) in named:
                problems += error.problems
            else:
                log.warning("left out: %s", error)
    return records, problems


def print_runs(records: Sequence[Record], paths: Sequence[Path]) -> None:
    """Print one line per run on stdout."""
    names = measures.names_of(records, paths)
    rows = [_row(name, record) for name, record in zip(names, records, strict=True)]
    columns = (*TEXT_COLUMNS, *NUMBER_COLUMNS)
    numbers = range(len(TEXT_COLUMNS), len(columns))
    print_table(columns, rows, right=numbers, least_width=TABLE_WIDTH)


def _row(name: str, record: Record) -> list[str]:
    works = measures.works_in(record)
    return [
        name,
        record.status,
        _steps(record),
        _cell(measures.last_loss(record)),
        _cell(measures.last_known(measures.mean_angles(record)), " deg"),
        _cell(measures.last_known(measures.relative_lengths(record)), " x"),
        _cell(measures.fixed_loss(record)),
        f"{works[0]} of {works[1]}" if works else "-",
        str(len(record.warnings)),
    ]


def _steps(record: Record) -> str:
    if record.total_steps > record.step:
        return f"{record.step} of {record.total_steps}"
    return str(record.step)


def _cell(value: float | None, unit: str = "") -> str:
    return "-" if value is None else number(value) + unit
