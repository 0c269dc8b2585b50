"""`coinage ui`: make words in the browser."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from coinage.cli.parse import Parser
from coinage.errors import ConfigError, Problem
from coinage.system.text_files import read_text
from coinage.terminal.messages import fact, print_line

FOLDER = Path("~/coinage")
VARIABLE, FILE_VARIABLE = "COINAGE_PASSWORD", "COINAGE_PASSWORD_FILE"
HOSTS_VARIABLE = "COINAGE_HOSTS"
RUNS = {False: "and runs go on", True: "and the runs, which save first"}
LEAST_PASSWORD = 8  # characters
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - recognised, not used


def ui_parser() -> Parser:
    """Return the parser of `coinage ui`."""
    parser = Parser(
        prog="coinage ui",
        description="Make words in the browser: on this computer, without a network.",
        lang_help="Language of the pages, and of this help. Default: the browser's.",
    )
    parser.set_defaults(lang=None)
    add = parser.add_argument
    add("folder", nargs="?", type=Path, default=FOLDER, metavar="FOLDER",
        help="Folder for words, models and pictures. Default: ~/coinage.")  # fmt: skip
    add("--port", type=int, metavar="N", help="Port. Default: the first free one from 8484 on.")
    add("--listen", default="", metavar="ADDRESS",
        help="Let other computers in, at this address of this computer; needs a password.")  # fmt: skip
    add("--password-file", type=Path, metavar="FILE",
        help="File with the password on its first line. Default: the file that the variable "
        f"{FILE_VARIABLE} names, or else the variable {VARIABLE} itself.")  # fmt: skip
    add("--allow-host", action="append", metavar="NAME",
        help="A further name of this computer in browsers, as of a proxy; may be repeated. "
        f"Default: the names in the variable {HOSTS_VARIABLE}, with spaces between them.")  # fmt: skip
    add("--models", action="append", default=[], type=Path, metavar="FOLDER",
        help="A folder whose models may be chosen; it is remembered; may be repeated.")  # fmt: skip
    add("--no-browser", action="store_true", help="Print the address, and open no browser.")
    add("--end-runs", action="store_true",
        help="End the runs with the page, with all saved. Default: they go on.")  # fmt: skip
    return parser


def ui_command(argv: Sequence[str]) -> None:
    """Run `coinage ui`.

    Raises:
        ConfigError: wrong flags.
        CoinageError: the folder or the port cannot be used.
    """
    args = ui_parser().parse_args(argv)
    password = _password(args.password_file) if args.listen else ""
    names = args.allow_host or os.environ.get(HOSTS_VARIABLE, "").split()
    _check(args.listen, password, names, args.port)
    if not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))):
        hint = 'install it: pip install "coinage-ti[ui]"'
        raise ConfigError([Problem("the page's server is not installed", hint=hint)])
    from coinage.ui.server import Settings, serve

    settings = Settings(
        folder=args.folder,
        port=args.port,
        listen=args.listen,
        password=password,
        names=names,
        models=args.models,
        language=args.lang,
        ends_runs=args.end_runs,
    )

    def started(address: str) -> None:
        fact("folder", str(args.folder.expanduser().absolute()))
        # On stdout, as what a program that starts this one waits for
        print_line(address)
        print_line(f"the address works once; Ctrl-C ends the page, {RUNS[args.end_runs]}", "stderr")
        if not args.no_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    with contextlib.suppress(KeyboardInterrupt):
        serve(settings, started)


def _password(given: Path | None) -> str:
    named = os.environ.get(FILE_VARIABLE)
    file = given or (Path(named) if named else None)
    where = "--password-file" if given else FILE_VARIABLE
    text = read_text(file, where, 4096) if file else os.environ.get(VARIABLE, "")
    return (text.splitlines() or [""])[0].strip()


def _check(listen: str, password: str, names: Sequence[str], port: int | None) -> None:
    """Check what flags say together.

    Raises:
        ConfigError: they cannot be used so.
    """
    problems = []
    if listen and len(password) < LEAST_PASSWORD:
        what = f"--listen needs a password of {LEAST_PASSWORD} characters or more"
        problems.append(Problem(what, hint=f"give --password-file, or set {VARIABLE}"))
    if listen in EVERYWHERE and not names:
        hint = "add --allow-host with the name or address that browsers will use"
        problems.append(
            Problem(f"--listen {listen} does not say how this computer is called", hint=hint)
        )
    if port is not None and not 0 <= port < 2**16:
        problems.append(Problem(f"--port {port} is not a port", hint="give 1024 to 65535"))
    problems += [
        Problem(
            f"--allow-host {name} is not a name", hint="give a name such as box.local, or name:port"
        )
        for name in names
        if not name or any(sign in name for sign in "/*@ ?#\\")
    ]
    if problems:
        raise ConfigError(problems)
