"""The API of Try: pictures with learned words, kept on the disk as they come. Imports no torch."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.checks.flow import USUAL_SAMPLER
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.models.facts import DEFAULT, FamilyFacts
from coinage.seeding import draw_seed
from coinage.text.samplers import SAMPLER_NAMES
from coinage.ui.events import Page, event, sse, until_closed
from coinage.ui.library import Library
from coinage.ui.previews import KEPT
from coinage.ui.site import Site
from coinage.ui.tasks import DRAW
from coinage.ui.web import in_thread, read_as
from coinage.ui.workspace import NotFoundError, read_json_or, write_json

log = logging.getLogger("coinage")
TRY_ID = re.compile(r"[0-9a-f]{12}")
NUMBER = re.compile(r"[0-9]{1,9}(\.word[0-9]{0,3})?")  # of a picture, or of where a word acts in it
MOST_LISTED = 50
LONGEST_DRAWING = 3600.0  # seconds
MOST_SEED = 2**53  # that a browser can count
RANGES = (
    ("seeds", 1, 16),
    ("steps", 1, 1000),
    ("guidance", -100, 100),
    ("first_seed", 0, MOST_SEED),
)
LEAST_SIDE, MOST_SIDE = 64, 2048  # pixels
LEFT = "the server ended before the drawing did; draw again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to draw; what is None is chosen.

    Attributes:
        model: its id.
        words: ids of embedding files.
        seeds: how many seeds, each with one picture, or two of which one is without the words.
        show_words: see where in the pictures the words act.
        first_seed: of the first picture; None: a random one.
        guidance: its scale; None: the model's own.
        width, height: pixels; None: the model's own.
    """

    model: str
    prompt: str
    negative: str = ""
    words: list[str] = field(default_factory=list)
    with_and_without: bool = True
    show_words: bool = False
    seeds: int | None = None
    first_seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None


def complete(ask: Ask, facts: FamilyFacts = DEFAULT) -> dict[str, Any]:
    """Return what to draw, with nothing open any more but the guidance, which is the model's.

    Args:
        ask: what was asked for.
        facts: of the model's family.

    Raises:
        ConfigError: all that cannot be drawn.
    """
    usual = {"seeds": 4, "steps": 30, "width": 0, "height": 0, "sampler": USUAL_SAMPLER}
    values = asdict(ask)
    for name, value in usual.items():
        values[name] = values[name] or value if name == "sampler" else _or(values[name], value)
    if values["first_seed"] is None:
        values["first_seed"] = draw_seed() % 2**32
    findings = Findings()
    for name, low, high in RANGES:
        if values[name] is not None and not low <= values[name] <= high:
            findings.error(f"{name} {values[name]} is out of range", hint=f"use {low} to {high}")
    for name in ("width", "height"):
        side, unit = values[name], facts.size_unit
        if side and not LEAST_SIDE <= side <= MOST_SIDE:
            hint = f"use {LEAST_SIDE} to {MOST_SIDE} pixels"
            findings.error(f"{name} {side} is out of range", hint=hint)
        elif side % unit:
            below = side // unit * unit
            hint = f"use {below} or {below + unit}"
            findings.error(f"{name} {side} is no multiple of {unit}", hint=hint)
    if values["sampler"] not in SAMPLER_NAMES:
        findings.error("the sampler is not known", hint=f"use one of {', '.join(SAMPLER_NAMES)}")
    if not ask.prompt.strip():
        findings.error("there is no prompt", hint="write what to draw")
    findings.raise_errors()
    return values


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value


@dataclass(slots=True)
class Drawing:
    """A drawing that is being made, and the pages that follow it."""

    shown: dict[str, Any]
    task: asyncio.Task[None] | None = None
    pages: set[Page] = field(default_factory=set)

    def tell(self) -> None:
        """Tell all pages how far it is; the last time, the streams end."""
        for page in list(self.pages):
            with suppress(asyncio.QueueFull):
                page.put_nowait(event("drawing", self.shown))
                if self.shown["state"] != "running":
                    page.put_nowait(None)


