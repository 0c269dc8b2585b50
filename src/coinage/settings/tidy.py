"""What becomes of flags' values, wherever they come from: paths from home, names without suffix."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from coinage.errors import Problem
from coinage.settings.flags import Flag
from coinage.system.text_files import SLASHES, at_home, path_problem
from coinage.text.placeholder import encoding_problems

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")  # of embedding files
DATA_URL = "data:"  # a thumbnail may be one
# The names go into files too
WRITTEN = ("output_dir", "cache_dir", "logging_dir", "console_log_file", "debug_dataset_out")


def tidy(args: argparse.Namespace, flags: Mapping[str, Flag]) -> list[Problem]:
    """Put the home folder for `~`, take a suffix off the output name; return what is wrong with paths."""
    problems = []
    for name, flag in flags.items():
        value = getattr(args, name)
        if not flag.path or value is None or str(value).startswith(DATA_URL):
            continue
        path = at_home(str(value))
        if why := path_problem(path):
            problems.append(
                Problem(f"{flag.name}: {why}", path, SLASHES if "character" in why else "")
            )
        setattr(args, name, Path(path) if flag.kind == "path" else path)
    if args.output_name:
        args.output_name = _without_suffix(args)
    return problems + encoding_problems(
        (flag.name, getattr(args, name)) for name, flag in flags.items() if _is_text(flag)
    )


def _is_text(flag: Flag) -> bool:
    """Whether a value comes to a tokenizer or into the name of a file that is written.

    Paths that are read may be any bytes; what is only told in the file's header is mended there.
    """
    name = flag.name[2:]
    return (
        flag.kind == "str"
        and (not flag.path or name in WRITTEN)
        and not name.startswith("metadata_")
    )


def _without_suffix(args: argparse.Namespace) -> str:
    name: str = args.output_name
    while name.lower().endswith(SUFFIXES) and name.lower() not in SUFFIXES:
        name = name[: name.rindex(".")]
    if name != args.output_name:
        note = f"the file is called {name}, and --save_model_as gives it its suffix"
        args.told.note(f"--output_name {args.output_name}: {note}")
    return name
