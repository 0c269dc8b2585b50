"""Words: the list, making, changing and deleting one. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import threading
import unicodedata
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.errors import CoinageError, ConfigError
from coinage.runs.files import FORMATS
from coinage.ui.form import (
    Form,
    form_problems,
    read_form,
    run_of,
    shown_flags,
    token_problems,
    with_changes,
    write_form,
)
from coinage.ui.image_list import pictures_of, read_list
from coinage.ui.job import read_job
from coinage.ui.library import Library
from coinage.ui.previews import list_previews
from coinage.ui.reopened import reopened
from coinage.ui.site import Site
from coinage.ui.texts import LANGUAGES
from coinage.ui.trash import to_trash
from coinage.ui.web import RefusedError, in_thread, read_as, read_json
from coinage.ui.workspace import (
    LONGEST_WORD_ID,
    WordFolder,
    Workspace,
    read_json_or,
    write_json,
)

SEEN = ("", "/word.json", "/images.json", "/job.json", "/output", "/output/sample")
CARDS_FORMAT = 1  # of the file that keeps cards; another one is not read
CARD_KEYS = {"id", "token", "state", "preview", "files", "changed", "source"}
NOT_IDLE = ("queued", "starting", "running", "stopping")
DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d")  # no folder's name on Windows
DAMAGED = "its form cannot be read; open the word, and the page says what to do"


def new_word(workspace: Workspace, form: Form) -> WordFolder:
    """Make the folder of a new word.

    Raises:
        CoinageError: it cannot be made.
    """
    name = id_for(form.token)
    for number in range(1, 10_000):
        folder = workspace.words / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise CoinageError(f"cannot make the folder: {error.strerror}", str(folder)) from error
        word = WordFolder(folder)
        write_form(word, form)
        return word
    raise CoinageError("there are too many words of that name", hint="choose another one")


def id_for(token: str) -> str:
    """Return an id that reminds of a word: small letters and digits."""
    plain = unicodedata.normalize("NFKD", token).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[: LONGEST_WORD_ID - 6].strip("-")
    return f"{name}-word" if DEVICES.fullmatch(name) else name or "word"


def copy_images(source: WordFolder, target: WordFolder) -> None:
    """Give a word the images, captions and masks of another one.

    Raises:
        CoinageError: one cannot be copied.
    """
    try:
        for name in ("images", "masks", "thumbs"):
            place = source.owned(source.path / name)
            if place.is_dir():  # links stay links, which are not followed
                shutil.copytree(place, target.path / name, dirs_exist_ok=True, symlinks=True)
        if source.image_list.is_file():
            shutil.copyfile(source.image_list, target.image_list)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or "a file cannot be read"
        raise CoinageError(f"cannot copy the images: {reason}", str(target.path)) from error


# What a browser is told


Card = dict[str, Any]
Known = dict[str, tuple[list[int], Card]]  # the stamp of each word that is idle, and its card


class Cards:
    """What the list shows of each word; a word is looked at again when one of its files has changed.

    It is kept on the disk, so that a new server need not look at each word either.
    """

    def __init__(self, site: Site) -> None:
        self._workspace = site.workspace
        self._lock = threading.Lock()
        self._known: Known | None = None

    def all(self) -> list[Card]:
        """Return all words of the workspace that the page has made."""
        with self._lock:
            before = self._read() if self._known is None else self._known
            known: Known = {}
            cards = []
            for word_id in self._workspace.word_ids():
                folder = WordFolder(self._workspace.words / word_id)
                stamp = _stamp(folder)
                seen = before.get(word_id)
                card = seen[1] if seen and seen[0] == stamp else card_of(folder, self._workspace)
                cards.append(card)
                if card["state"] not in NOT_IDLE:
                    known[word_id] = stamp, card
            if known != before:
                with suppress(CoinageError):  # it is only there to be fast
                    write_json(self._file, {"format": CARDS_FORMAT, "words": known})
            self._known = known
            return cards

    @property
    def _file(self) -> Path:
        return self._workspace.own / "cards.json"

    def _read(self) -> Known:
        """Return what the last server knew; {} if it cannot be used."""
        try:
            kept = read_json_or(self._file, {})
            if kept["format"] != CARDS_FORMAT:
                return {}
            return {
                word_id: (stamp, card)
                for word_id, (stamp, card) in kept["words"].items()
                if isinstance(card, dict) and card.keys() >= CARD_KEYS
            }
        except (CoinageError, KeyError, TypeError, ValueError, AttributeError):
            return {}


def _stamp(folder: WordFolder) -> list[int]:
    """Return when the files that a card is made of have changed, nanoseconds.

    Files that are replaced change their folder too.
    """
    base = os.fspath(folder.path)
    return [_changed(base + name) for name in SEEN]


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - called thousands of times
    except OSError:
        return 0


def card_of(folder: WordFolder, workspace: Workspace) -> Card:
    """Return what the list shows of a word."""
    job = read_job(folder)
    progress = _progress(folder)
    try:
        token, reason = read_form(folder).token, job.reason
    except CoinageError:
        token, reason = folder.id, DAMAGED
    return {
        "id": folder.id,
        "token": token,
        "state": job.state,
        "reason": reason,
        "step": progress.get("step"),
        "total": progress.get("total"),
        "seconds_left": progress.get("seconds_left"),
        "preview": _newest_picture(folder, job.since),
        "files": files_of(folder, workspace),
        "changed": max(_stamp(folder)) / 1e9,
        "source": "word",
    }


def _newest_picture(folder: WordFolder, since: float | None) -> str | None:
    """Return the address of the newest preview with the word, or of the first image; None without."""
    with_word = [each for each in list_previews(folder, since) if each["of"] is None]
    if with_word:
        return f"/api/words/{folder.id}/previews/{with_word[-1]['file']}"
    listed = read_list(folder)
    first = min(listed, key=lambda image: listed[image].get("order", 0), default=None)
    return f"/api/words/{folder.id}/images/{first}/thumb" if first else None


def _progress(folder: WordFolder) -> dict[str, Any]:
    try:
        progress = read_json_or(folder.progress, {})
    except CoinageError:
        return {}
    return progress if isinstance(progress, dict) else {}


def files_of(folder: WordFolder, workspace: Workspace) -> list[dict[str, Any]]:
    """Return the embeddings that a word's runs have written, the newest first."""
    try:
        found = [
            path
            for path in folder.output.iterdir()
            if path.suffix in FORMATS and not path.is_symlink()
        ]
        stats = [(path.stat(), path) for path in found]
    except OSError:
        return []
    stats.sort(key=lambda pair: (-pair[0].st_mtime_ns, pair[1].name))
    return [
        {"id": workspace.file_id(path), "name": path.name, "bytes": stat.st_size}
        for stat, path in stats
    ]


