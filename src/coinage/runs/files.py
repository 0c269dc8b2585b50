"""The files of a run in its output folder, recognised by their names. Imports no torch.

A run called NAME writes NAME.EXT at its end, NAME-000003.EXT and NAME-step00000500.EXT on the way,
NAME-best.EXT, a folder NAME...-state beside any of them, NAME-log.jsonl, NAME-report.html and
NAME-autopilot.json.

Two rules keep runs of one name apart:

- A run that begins anew never mixes with what an earlier one left. The earlier log, report, best word, saves
  and states get a number before their ending, `NAME-log-1.jsonl`, the same one for all, and no run takes them
  for its own then. The earlier word, NAME.EXT, stays until the new one is there, and the user is warned of
  that before the model is loaded.
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
STATE, BEST, LOG, REPORT, CHOICE = (
    "-state",
    "-best",
    "-log.jsonl",
    "-report.html",
    "-autopilot.json",
)
FORMATS = (".safetensors", ".pt", ".ckpt")
HALF_WRITTEN = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.tmp", re.DOTALL)
# Seconds after which a half written file is, where processes cannot be asked for
ABANDONED = 3600.0


def rest_of(path: Path, name: str) -> tuple[str, str] | None:
    """Return what comes after a run's name in a file's name: (what it is of, ending); None for others' files.

    Args:
        path: of a file or folder in the output folder.
        name: of the run.
    """
    if not path.name.startswith(name):
        return None
    rest = path.name.removeprefix(name)
    ending = next(
        (end for end in (STATE, LOG, REPORT, CHOICE, *FORMATS) if rest.endswith(end)), None
    )
    if ending is None:
        return None
    of = rest.removesuffix(ending)
    if ending in (LOG, REPORT, CHOICE):
        return (of, ending) if not of else None
    known = SAVED.fullmatch(of) or (of == BEST and ending != STATE)
    return (of, ending) if known else None


def earlier_files(folder: Path, name: str) -> list[Path]:
    """Return what an earlier run of a name left and a new one would mix with, in order; not the word itself.

    A log without a line and its report are not worth keeping: that run has learned nothing.
    """
    if not folder.is_dir():
        return []
    named = {path: rest for path in sorted(folder.iterdir()) if (rest := rest_of(path, name))}
    found = {path: rest for path, rest in named.items() if path.is_dir() == (rest[1] == STATE)}
    finished = [("", ending) for ending in FORMATS]
    kept = [path for path, rest in found.items() if rest not in finished and rest[1] != CHOICE]
    empty = [path for path in kept if path.name.endswith(LOG) and not path.stat().st_size]
    told = [path for path in kept if path not in empty and not path.name.endswith(REPORT)]
    return kept if told else []


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
    """`zibu-log.jsonl` as `zibu-log-1.jsonl`, `zibu-step00000002-state` as `zibu-step00000002-1-state`."""
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
    """Temporary files, as `files.write_bytes` names them, of a run's own files and in its states."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        found = HALF_WRITTEN.fullmatch(path.name)
        rest = rest_of(path, name)
        if found and rest_of(path.with_name(found["name"]), name):
            yield path
        elif rest and rest[1] == STATE and path.is_dir():
            yield from sorted(
                inner for inner in path.iterdir() if HALF_WRITTEN.fullmatch(inner.name)
            )


def _is_left_over(path: Path) -> bool:
    """Return whether the process that wrote a temporary file is gone."""
    found = HALF_WRITTEN.fullmatch(path.name)
    if found is None or int(found["process"]) == os.getpid():
        return False
    if os.name == "nt":  # where asking for a process may end it
        return time.time() - path.stat().st_mtime > ABANDONED
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's
        return False
    return False


def is_mixing(folder: Path, name: str, resume: str | None) -> bool:
    """Return whether a run that begins at its first step would mix with an earlier one of its name.

    Not where `--resume` was to go on and found no state: unless the word is finished, that run was killed
    before its first save.
    """
    return resume is None or bool(word_files(folder, name))


def word_files(folder: Path, name: str) -> Sequence[Path]:
    """Return the finished words of a name, of whatever format."""
    return [path for ending in FORMATS if (path := folder / f"{name}{ending}").is_file()]