class Drawings:
    """The drawings of a workspace: those on the disk, and those that are being made."""

    def __init__(self, site: Site, library: Library) -> None:
        self._site, self._library = site, library
        self._going: dict[str, Drawing] = {}

    def begin(self, ask: Ask) -> str:
        """Begin to draw, and return the drawing's id.

        Raises:
            CoinageError: what is asked for cannot be drawn, or the disk is full.
        """
        model = self._site.models.find(ask.model)
        values = complete(ask, model.facts or DEFAULT)
        if not model.source:
            raise ConfigError([Problem(f"{model.name}: {model.problem}")])
        paths = [str(self._library.find(file_id).path) for file_id in ask.words]
        drawing_id = secrets.token_hex(6)
        folder = self._site.workspace.pictures / drawing_id
        shown = {
            "id": drawing_id, "state": "running", "began": time.time(), "request": values,
            "pictures": [], "notes": [], "phase": "loading", "done": 0, "total": 0, "share": 0.0,
            "seconds_left": None, "problems": [],
        }  # fmt: skip
        write_json(folder / "try.json", shown)
        drawing = self._going[drawing_id] = Drawing(shown)
        payload = {**values, "model": model.source, "words": paths, "folder": str(folder)}
        drawing.task = asyncio.create_task(self._draw(drawing, folder, payload))
        return drawing_id

    async def _draw(self, drawing: Drawing, folder: Path, payload: Mapping[str, Any]) -> None:
        def told(progress: Mapping[str, Any]) -> None:
            news = dict(progress)
            picture = news.pop("picture", None)
            drawing.shown |= news
            if picture:
                drawing.shown["pictures"].append(picture)
                self._keep(drawing, folder)
            drawing.tell()

        state, problems = "stopped", []
        try:
            await self._site.tasks.run(DRAW, payload, LONGEST_DRAWING, told)
            state = "done"
        except CoinageError as error:
            state, problems = "failed", [asdict(problem) for problem in error.problems]
        finally:
            drawing.shown |= {"state": state, "problems": problems, "seconds_left": None}
            self._keep(drawing, folder)
            drawing.tell()
            self._going.pop(drawing.shown["id"], None)

    def _keep(self, drawing: Drawing, folder: Path) -> None:
        try:
            write_json(folder / "try.json", drawing.shown)
        except CoinageError as error:  # the pictures are there all the same
            log.warning("%s", error)

    def stop(self, drawing_id: str) -> None:
        """Stop a drawing; the pictures that are there stay."""
        drawing = self._going.get(drawing_id)
        if drawing and drawing.task:
            drawing.task.cancel()

    def folder(self, drawing_id: str) -> Path:
        """Return the folder of a drawing.

        Raises:
            NotFoundError: there is none.
        """
        folder = self._site.workspace.pictures / drawing_id
        is_one = TRY_ID.fullmatch(drawing_id) and folder.is_dir()
        if not is_one or not self._site.workspace.holds(folder):
            raise NotFoundError("drawing")
        return folder

    def shown(self, drawing_id: str) -> dict[str, Any]:
        """Return what is known of a drawing.

        Raises:
            NotFoundError: there is none.
            CoinageError: its file cannot be read.
        """
        if drawing := self._going.get(drawing_id):
            return drawing.shown
        shown: dict[str, Any] = read_json_or(self.folder(drawing_id) / "try.json", {})
        if shown.get("state") == "running":
            problem = {"what": LEFT, "where": "", "hint": ""}
            return {**shown, "state": "failed", "problems": [problem], "seconds_left": None}
        return shown

    def newest(self) -> list[dict[str, Any]]:
        """Return the newest drawings, the last one first."""
        drawings = []
        for path in self._site.workspace.pictures.glob("*/try.json"):
            with suppress(CoinageError, NotFoundError):
                shown = self.shown(path.parent.name)
                if isinstance(shown.get("began"), float):
                    drawings.append(shown)
        drawings.sort(key=lambda shown: -shown["began"])
        return drawings[:MOST_LISTED]

    def picture(self, drawing_id: str, number: str) -> Path:
        """Return the file of a picture, or of where a word acts in it: `0`, `0.word`, `0.word2`.

        Raises:
            NotFoundError: there is none.
        """
        path = self.folder(drawing_id) / f"{number}.png"
        is_name = NUMBER.fullmatch(number)
        if not is_name or not path.is_file() or not self._site.workspace.holds(path):
            raise NotFoundError("picture")
        return path

    def keep(self, drawing_id: str, number: str, word_id: str) -> None:
        """Copy a picture to the page of a word.

        Raises:
            NotFoundError: there is no such picture, or no such word.
            CoinageError: the disk is full.
        """
        path, folder = self.picture(drawing_id, number), self._site.workspace.word(word_id)
        kept = folder.owned(folder.path / KEPT)
        try:
            kept.mkdir(exist_ok=True)
            shutil.copyfile(path, kept / f"{drawing_id}-{number}.png")
        except OSError as error:
            raise CoinageError(f"cannot keep the picture: {error.strerror}") from error

    async def stream(self, drawing_id: str) -> AsyncIterator[bytes]:
        """Yield how far a drawing is, until it is done.

        Raises:
            NotFoundError: there is none.
        """
        drawing = self._going.get(drawing_id)
        if drawing is None:
            yield event("drawing", self.shown(drawing_id))
            return
        page: Page = asyncio.Queue()
        page.put_nowait(event("drawing", drawing.shown))
        drawing.pages.add(page)
        try:
            async for said in until_closed(page, self._site.tasks.closed):
                yield said
        finally:
            drawing.pages.discard(page)


@dataclass(frozen=True, slots=True)
class Keep:
    """The word to whose page a picture is sent."""

    word: str


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of Try."""
    drawings = Drawings(site, Library(site.workspace))

    async def begin(request: Request) -> Response:
        return JSONResponse({"id": drawings.begin(await read_as(request, Ask))}, 201)

    async def listed(_: Request) -> Response:
        return JSONResponse(await in_thread(drawings.newest))

    async def events(request: Request) -> Response:
        drawings.folder(request.path_params["id"])
        return sse(drawings.stream(request.path_params["id"]))

    async def stop(request: Request) -> Response:
        drawings.stop(request.path_params["id"])
        return JSONResponse({})

    def picture(request: Request) -> Response:
        number = request.path_params["number"]
        path = drawings.picture(request.path_params["id"], number.removesuffix(".png"))
        return FileResponse(path, media_type="image/png")

    async def keep(request: Request) -> Response:
        asked, params = await read_as(request, Keep), request.path_params
        await in_thread(drawings.keep, params["id"], params["number"], asked.word)
        return JSONResponse({})

    rows: list[tuple[str, Callable[[Request], Any], str]] = [
        ("/api/try", begin, "POST"),
        ("/api/try", listed, "GET"),
        ("/api/try/{id}/events", events, "GET"),
        ("/api/try/{id}/stop", stop, "POST"),
        ("/api/try/{id}/{number}/keep", keep, "POST"),
        ("/api/try/{id}/{number}", picture, "GET"),
    ]
    return [Route(path, answer, methods=[method]) for path, answer, method in rows]