def shown_word(site: Site, folder: WordFolder) -> dict[str, Any]:
    """Return everything about a word.

    Raises:
        CoinageError: its form cannot be read.
    """
    form, job, pictures = read_form(folder), read_job(folder), pictures_of(folder)
    run = run_of(folder, form, site.models, pictures)
    return {
        "id": folder.id,
        "form": asdict(form),
        "images": pictures.shown,
        "job": job.as_json(),
        "progress": _progress(folder),
        "command": run.command,
        "toml": run.toml,
        "problems": [asdict(problem) for problem in run.problems],
        "files": files_of(folder, site.workspace),
        "report": any(folder.output.glob("*-report.html")),
        "previews": list_previews(folder, job.since),
        "source": "word",
    }


# Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWord:
    """What the page sends for a new word: its name, or a text with settings, or a word to begin from."""

    token: str = ""
    toml: str = ""
    copy: str = ""


def made(site: Site, asked: NewWord) -> dict[str, Any]:
    """Make a word, and return its id and what of the text was left out.

    Raises:
        CoinageError: the name, the text or the word to copy cannot be used.
    """
    if asked.toml:
        found = reopened(asked.toml, site.workspace, site.models)
        folder = new_word(site.workspace, found.form)
        if found.images_of:
            copy_images(site.workspace.word(found.images_of), folder)
        return {"id": folder.id, "notes": found.notes}
    source = site.workspace.word(asked.copy) if asked.copy else None
    form = read_form(source) if source else None
    token = asked.token.strip() or (form.token if form else "")
    problems = token_problems(token)
    if problems:
        raise ConfigError(problems)
    form = with_changes(form or Form(token=token), {"token": token})
    folder = new_word(site.workspace, form)
    if source:
        copy_images(source, folder)
    return {"id": folder.id, "notes": []}


def change(site: Site, folder: WordFolder, changes: Any) -> None:
    """Change parts of a word's form.

    Raises:
        CoinageError: a part is unknown, or its value cannot be used.
    """
    with site.lock:
        before = read_form(folder)
        try:
            form = with_changes(before, changes)
        except (ValueError, TypeError) as error:
            hint = "reload the page"
            raise CoinageError(f"the request does not fit: {error}", hint=hint) from None
        problems = form_problems(form)
        if problems:
            raise ConfigError(problems)
        if form.model and form.model != before.model:
            site.models.choose(form.model)
        write_form(folder, form)


def delete(site: Site, folder: WordFolder) -> None:
    """Move a word to the trash.

    Raises:
        RefusedError: it is being trained, or waits for it.
        CoinageError: it cannot be moved.
    """
    with site.lock:
        if read_job(folder).state in NOT_IDLE:
            raise RefusedError(409, "the word is being trained", hint="stop the run first")
        to_trash(site.workspace, [folder.path])


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of words."""
    cards, library = Cards(site), Library(site.workspace)

    def folder_of(request: Request) -> WordFolder:
        return site.workspace.word(request.path_params["id"])

    def listed(_: Request) -> Response:
        all_cards = [*cards.all(), *library.cards()]
        return JSONResponse(sorted(all_cards, key=lambda card: -card["changed"]))

    def flags(request: Request) -> Response:
        return JSONResponse(shown_flags(request.query_params.get("lang", LANGUAGES[0])))

    async def added(request: Request) -> Response:
        asked = await read_as(request, NewWord)
        return JSONResponse(await in_thread(made, site, asked), 201)

    def shown(request: Request) -> Response:
        return JSONResponse(shown_word(site, folder_of(request)))

    async def changed(request: Request) -> Response:
        folder, changes = folder_of(request), await read_json(request)
        if not isinstance(changes, dict):
            raise CoinageError("the request does not fit", hint="reload the page")
        await in_thread(change, site, folder, changes)
        return JSONResponse(await in_thread(shown_word, site, folder))

    def deleted(request: Request) -> Response:
        delete(site, folder_of(request))
        return JSONResponse({})

    one = "/api/words/{id}"
    return [
        Route("/api/flags", flags, methods=["GET"]),
        Route("/api/words", listed, methods=["GET"]),
        Route("/api/words", added, methods=["POST"]),
        Route(one, shown, methods=["GET"]),
        Route(one, changed, methods=["PATCH"]),
        Route(one, deleted, methods=["DELETE"]),
    ]
