"""`coinage doctor`: what is wrong with this machine, and the line that mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coinage.cli.parse import Parser
from coinage.doctor.anonymous import anonymous
from coinage.doctor.examination import Result, examine, looks
from coinage.errors import CoinageError, Problem
from coinage.terminal.messages import print_json, print_line, print_text
from coinage.wording import counted


def doctor_parser() -> Parser:
    """Return the parser of `coinage doctor`."""
    parser = Parser(
        prog="coinage doctor",
        description="Look for what keeps this machine from training, and say how to mend it. The text "
        "holds no paths or names of yours, so that it can be pasted into a report.",
    )
    add = parser.add_argument
    add("--json", action="store_true", help="Print what was found as JSON.")
    add("--quick", action="store_true", help="Train nothing; otherwise two steps on each device.")
    return parser


def doctor_command(argv: Sequence[str]) -> None:
    """Run `coinage doctor`.

    Raises:
        CoinageError: something keeps this machine from training.
    """
    args = doctor_parser().parse_args(argv)
    found = []
    for result in examine(looks(training=not args.quick)):
        found.append(result)
        if not args.json:
            _print(result)
    errors = sum(len(result.findings.errors) for result in found)
    warnings = sum(len(result.findings.warnings) for result in found)
    if args.json:
        print_json([_as_json(result) for result in found])
    elif not errors:
        also = f", with {counted(warnings, 'warning')}" if warnings else ""
        print_line()
        print_line(f"this machine can train{also}")
    if errors:
        what = f"{counted(errors, 'thing')} must be mended before this machine can train"
        raise CoinageError(what, hint="the lines above say how")


def _print(result: Result) -> None:
    """Print a result as soon as it is there, and under it what is wrong."""
    print_text(anonymous(f"{result.state:8} {result.subject}: {result.found}"))
    for problem in _problems(result):
        for line in str(problem).splitlines():
            print_text(anonymous(f"         {line}"))


def _problems(result: Result) -> Iterable[Problem]:
    return (*result.findings.errors, *result.findings.warnings)


def _as_json(result: Result) -> dict[str, object]:
    problems = []
    for problem in _problems(result):
        parts = {"what": problem.what, "where": problem.where, "hint": problem.hint}
        problems.append({name: anonymous(text) for name, text in parts.items()})
    return {
        "subject": result.subject,
        "state": result.state,
        "found": anonymous(result.found),
        "problems": problems,
    }
