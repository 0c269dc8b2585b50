"""Captions by a model that describes images, for those that have none. Imports no torch.

Such a model is the user's own: it lies in one of the folders of models or in the hub's cache. None is
downloaded, and a model in pickles is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.errors import CoinageError
from coinage.system.text_files import read_json
from coinage.ui.form import read_form
from coinage.ui.image_list import caption_of, image_file, pictures_of, write_caption
from coinage.ui.models import id_of
from coinage.ui.site import Site
from coinage.ui.tasks import while_asked
from coinage.ui.web import in_thread, read_as
from coinage.ui.workspace import NotFoundError, WordFolder

# As their settings name them
KINDS = frozenset({"blip", "git", "vision-encoder-decoder"})
MOST_SETTINGS = 2**20  # bytes
SECONDS_EACH = 120.0  # that one image may take; a processor needs a few


@dataclass(frozen=True, slots=True)
class Captioner:
    """A model that describes images.

    Attributes:
        id: 16 hex digits.
        name: that people know it by.
        folder: where it lies; never sent to a browser.
    """

    id: str
    name: str
    folder: Path


def captioners(site: Site) -> list[Captioner]:
    """Return the models of the user's folders and of the hub's cache that describe images."""
    found: dict[str, Captioner] = {}
    for name, folder in _folders(site):
        if _describes(folder):
            model_id = id_of(str(folder))
            found.setdefault(model_id, Captioner(model_id, name, folder))
    return sorted(found.values(), key=lambda captioner: captioner.name)


def _folders(site: Site) -> Iterator[tuple[str, Path]]:
    """Yield names and folders that may be models."""
    for place in site.models.folders:
        for settings in sorted([*place.glob("*/config.json"), *place.glob("*/*/config.json")]):
            yield settings.parent.relative_to(place).as_posix(), settings.parent
    for settings in sorted(site.models.hub_cache.glob("models--*/snapshots/*/config.json")):
        name = settings.parents[2].name.removeprefix("models--").replace("--", "/", 1)
        yield name, settings.parent


def _describes(folder: Path) -> bool:
    """Return whether a folder holds a model that describes images, in a file that runs nothing."""
    try:
        settings = read_json(folder / "config.json", most=MOST_SETTINGS)
    except CoinageError:
        return False
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    return kind in KINDS and any(folder.glob("model*.safetensors"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the page asks for.

    Attributes:
        captioner: id of the model.
        images: ids of images; none: all.
        overwrite: also those that have a caption.
    """

    captioner: str
    images: list[str] | None = None
    overwrite: bool = False


def payload_of(site: Site, folder: WordFolder, wish: Wish) -> dict[str, Any]:
    """Return the task of describing images.

    Raises:
        NotFoundError: there is no such model, or image.
    """
    model = next((each for each in captioners(site) if each.id == wish.captioner), None)
    if model is None:
        raise NotFoundError("captioner")
    pictures = pictures_of(folder)
    images = pictures.ids if wish.images is None else wish.images
    files = {image: str(image_file(folder, image)) for image in images}
    if not wish.overwrite:
        files = {image: path for image, path in files.items() if image not in pictures.captions}
    return {"model": str(model.folder), "images": files}


def write_described(
    folder: WordFolder, token: str, texts: dict[str, str], *, overwrite: bool
) -> int:
    """Write captions of the word and what a model has seen; return how many.

    Unless they are to be overwritten, captions that were typed meanwhile stay.

    Raises:
        CoinageError: one cannot be written.
    """
    count = 0
    for image, text in texts.items():
        if overwrite or not caption_of(folder, image):
            write_caption(folder, image, f"{token}, {text}" if text else token)
            count += 1
    return count


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of captioners."""

    def listed(_: Request) -> Response:
        return JSONResponse([{"id": each.id, "name": each.name} for each in captioners(site)])

    async def described(request: Request) -> Response:
        folder = site.workspace.word(request.path_params["id"])
        wish = await read_as(request, Wish)
        payload = await in_thread(payload_of, site, folder, wish)
        form = await in_thread(read_form, folder)
        texts: dict[str, str] = {}
        if payload["images"]:
            seconds = SECONDS_EACH * (1 + len(payload["images"]))
            work = site.tasks.run("describe", payload, seconds)
            texts = (await while_asked(request, work))["texts"]
        write = partial(write_described, overwrite=wish.overwrite)
        count = await in_thread(write, folder, form.token, texts)
        pictures = await in_thread(pictures_of, folder)
        return JSONResponse({"images": pictures.shown, "changed": count})

    return [
        Route("/api/captioners", listed, methods=["GET"]),
        Route("/api/words/{id}/describe", described, methods=["POST"]),
    ]
