"""Clean up the values of flags: paths below the home folder, output names without suffix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coinage.errors import Findings, Problem
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import Flag
from coinage.system.text_files import SLASHES, at_home, path_problem
from coinage.text.placeholder import encoding_problems

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")  # of embedding files
DATA_URL = "data:"  # a thumbnail may be one
# The names go into files too
WRITTEN = ("output_dir", "cache_dir", "logging_dir", "console_log_file", "debug_dataset_out")


def tidy(values: FlagValues, flags: Mapping[str, Flag]) -> tuple[FlagValues, list[Problem]]:
    """Replace `~` by the home folder, and take a suffix off the output name.

    Returns:
        The cleaned values, and what is wrong with paths and texts.
    """
    problems = []
    changed: dict[str, object] = {}
    for name, flag in flags.items():
        value = getattr(values, name)
        if not flag.path or value is None or str(value).startswith(DATA_URL):
            continue
        path = at_home(str(value))
        reason = path_problem(path)
        if reason:
            hint = SLASHES if "character" in reason else ""
            problems.append(Problem(f"{flag.name}: {reason}", path, hint))
        changed[name] = Path(path) if flag.kind == "path" else path
    if values.output_name:
        changed["output_name"] = _without_suffix(values.output_name, values.remarks)
    tidied = values.changed(**changed)
    texts = []
    for name, flag in flags.items():
        if _is_text(flag):
            texts.append((flag.name, getattr(tidied, name)))
    return tidied, problems + encoding_problems(texts)


def _is_text(flag: Flag) -> bool:
    """Return whether a value goes to a tokenizer or into the name of a file that is written.

    Paths that are read may be any bytes; what only stands in the file's header is mended there.
    """
    if flag.kind != "str" or flag.dest.startswith("metadata_"):
        return False
    return not flag.path or flag.dest in WRITTEN


def _without_suffix(given: str, remarks: Findings) -> str:
    name = given
    while name.lower().endswith(SUFFIXES) and name.lower() not in SUFFIXES:
        name = name[: name.rindex(".")]
    if name != given:
        what = f"the file is called {name}, and --save_model_as gives it its suffix"
        remarks.note(f"--output_name {given}: {what}")
    return name
