"""A file as other tools meet it: its contents, and what their gates look at."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from coinage.embeddings.pickle_check import PARAMETER_DICT
from coinage.embeddings.pickles import ParameterDict
from coinage.embeddings.reading import read_contents
from coinage.errors import EmbeddingFileError, reason_of

LEGACY_PICKLES = 5  # magic number, protocol, system, content, storage keys


@dataclass(frozen=True, slots=True)
class RawFile:
    """A file as it is on disk.

    Attributes:
        path: the file.
        container: "safetensors", "zip", "pickle" (torch's older format), "image", or "" for anything else.
        content: what it holds; None if it could not be read. A ParameterDict is a plain dict.
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


def read_raw_file(path: Path) -> RawFile:
    """Read a file of any of the containers; raises nothing, whatever is in it."""
    try:
        contents = read_contents(path)
        if contents.kind != "pickle":
            return RawFile(path, contents.kind, contents.content, metadata=contents.metadata)
        container, records, names = _pickle_facts(path)
    except EmbeddingFileError as error:
        return RawFile(path, problem=f"it cannot be read: {error.problems[0].what}")
    except Exception as error:  # noqa: BLE001 - a broken or hostile file can raise anything
        return RawFile(path, problem=f"it is damaged: {reason_of(error)}")
    return RawFile(
        path,
        container,
        _plain(contents.content),
        weights_only=PARAMETER_DICT not in names,
        records=records,
        globals=names,
    )


def _pickle_facts(path: Path) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return container, names of records and referenced globals of a pickle."""
    names: list[str] = []
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            for _ in range(LEGACY_PICKLES):
                names += _globals(stream)
        return "pickle", (), tuple(names)
    with zipfile.ZipFile(path) as archive:
        records = tuple(archive.namelist())
        for record in records:
            if record.endswith("/data.pkl"):
                with archive.open(record) as stream:
                    names += _globals(stream)
    return "zip", records, tuple(names)


def _globals(stream: IO[bytes]) -> list[str]:
    """Return the names that one pickle refers to.

    Protocol 4 takes them from the stack, which is not followed: "?" stands for them.
    """
    names = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            names.append(str(argument))
        elif opcode.name == "STACK_GLOBAL" or opcode.name.startswith("EXT"):
            names.append("?")
    return names


def _plain(content: Any) -> Any:
    """Return the content with every ParameterDict as a dict of its parameters."""
    if isinstance(content, ParameterDict):
        parameters = content.state.get("_parameters")
        return dict(parameters) if isinstance(parameters, Mapping) else {}
    if type(content) is not dict:
        return content
    return {key: _plain(value) for key, value in content.items()}
