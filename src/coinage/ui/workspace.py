"""The folder that the page works in: where things are, and which names lead there. Imports no torch.

Clients name things by ids, never by paths. An id that is none of ours, or leads out of the workspace
through a link, is an error before any file is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinage.errors import CoinageError
from coinage.system.files import write_bytes
from coinage.system.text_files import read_json

WORD_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LONGEST_WORD_ID = 64
IMAGE_ID = re.compile(r"[0-9a-f]{12}")
FILE_ID = re.compile(r"[0-9a-f]{16}")
NO_SUCH_THING = "there is no such {} in the workspace"
LEADS_OUT = "this is a link that leads out of the word's folder"


class NotFoundError(CoinageError):
    """An id that leads nowhere."""

    def __init__(self, kind: str) -> None:
        super().__init__(NO_SUCH_THING.format(kind), hint="reload the page")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder `root`, which is absolute and exists."""

    root: Path

    @property
    def own(self) -> Path:
        """Return the folder of what the page remembers: settings, queue, trash."""
        return self.root / ".coinage"

    @property
    def trash(self) -> Path:
        """Return the folder that holds what was deleted in the page."""
        return self.own / "trash"

    @property
    def words(self) -> Path:
        """Return the folder of the words, one folder each."""
        return self.root / "words"

    @property
    def models(self) -> Path:
        """Return the folder for models."""
        return self.root / "models"

    @property
    def files(self) -> Path:
        """Return the folder of embeddings that were dropped into the page."""
        return self.root / "files"

    @property
    def pictures(self) -> Path:
        """Return the folder of pictures that were drawn with words."""
        return self.root / "pictures"

    def word_ids(self) -> Iterator[str]:
        """Yield the ids of all words, in order."""
        if not self.words.is_dir():
            return
        with os.scandir(self.words) as entries:
            names = [entry.name for entry in entries if is_word_id(entry.name) and entry.is_dir()]
        yield from sorted(names)

    def word(self, word_id: str) -> WordFolder:
        """Return the folder of a word.

        Raises:
            NotFoundError: the id is none, or leads nowhere.
        """
        folder = self.words / word_id if is_word_id(word_id) else None
        if folder is None or not folder.is_dir() or not self.holds(folder):
            raise NotFoundError("word")
        return WordFolder(folder)

    def holds(self, path: Path) -> bool:
        """Return whether a path lies inside the workspace once all links are followed."""
        return path.resolve().is_relative_to(self.root.resolve())

    def file_id(self, path: Path) -> str:
        """Return the id of a file in the workspace: 16 hex digits, the same on each system."""
        return hashlib.sha256(path.relative_to(self.root).as_posix().encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class WordFolder:
    """The folder of one word."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def holds(self, path: Path) -> bool:
        """Return whether a path lies inside the folder once all links are followed."""
        return path.resolve().is_relative_to(self.path.resolve())

    def owned(self, path: Path) -> Path:
        """Return a path that lies inside the folder once all links are followed.

        Raises:
            CoinageError: it does not: nothing may be read or written there.
        """
        if not self.holds(path):
            hint = "put what it leads to in its place"
            raise CoinageError(LEADS_OUT, path.relative_to(self.path).as_posix(), hint)
        return path

    @property
    def form(self) -> Path:
        """Return the file of what was chosen in the page."""
        return self.path / "word.json"

    @property
    def images(self) -> Path:
        """Return the folder of training images and captions."""
        return self.path / "images"

    @property
    def image_list(self) -> Path:
        """Return the file that knows the images' own names and their order."""
        return self.path / "images.json"

    @property
    def masks(self) -> Path:
        """Return the folder of masks."""
        return self.path / "masks"

    @property
    def thumbs(self) -> Path:
        """Return the folder of small pictures."""
        return self.path / "thumbs"

    @property
    def run_settings(self) -> Path:
        """Return the file of the flags that the run was started with."""
        return self.path / "run.toml"

    @property
    def job(self) -> Path:
        """Return the file about the process that trains."""
        return self.path / "job.json"

    @property
    def progress(self) -> Path:
        """Return the file in which the process says how far it is."""
        return self.path / "progress.json"

    @property
    def printed(self) -> Path:
        """Return the file of what the run has printed."""
        return self.path / "output.log"

    @property
    def output(self) -> Path:
        """Return the run's output folder."""
        return self.path / "output"

    @property
    def requests(self) -> Path:
        """Return the folder in which the page asks a run for something."""
        return self.path / "requests"


def is_word_id(text: str) -> bool:
    """Return whether a text may be a word's id: such names are safe on every system."""
    return len(text) <= LONGEST_WORD_ID and bool(WORD_ID.fullmatch(text))


def new_image_id() -> str:
    """Return an id for a new image."""
    return secrets.token_hex(6)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        CoinageError: it cannot be written.
    """
    write_bytes(path, json.dumps(value, ensure_ascii=False, indent=1).encode(), sync=False)


def read_json_or(path: Path, default: Any) -> Any:
    """Return what a JSON file holds; the default where it is not there, or is a link.

    Raises:
        CoinageError: it is there and cannot be read.
    """
    return read_json(path) if path.is_file() and not path.is_symlink() else default
