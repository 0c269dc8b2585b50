"""The files of a run in its output folder, recognised by their names. Imports no torch.

A run called NAME writes NAME.EXT at its end, NAME-000003.EXT and NAME-step00000500.EXT on the way,
NAME-best.EXT, a folder NAME...-state beside any of them, NAME-log.jsonl, NAME-report.html and
NAME-autopilot.json.

Two rules keep runs of one name apart:

- A run that begins anew never mixes with what an earlier one left. The earlier log, report, best
  word, saves and states get a number before their ending, `NAME-log-1.jsonl`, the same one for all,
  and no run takes them for its own then. The earlier word, NAME.EXT, stays until the new one is
  there, and the user is warned of that before the model is loaded.
- A run tidies what a kill left: files half written, under NAME's names, by processes that are gone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# What comes after a run's name: of an epoch, a step, or its end
SAVED = re.compile(r"(-\d{6,}|-step\d{8,})?")
STATE, BEST = "-state", "-best"
LOG, REPORT, CHOICE = "-log.jsonl", "-report.html", "-autopilot.json"
FORMATS = (".safetensors", ".pt", ".ckpt")
HALF_WRITTEN = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.tmp", re.DOTALL)
# Seconds after which a half written file is, where processes cannot be asked for
ABANDONED = 3600.0


def rest_of(path: Path, name: str) -> tuple[str, str] | None:
    """Split what comes after a run's name in a file's name.

    Args:
        path: of a file or folder in the output folder.
        name: of the run.

    Returns:
        The moment that the file is of, such as `-step00000500` or "", and its ending; None where
        the file is not the run's.
    """
    if not path.name.startswith(name):
        return None
    rest = path.name.removeprefix(name)
    for ending in (STATE, LOG, REPORT, CHOICE, *FORMATS):
        if rest.endswith(ending):
            moment = rest.removesuffix(ending)
            return (moment, ending) if _can_be_of(moment, ending) else None
    return None


def listed(folder: Path, name: str) -> Iterator[Path]:
    """Yield what is in a folder, in order.

    Where upper and lower case are one to the file system, as on Windows and most Macs, the files of
    Zibu are those of zibu: they are given as the run spells its name.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        start, rest = path.name[: len(name)], path.name[len(name) :]
        own = path.with_name(name + rest)
        is_alike = start != name and start.casefold() == name.casefold()
        yield own if is_alike and own.exists() and own.samefile(path) else path


def _can_be_of(moment: str, ending: str) -> bool:
    """Return whether a run writes files with an ending at a moment."""
    if ending in (LOG, REPORT, CHOICE):
        return not moment
    return bool(SAVED.fullmatch(moment)) or (moment == BEST and ending != STATE)


def earlier_files(folder: Path, name: str) -> list[Path]:
    """Return what an earlier run of a name left and a new one would mix with, in order.

    The word itself is not among it. A log without a line and its report are not worth keeping: that
    run has learned nothing.
    """
    if not folder.is_dir():
        return []
    files = []
    has_learned = False
    for path in listed(folder, name):
        rest = rest_of(path, name)
        if rest is None:
            continue
        moment, ending = rest
        is_word = not moment and ending in FORMATS
        if ending == CHOICE or is_word or path.is_dir() != (ending == STATE):
            continue
        files.append(path)
        is_empty_log = ending == LOG and not path.stat().st_size
        if ending != REPORT and not is_empty_log:
            has_learned = True
    return files if has_learned else []


def set_aside(folder: Path, name: str) -> list[Path]:
    """Give what an earlier run of a name left a number, and return where it is now.

    Raises:
        OSError: a file cannot be renamed.
    """
    files = earlier_files(folder, name)
    number = 1
    while any(_numbered(path, number).exists() for path in files):
        number += 1
    return [path.rename(_numbered(path, number)) for path in files]


def _numbered(path: Path, number: int) -> Path:
    """Return `zibu-log-1.jsonl` for `zibu-log.jsonl`, `zibu-1-state` for `zibu-state`."""
    if path.name.endswith(STATE):
        return path.with_name(f"{path.name.removesuffix(STATE)}-{number}{STATE}")
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def tidy(folder: Path, name: str) -> list[Path]:
    """Delete what a run of a name had half written when it was killed, and return it."""
    removed = []
    for path in _half_written(folder, name):
        try:
            if _is_left_over(path):
                path.unlink()
                removed.append(path)
        except OSError:  # it is gone already, or not ours to delete
            continue
    return removed


def _half_written(folder: Path, name: str) -> Iterator[Path]:
    """Yield temporary files of a run's own files and in its states.

    Their names are those of `system.files.write_bytes`.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        temporary = HALF_WRITTEN.fullmatch(path.name)
        rest = rest_of(path, name)
        if temporary and rest_of(path.with_name(temporary["name"]), name):
            yield path
        elif rest and rest[1] == STATE and path.is_dir():
            for inner in sorted(path.iterdir()):
                if HALF_WRITTEN.fullmatch(inner.name):
                    yield inner


def _is_left_over(path: Path) -> bool:
    """Return whether the process that wrote a temporary file is gone."""
    temporary = HALF_WRITTEN.fullmatch(path.name)
    if temporary is None:
        return False
    process = int(temporary["process"])
    if process == os.getpid():
        return False
    if os.name == "nt":  # where asking for a process may end it
        return time.time() - path.stat().st_mtime > ABANDONED
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's
        return False
    return False


def is_mixing(folder: Path, name: str, resume: str | None) -> bool:
    """Return whether a run that begins at its first step would mix with an earlier one of its name.

    It would not where `--resume` found no state: unless the word is finished, that run was killed
    before its first save.
    """
    return resume is None or bool(word_files(folder, name))


def word_files(folder: Path, name: str) -> Sequence[Path]:
    """Return the finished words of a name, of whatever format."""
    paths = [folder / f"{name}{ending}" for ending in FORMATS]
    return list(filter(Path.is_file, paths))
