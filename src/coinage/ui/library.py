"""Embeddings and runs of the workspace, also those that the page has not made. Imports no torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coinage.errors import CoinageError
from coinage.report.page import read_report
from coinage.report.record import Record
from coinage.runs.files import FORMATS, REPORT, rest_of
from coinage.ui.workspace import (
    FILE_ID,
    NotFoundError,
    WordFolder,
    Workspace,
    read_json_or,
    write_json,
)

DEPTH = 4  # folders deep that runs are looked for
MOST_FOLDERS = 20_000  # that are looked into
# Formats that tools write beside those of training
EMBEDDINGS = (*FORMATS, ".bin", ".webp", ".png")
OWN_FOLDERS = ("models", "words", "files", "pictures")
STATES = {"training": "killed", "finished": "ended", "stopped": "stopped", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class File:
    """An embedding in the workspace.

    Attributes:
        path: of the file.
        source: whether it was dropped into the page, is a word's, or was found.
        place: the folder, in words.
    """

    path: Path
    source: str
    place: str

    def shown(self, workspace: Workspace) -> dict[str, Any]:
        """Return what a browser is told."""
        stat = self.path.stat()
        return {
            "id": workspace.file_id(self.path),
            "name": self.path.name,
            "bytes": stat.st_size,
            "changed": stat.st_mtime,
            "source": self.source,
            "place": self.place,
        }


@dataclass(slots=True)
class FoundRun:
    """A run that the page has not made: its report, and the words it has written."""

    name: str
    folder: Path
    report: os.DirEntry[str] | None = None
    files: list[os.DirEntry[str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Return the file that the run is known by."""
        return Path(self.report.path if self.report else self.files[0].path)

    @property
    def changed(self) -> float:
        """Return when one of its files was changed last, seconds since 1970."""
        entries = [*self.files, *([self.report] if self.report else [])]
        return max(entry.stat().st_mtime for entry in entries)


