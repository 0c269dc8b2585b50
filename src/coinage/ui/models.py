"""The models that may be chosen: from the workspace, from folders the user allows, from the hub's cache.

A model is named by an id, never by its path. Nothing is downloaded or loaded, and no pickle is run.
Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage import demo
from coinage.errors import CoinageError
from coinage.models.detect import Kind, kind_of_file, kind_of_folder
from coinage.models.facts import DEFAULT, FACTS, FamilyFacts
from coinage.models.hub_files import HUB_ID
from coinage.ui.alone import Alone
from coinage.ui.web import in_thread, read_as
from coinage.ui.workspace import NotFoundError, Workspace, read_json_or, write_json

SUFFIXES = (".safetensors", ".ckpt")
LEAST_BYTES = 2**20  # of a model's file; embeddings and settings are smaller
DEMO_MODELS = Path(demo.__file__).parent / "models"
DEPTH = 3  # of folders that are looked into
MOST_ENTRIES = 5000  # that are looked at in one folder of models
# What a diffusers folder has, of its family's denoiser
PARTS = tuple(dict.fromkeys(Path(facts.denoiser) / "config.json" for facts in FACTS.values()))
MOVED = "the model is not where it was: put it back, or choose another one"
NOT_CACHED = "it is not on this computer yet; training will download it"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that may be chosen.

    Attributes:
        id: 16 hex digits, or `demo-` and a family.
        name: that people know it by.
        family: as in `FACTS`; None where it is not known before it is loaded.
        kind: what it is.
        source: as `--pretrained_model_name_or_path` takes it; never sent to a browser.
        problem: why it cannot be used, or what to know; "" if there is nothing.
    """

    id: str
    name: str
    family: str | None
    kind: Literal["file", "folder", "hub", "demo"]
    source: str
    problem: str = ""

    @property
    def facts(self) -> FamilyFacts | None:
        """Facts about its family; None where that is not known."""
        return FACTS.get(self.family or "")

    @property
    def shown(self) -> dict[str, Any]:
        """What a browser is told: also what its family is called, and what it can be asked to draw.

        Of an unknown family everything can be asked for.
        """
        fields = asdict(self)
        del fields["source"]
        facts = self.facts or DEFAULT
        return {
            **fields,
            "family_name": self.facts.display_name if self.facts else "",
            "size_unit": facts.size_unit,
            "is_flow": facts.is_flow,
            "cross_attends": facts.cross_attends,
        }


class Models:
    """The models of a workspace.

    Args of the constructor:
        workspace: with a folder of models, and a list of folders that the user has allowed.
        hub_cache: folder of the hub's cache; None: the usual one.
    """

    def __init__(self, workspace: Workspace, hub_cache: Path | None = None) -> None:
        self._workspace = workspace
        self._hub_cache = hub_cache
        self._lock = Alone(workspace.own / ".settings.lock")

    def all(self) -> list[Model]:
        """Return all models: the user's, those of the hub, those that have gone, the built-in ones."""
        settings = self._settings()
        found: dict[str, Model] = {}
        for folder in self.folders:
            for path in _candidates(folder):
                model = _model_at(path, folder)
                found.setdefault(model.id, model)
        for model in (*self._hub_models(settings["hub_models"]), *demo_models()):
            found.setdefault(model.id, model)
        for model_id, known in settings["chosen"].items():
            if model_id not in found:
                found[model_id] = Model(model_id, known, None, "file", "", MOVED)
        return list(found.values())

    @property
    def folders(self) -> list[Path]:
        """Return the folders whose models may be chosen: the workspace's, and those that were allowed."""
        return [self._workspace.models, *map(Path, self._settings()["model_folders"])]

    @property
    def hub_cache(self) -> Path:
        """Return the folder of the hub's cache."""
        return self._hub_cache or _usual_hub_cache()

    def find(self, model_id: str) -> Model:
        """Return a model by its id.

        Raises:
            NotFoundError: there is none.
        """
        demo = next((model for model in demo_models() if model.id == model_id), None)
        model = demo or next((model for model in self.all() if model.id == model_id), None)
        if model is None:
            raise NotFoundError("model")
        return model

    def by_source(self, source: str) -> Model | None:
        """Return the model that a command names, if it may be chosen."""
        model_ids = (id_of(source), id_of(_absolute(source)))
        return next((m for m in self.all() if m.id in model_ids or m.source == source), None)

    def allow(self, folders: list[Path]) -> None:
        """Remember folders whose models may be chosen.

        Raises:
            CoinageError: one is no folder.
        """
        for folder in folders:
            if not folder.is_dir():
                raise CoinageError("--models: this is no folder", str(folder))
        new = [str(folder.resolve()) for folder in folders]
        self._remember("model_folders", new)

    def add_hub(self, hub_id: str) -> Model:
        """Remember a model of the hub; nothing is downloaded.

        Raises:
            CoinageError: it is not called as models there are.
        """
        if len(hub_id) > 200 or not HUB_ID.fullmatch(hub_id) or ".." in hub_id:
            hint = "write owner/name, as the hub shows it"
            raise CoinageError("this is not the name of a model on the hub", hint=hint)
        self._remember("hub_models", [hub_id])
        return self.find(id_of(hub_id))

    def choose(self, model_id: str) -> Model:
        """Return a model, and remember its name for the day when it has gone; raises as `find`."""
        model = self.find(model_id)
        if model.kind != "demo" and model.source:
            with self._lock:
                settings = self._settings()
                settings["chosen"][model_id] = model.name
                write_json(self._file, settings)
        return model

    @property
    def _file(self) -> Path:
        return self._workspace.own / "settings.json"

    def _settings(self) -> dict[str, Any]:
        """Return what is remembered; what is damaged is forgotten, since the page works without it."""
        try:
            known = read_json_or(self._file, {})
        except CoinageError:
            known = {}
        known = known if isinstance(known, dict) else {}
        lists = {name: _texts(known.get(name)) for name in ("model_folders", "hub_models")}
        chosen = known.get("chosen")
        names = chosen.items() if isinstance(chosen, dict) else ()
        return {**known, **lists, "chosen": {k: v for k, v in names if isinstance(v, str)}}

    def _remember(self, name: str, new: list[str]) -> None:
        with self._lock:
            settings = self._settings()
            settings[name] = list(dict.fromkeys([*settings[name], *new]))
            write_json(self._file, settings)

    def _hub_models(self, remembered: list[str]) -> Iterator[Model]:
        """Yield the models of the hub's cache, and those that were named and are not in it."""
        cached = _in_hub_cache(self.hub_cache)
        for hub_id, snapshot in cached.items():
            kind, problem = _kind_of(snapshot)
            yield Model(id_of(hub_id), hub_id, kind, "hub", hub_id, problem)
        for hub_id in remembered:
            if hub_id not in cached:
                yield Model(id_of(hub_id), hub_id, None, "hub", hub_id, NOT_CACHED)


