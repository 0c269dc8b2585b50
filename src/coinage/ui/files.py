"""The API of the file doctor: embeddings that were dropped into the page or lie there. Imports no torch."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.embeddings.format_names import FormatName, Precision
from coinage.errors import CoinageError
from coinage.report.page import read_report
from coinage.system.files import put_in_place
from coinage.system.typed_json import decode
from coinage.ui.images import received
from coinage.ui.jobs import REPORT_POLICY
from coinage.ui.library import EMBEDDINGS, File, Library, last_picture
from coinage.ui.site import Site
from coinage.ui.tasks import while_asked
from coinage.ui.trash import to_trash
from coinage.ui.web import RefusedError, in_thread, read_json
from coinage.ui.workspace import NotFoundError

T = TypeVar("T")
UNSAFE = re.compile(r"[^\w.+-]+")
# Names of devices on Windows, which no file there may have
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
LONGEST_NAME = 80
LONGEST, SHORTEST = 1e4, 1e-6  # length of a vector, and factor
SUFFIXES: Mapping[str | None, str] = {
    None: ".safetensors", "safetensors": ".safetensors", "pt": ".pt", "diffusers": ".safetensors",
    "onetrainer": ".safetensors",
}  # fmt: skip
DATA_URL = re.compile(r"data:(image/(?:png|jpeg|webp));base64,(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Inspect:
    """With which model to compare, and which word of several."""

    model: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Verify:
    """On which model to try a file, and under which word."""

    model: str
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Convert:
    """What to write: format, word, precision, and the file's name without its ending."""

    to: FormatName = "safetensors"
    token: str | None = None
    precision: Precision | None = None
    name: str = ""
    key: str | None = None
    second: str | None = None


@dataclass(frozen=True, slots=True)
class Rescale:
    """How long vectors become: so many times as long, of a length, or as a model's words."""

    factor: float | None = None
    length: float | None = None
    model: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Mix:
    """What to mix a word with, and the share of that, 0..1."""

    other: str
    share: float = 0.5
    slerp: bool = False
    name: str = ""


def safe_name(name: str) -> str:
    """Return a file name that every system takes, with an ending that embeddings have.

    Raises:
        CoinageError: its ending is that of something else.
    """
    plain = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, ending = plain.rpartition(".")
    suffix = f".{ending.lower()}" if dot else ""
    if suffix not in EMBEDDINGS:
        hint = f"embeddings are called {', '.join(EMBEDDINGS)}"
        raise CoinageError("this is not the name of an embedding", plain[:LONGEST_NAME], hint)
    return safe_stem(stem) + suffix