class Library:
    """What lies in a workspace.

    What a report says is kept, and read again only when the file has changed.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._known: dict[str, list[Any]] | None = None

    def files(self) -> Iterator[File]:
        """Yield the embeddings: those that were dropped, those of words, and those that were found."""
        workspace = self._workspace
        for folder in _folders_in(workspace.files):
            for path in _files_in(folder):
                if path.suffix.lower() in EMBEDDINGS and not path.name.startswith("."):
                    yield File(path, "dropped", "")
        for word_id in workspace.word_ids():
            for path in _files_in(WordFolder(workspace.words / word_id).output):
                if path.suffix in FORMATS and not path.name.startswith("."):
                    yield File(path, "word", word_id)
        for run in self._runs():
            for entry in run.files:
                place = run.folder.relative_to(workspace.root).as_posix()
                yield File(Path(entry.path), "found", "" if place == "." else place)

    def find(self, file_id: str) -> File:
        """Return an embedding by its id.

        Raises:
            NotFoundError: there is none.
        """
        if FILE_ID.fullmatch(file_id):
            for file in self.files():
                if self._workspace.file_id(file.path) == file_id:
                    if not self._workspace.holds(file.path):
                        break
                    return file
        raise NotFoundError("file")

    def find_run(self, run_id: str) -> FoundRun:
        """Return a run that was found, by its id.

        Raises:
            NotFoundError: there is none.
        """
        for run in self._runs():
            is_it = self._workspace.file_id(run.path) == run_id
            if is_it and self._workspace.holds(run.path):
                return run
        raise NotFoundError("run")

    def cards(self) -> list[dict[str, Any]]:
        """Return what the list of words shows of the runs that were found, the newest first."""
        with self._lock:
            known = self._read_known()
            cards, now = [], {}
            for run in self._runs():
                place = run.path.relative_to(self._workspace.root).as_posix()
                stamp = self._stamp(run)
                told = known.get(place)
                if told is None or told[0] != stamp:
                    told = [stamp, _told(run)]
                now[place] = told
                cards.append(self._card(run, told[1]))
            if now != known:
                self._known = now
                with suppress(CoinageError):  # it is only there to be fast
                    write_json(self._file, now)
        return sorted(cards, key=lambda card: -card["changed"])

    @property
    def _file(self) -> Path:
        return self._workspace.own / "library.json"

    def _read_known(self) -> dict[str, list[Any]]:
        if self._known is None:
            try:
                known = read_json_or(self._file, {})
            except CoinageError:
                known = {}
            self._known = known if isinstance(known, dict) else {}
        return self._known

    def _stamp(self, run: FoundRun) -> list[int]:
        if run.report is None:
            return []
        stat = run.report.stat()
        return [stat.st_mtime_ns, stat.st_size]

    def _card(self, run: FoundRun, told: Mapping[str, Any]) -> dict[str, Any]:
        workspace = self._workspace
        run_id = workspace.file_id(run.path)
        has_preview = told.get("pictures", False)
        files = [
            {"id": workspace.file_id(Path(e.path)), "name": e.name, "bytes": e.stat().st_size}
            for e in run.files
        ]
        return {
            "id": run_id,
            "token": told.get("token") or run.name,
            "state": told.get("state", "ended"),
            "reason": told.get("reason", ""),
            "step": told.get("step"),
            "total": told.get("total"),
            "seconds_left": None,
            "preview": f"/api/found/{run_id}/preview" if has_preview else None,
            "report": f"/api/found/{run_id}/report" if run.report else None,
            "files": files,
            "changed": run.changed,
            "source": "found",
        }

    def _runs(self) -> Iterator[FoundRun]:
        """Yield the runs outside the folders of the page."""
        for folder, entries in _walk(self._workspace.root):
            yield from runs_in(folder, entries)


def runs_in(folder: Path, entries: Iterable[os.DirEntry[str]]) -> list[FoundRun]:
    """Return the runs in a folder: by their reports, and each other embedding as one of its own."""
    files = sorted((entry for entry in entries if _is_file(entry)), key=lambda entry: entry.name)
    runs = []
    for entry in files:
        if entry.name.endswith(REPORT):
            runs.append(FoundRun(entry.name.removesuffix(REPORT), folder, entry))
    for entry in files:
        if not entry.name.endswith(FORMATS):
            continue
        path = Path(entry.path)
        run = next((run for run in runs if run.report and rest_of(path, run.name)), None)
        if run is None:
            run = FoundRun(path.stem, folder)
            runs.append(run)
        run.files.append(entry)
    return runs


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
    except OSError:
        return False


def _walk(root: Path) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Yield the folders in which runs may lie, each with its entries; links are not followed."""
    waiting = [(root, 0)]
    seen = 0
    while waiting and seen < MOST_FOLDERS:
        folder, depth = waiting.pop()
        seen += 1
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        yield folder, entries
        for entry in entries:
            is_own = depth == 0 and entry.name in OWN_FOLDERS
            if is_own or depth == DEPTH or entry.name.startswith("."):
                continue
            if not entry.name.endswith("-state") and _is_folder(entry):
                waiting.append((Path(entry.path), depth + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def _told(run: FoundRun) -> dict[str, Any]:
    """Return what a run's report says, as far as a card shows it."""
    if run.report is None:
        return {}
    try:
        record = read_report(Path(run.report.path))
    except CoinageError as error:
        return {"state": "failed", "reason": error.problems[0].what}
    return {
        "token": record.token,
        "state": STATES[record.status],
        "reason": record.problem,
        "step": record.step,
        "total": record.total_steps,
        "pictures": last_picture(record) != "",
    }


def last_picture(record: Record) -> str:
    """Return the newest preview of a run with the word, as a data URL; "" where there is none."""
    for shot in reversed(record.shots):
        for prompt, picture in zip(record.prompts, shot.pictures, strict=False):
            if picture and prompt.of is None:
                return picture
    return ""