def _texts(values: Any) -> list[str]:
    return [v for v in values if isinstance(v, str)] if isinstance(values, list) else []


@lru_cache(maxsize=1)
def demo_models() -> tuple[Model, ...]:
    """Return the built-in models."""
    models = []
    for family, facts in FACTS.items():
        source = DEMO_MODELS / family
        if source.is_dir():
            name = f"Demo ({facts.display_name})"
            models.append(Model(f"demo-{family}", name, family, "demo", str(source)))
    return tuple(models)


def id_of(source: str) -> str:
    """Return the id of a file, a folder or a model of the hub."""
    return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()[:16]


def _absolute(source: str) -> str:
    return str(Path(source).expanduser().absolute())


def _candidates(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the files and folders that may be models, in the order of their names."""
    try:
        entries = sorted(folder.iterdir())[:MOST_ENTRIES]
        if _settings_in(folder):
            yield folder
            return
        if (folder / "config.json").is_file():  # a model of another kind, such as a captioner
            return
    except OSError:
        return
    for path in entries:
        try:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if depth > 1:
                    yield from _candidates(path, depth - 1)
            elif path.suffix.lower() in SUFFIXES and path.stat().st_size >= LEAST_BYTES:
                yield path
        except OSError:  # a link that leads nowhere, a drive that has gone
            continue


def _settings_in(folder: Path) -> Path | None:
    """Return the settings of a diffusers folder's denoiser; None of anything else."""
    return next((folder / part for part in PARTS if (folder / part).is_file()), None)


def _model_at(path: Path, folder: Path) -> Model:
    family, problem = _kind_of(path)
    source = str(path.absolute())
    name = path.name if path == folder else path.relative_to(folder).as_posix()
    return Model(
        id_of(source), name, family, "folder" if path.is_dir() else "file", source, problem
    )


def _kind_of(path: Path) -> tuple[str | None, str]:
    """Return a model's family, and why it cannot be used."""
    try:
        mark = (_settings_in(path) or path).stat()
        kind = _looked_at(path, mark.st_mtime_ns, mark.st_size)
    except CoinageError as error:
        return None, error.problems[0].what
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    if kind is None:
        return None, ""
    return kind.family, f"this is {kind.why_not}" if kind.why_not else ""


@lru_cache(maxsize=4096)
def _looked_at(path: Path, _changed: int, _size: int) -> Kind | None:
    """Return what a model is; looked at anew when it has changed."""
    return kind_of_folder(path) if path.is_dir() else kind_of_file(path)


def _usual_hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _in_hub_cache(cache: Path) -> dict[str, Path]:
    """Return the diffusers models in the hub's cache: id, and the newest snapshot's folder."""
    found: dict[str, Path] = {}
    every = chain.from_iterable(cache.glob(f"models--*/snapshots/*/{part}") for part in PARTS)
    for settings in sorted(every):
        snapshot = settings.parents[1]
        hub_id = snapshot.parents[1].name.removeprefix("models--").replace("--", "/", 1)
        newer = hub_id not in found or _age(snapshot) >= _age(found[hub_id])
        if newer and HUB_ID.fullmatch(hub_id):
            found[hub_id] = snapshot
    return found


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True, slots=True)
class HubModel:
    """What the page sends about a model on the hub."""

    hub: str


def routes_of(models: Models) -> list[BaseRoute]:
    """Return the addresses of models."""

    def listed(_: Request) -> Response:
        return JSONResponse([model.shown for model in models.all()])

    async def added(request: Request) -> Response:
        given = await read_as(request, HubModel)
        model = await in_thread(models.add_hub, given.hub.strip())
        return JSONResponse(model.shown, 201)

    return [
        Route("/api/models", listed, methods=["GET"]),
        Route("/api/models", added, methods=["POST"]),
    ]
