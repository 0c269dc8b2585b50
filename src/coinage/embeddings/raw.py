"""A file as other tools meet it: its contents, and what their gates look at."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from coinage.embeddings.pickles import ParameterDict
from coinage.embeddings.reading import contents
from coinage.errors import EmbeddingFileError, reason_of

LEGACY_PICKLES = 5  # magic number, protocol, system, content, storage keys
PARAMETERS = "torch.nn.modules.container ParameterDict"


@dataclass(frozen=True, slots=True)
class Raw:
    """A file as it lies on disk.

    Attributes:
        path: the file.
        container: "safetensors", "zip", "pickle" (torch's older format), "image", or "" for anything else.
        content: what it holds; None where it could not be read. A ParameterDict is a plain dict.
        weights_only: whether torch's safe unpickling reads it, which it does not with a ParameterDict.
        metadata: of a safetensors header.
        records: names in the zip.
        globals: what the pickle refers to, as "module name".
        problem: why there is no content.
    """

    path: Path
    container: str = ""
    content: Any = None
    weights_only: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    globals: tuple[str, ...] = ()
    problem: str = ""


def read_raw(path: Path) -> Raw:
    """Read a file of any of the containers; never raises for what is in it."""
    try:
        content, metadata, kind = contents(path)
        if kind != "pickle":
            return Raw(path, kind, content, metadata=metadata)
        container, records, names = _gated(path)
        return Raw(
            path,
            container,
            _plain(content),
            PARAMETERS not in names,
            records=records,
            globals=names,
        )
    except EmbeddingFileError as error:
        return Raw(path, problem=f"it cannot be read: {error.problems[0].what}")
    except Exception as error:  # noqa: BLE001 - a broken or hostile file can raise anything
        return Raw(path, problem=f"it is damaged: {reason_of(error)}")


def _gated(path: Path) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Container, records and globals of a pickle."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return (
                "pickle",
                (),
                tuple(name for _ in range(LEGACY_PICKLES) for name in _globals(stream)),
            )
    with zipfile.ZipFile(path) as archive:
        records = tuple(archive.namelist())
        found: list[str] = []
        for name in records:
            if name.endswith("/data.pkl"):
                with archive.open(name) as stream:
                    found += _globals(stream)
    return "zip", records, tuple(found)


def _globals(stream: IO[bytes]) -> list[str]:
    """Names that one pickle refers to. Protocol 4 takes them from the stack, which is not followed: "?" stands for them."""
    found = []
    for op, argument, _ in pickletools.genops(stream):
        if op.name in ("GLOBAL", "INST"):
            found.append(str(argument))
        elif op.name == "STACK_GLOBAL" or op.name.startswith("EXT"):
            found.append("?")
    return found


def _plain(content: Any) -> Any:
    """The same with every ParameterDict as a dict of its parameters."""
    if isinstance(content, ParameterDict):
        parameters = content.state.get("_parameters")
        return dict(parameters) if isinstance(parameters, Mapping) else {}
    return (
        {key: _plain(value) for key, value in content.items()} if type(content) is dict else content
    )