def safe_stem(stem: str) -> str:
    """Return a file name without its ending that every system takes."""
    clean = UNSAFE.sub("-", stem)[:LONGEST_NAME].strip(".-") or "word"
    return f"_{clean}" if DEVICES.fullmatch(clean) else clean


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of embedding files, and of runs that were found."""
    library = Library(site.workspace)
    doctor = Doctor(site, library)
    return [*_of_files(site, library, doctor), *_of_found(library)]


def _of_files(site: Site, library: Library, doctor: Doctor) -> list[BaseRoute]:
    async def listed(_: Request) -> Response:
        return JSONResponse(await in_thread(_listed, site, library))

    async def dropped(request: Request) -> Response:
        return JSONResponse(await doctor.take(request), 201)

    async def treated(request: Request) -> Response:
        file = await in_thread(library.find, request.path_params["file"])
        kind, asked = request.path_params["kind"], await read_json(request)
        return JSONResponse(await while_asked(request, doctor.treat(kind, file, asked)))

    def download(request: Request) -> Response:
        return attachment(library.find(request.path_params["file"]).path)

    def of_word(request: Request) -> Response:
        file = library.find(request.path_params["file"])
        if (file.source, file.place) != ("word", request.path_params["id"]):
            raise NotFoundError("file")
        return attachment(file.path)

    def deleted(request: Request) -> Response:
        file = library.find(request.path_params["file"])
        if file.source != "dropped":
            what = "only files that were dropped here can be deleted here"
            raise RefusedError(409, what, hint="delete it in its own folder")
        to_trash(site.workspace, [file.path.parent])
        return JSONResponse({})

    return [
        Route("/api/files", listed, methods=["GET"]),
        Route("/api/files", dropped, methods=["PUT"]),
        Route("/api/files/{file}", download, methods=["GET"]),
        Route("/api/files/{file}", deleted, methods=["DELETE"]),
        Route("/api/files/{file}/{kind}", treated, methods=["POST"]),
        Route("/api/words/{id}/files/{file}", of_word, methods=["GET"]),
    ]


def _of_found(library: Library) -> list[BaseRoute]:
    def report(request: Request) -> Response:
        run = library.find_run(request.path_params["id"])
        if run.report is None:
            raise NotFoundError("report")
        page = Path(run.report.path).read_bytes()
        return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})

    def preview(request: Request) -> Response:
        run = library.find_run(request.path_params["id"])
        url = last_picture(read_report(Path(run.report.path))) if run.report else ""
        match = DATA_URL.fullmatch(url)
        if match is None:
            raise NotFoundError("picture")
        try:
            picture = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            raise NotFoundError("picture") from None
        return Response(picture, media_type=match[1])

    return [
        Route("/api/found/{id}/report", report, methods=["GET"]),
        Route("/api/found/{id}/preview", preview, methods=["GET"]),
    ]


def _listed(site: Site, library: Library) -> list[dict[str, Any]]:
    files = [file.shown(site.workspace) for file in library.files()]
    return sorted(files, key=lambda file: -file["changed"])


def attachment(path: Path) -> Response:
    """Return a file to be saved, never to be shown."""
    return FileResponse(path, filename=path.name, media_type="application/octet-stream")


class Doctor:
    """Takes files in, and has the tasks done that were asked for."""

    def __init__(self, site: Site, library: Library) -> None:
        self._site, self._library = site, library

    async def take(self, request: Request) -> dict[str, Any]:
        """Keep a file that was dropped, if it is an embedding; return what it is.

        Raises:
            CoinageError: it is none, too large, or the disk is full; nothing is kept then.
        """
        name = safe_name(request.query_params.get("name", ""))
        folder = self._new_folder()
        folder.mkdir(parents=True)
        path = folder / name
        try:
            upload = await received(request, folder)
            put_in_place(upload, path)
            task = self._site.tasks.run("inspect", {"path": str(path)})
            found = await while_asked(request, task)
        except BaseException as error:
            path.unlink(missing_ok=True)
            folder.rmdir()
            if isinstance(error, CoinageError):
                raise _named(error, path, name) from error
            raise
        return {"file": File(path, "dropped", "").shown(self._site.workspace), "about": found}

    async def treat(self, kind: str, file: File, asked: Any) -> Any:
        """Have a task done with a file.

        Raises:
            NotFoundError: there is no such task.
            CoinageError: it does not fit the file.
        """
        payload: dict[str, Any] = {"path": str(file.path)}
        if kind == "inspect":
            values = _fit(Inspect, asked)
            payload |= {"key": values.key, "model": self._source(values.model)}
        elif kind == "verify":
            wanted = _fit(Verify, asked)
            payload |= {"model": self._source(wanted.model), "token": wanted.token}
        elif kind in ("convert", "rescale", "mix"):
            return await self._made(kind, file, asked, payload)
        else:
            raise NotFoundError("treatment")
        return await self._run(kind, payload, file)

    async def _made(self, kind: str, file: File, asked: Any, payload: dict[str, Any]) -> Any:
        """Have a new file made; it comes into a folder of its own."""
        suffix, name = SUFFIXES[None], ""
        if kind == "convert":
            convert = _fit(Convert, asked)
            suffix, name = SUFFIXES[convert.to], convert.name
            second = str(self._library.find(convert.second).path) if convert.second else None
            payload |= {
                "to": convert.to, "token": convert.token, "precision": convert.precision,
                "key": convert.key, "second": second,
            }  # fmt: skip
        elif kind == "rescale":
            rescale = _fit(Rescale, asked)
            name = rescale.name
            payload |= {
                "factor": rescale.factor,
                "length": rescale.length,
                "model": self._source(rescale.model),
            }
            _check_length(rescale)
        else:
            mix = _fit(Mix, _with_other(asked))
            other = self._library.find(mix.other)
            name = mix.name or f"{file.path.stem}-{other.path.stem}"
            parts = ((file, 1 - mix.share), (other, mix.share))
            payload["files"] = [{"path": str(f.path), "weight": weight} for f, weight in parts]
            payload["slerp"] = mix.slerp
        folder = self._new_folder()
        folder.mkdir(parents=True)
        payload["out"] = str(folder / (safe_stem(name or file.path.stem) + suffix))
        try:
            names = await self._run(kind, payload, file)
        except BaseException:
            _remove(folder)
            raise
        made = [File(folder / name, "dropped", "") for name in names]
        shown = [each.shown(self._site.workspace) for each in made]
        return {"file": shown[0], "files": shown}

    async def _run(self, kind: str, payload: Mapping[str, Any], file: File) -> Any:
        try:
            return await self._site.tasks.run(kind, payload)
        except CoinageError as error:
            raise _named(error, file.path, file.path.name) from error

    def _source(self, model_id: str | None) -> str | None:
        return self._site.models.find(model_id).source if model_id else None

    def _new_folder(self) -> Path:
        return self._site.workspace.files / secrets.token_hex(6)


def _fit(kind: type[T], asked: Any) -> T:
    """Return a request as a dataclass.

    Raises:
        CoinageError: it does not fit.
    """
    try:
        return decode(kind, asked, exact=True)
    except (ValueError, TypeError) as error:
        raise CoinageError(f"the request does not fit: {error}", hint="reload the page") from None


def _with_other(asked: Any) -> Any:
    """Return a request to mix; what its `with` says is called `other` here."""
    if not isinstance(asked, dict):
        return asked
    return {"other" if key == "with" else key: value for key, value in asked.items()}


def _check_length(asked: Rescale) -> None:
    """See that a word can be as long as is asked.

    Raises:
        CoinageError: it cannot, or nothing is asked.
    """
    given = [value for value in (asked.factor, asked.length) if value is not None]
    if len(given) + (asked.model is not None) != 1:
        raise CoinageError("give a factor, a length, or a model", hint="one of them")
    if given and not SHORTEST <= given[0] <= LONGEST:
        raise CoinageError(f"{given[0]:g} is out of range", hint="a number such as 0.4")


def _named(error: CoinageError, path: Path, name: str) -> CoinageError:
    """Return an error that has a file's name for its path, which is none of the browser's business."""
    problem = error.problems[0]
    texts = (problem.what, problem.where, problem.hint)
    return CoinageError(*(text.replace(str(path), name) for text in texts))


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
