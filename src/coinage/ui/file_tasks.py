"""What the file doctor does with embeddings: tasks, which import torch.

Files are read by the readers of `embeddings` alone, which run nothing that is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from coinage.checks.model import model_problems
from coinage.config import ModelConfig
from coinage.embeddings.convert import (
    Ingredient,
    merged,
    rescaled,
    vocabulary_lengths,
)
from coinage.embeddings.inspection import inspect_file, read_model
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.saving import encode_word, write_files
from coinage.embeddings.verify import usage, verify_file
from coinage.embeddings.word import Word
from coinage.embeddings.writing import precision_of
from coinage.errors import ConfigError, Findings, Problem
from coinage.models.facts import DEFAULT
from coinage.models.hub_files import detect_family
from coinage.models.quiet import quiet_libraries
from coinage.text.placeholder import encoding_problems

Payload = Mapping[str, Any]
Tell = Callable[[Mapping[str, Any]], None]


def inspect(payload: Payload, _: Tell) -> dict[str, Any]:
    """Return all about a file, as `coinage inspect --json`.

    Args:
        payload: `path`; `model` or None, whose words the vectors are compared with; `key`, which word
            of several.
    """
    path = Path(payload["path"])
    opened = open_embedding(path, key=payload.get("key"), second=_second(payload))
    found = inspect_file(path, opened, read_model(payload.get("model")))
    return {**found, "file": path.name}


def verify(payload: Payload, _: Tell) -> dict[str, Any]:
    """Return how a file works in each tool, and how to use it there, as `coinage verify`.

    Args:
        payload: `path`, `model`, and `token` and `clip_skip`, or None.
    """
    quiet_libraries()
    path, model = Path(payload["path"]), _model(payload["model"])
    model = replace(model, clip_skip=payload.get("clip_skip"))
    Findings(errors=model_problems(model)).raise_errors()
    found = verify_file(path, model, payload.get("token"))
    lines = usage(Path(path.name), model.family, found.checks, found.token)
    checks = [{**asdict(check), "untried": check.untried} for check in found.checks]
    return {"token": found.token, "tools": checks, "usage": lines}


def convert(payload: Payload, _: Tell) -> list[str]:
    """Write a word as another kind of file; return the names of the files.

    Args:
        payload: `path`, `out`, `to`; and, or None, `token`, `precision`, `key`, `second`.
    """
    opened = open_embedding(Path(payload["path"]), key=payload.get("key"), second=_second(payload))
    precision = payload.get("precision") or precision_of(opened.dtype)
    return _write(opened.usable_word(), payload, precision)


def rescale(payload: Payload, _: Tell) -> list[str]:
    """Write a word with vectors of another length; return the names of the files.

    Args:
        payload: `path`, `out`; and one of `factor`, `length`, and `model`, whose words give the length.
    """
    opened = open_embedding(Path(payload["path"]), key=payload.get("key"))
    word, factor, length = opened.usable_word(), payload.get("factor"), payload.get("length")
    if factor is not None:
        vectors = {key: rows * factor for key, rows in word.vectors.items()}
        word = replace(word, vectors=vectors)
    elif length is not None:
        word = rescaled(word, dict.fromkeys(word.vectors, float(length)))
    else:
        word = rescaled(word, vocabulary_lengths(word, _model(payload.get("model"))))
    return _write(word, payload, precision_of(opened.dtype))


def mix(payload: Payload, _: Tell) -> list[str]:
    """Write the mixture of several words; return the names of the files.

    Args:
        payload: `files`, each with its `path` and its `weight`; `out`; `slerp`.
    """
    ingredients = []
    for part in payload["files"]:
        path = Path(part["path"])
        word = open_embedding(path).usable_word()
        ingredients.append(Ingredient(path.name, word, float(part["weight"])))
    return _write(merged(ingredients, slerp=bool(payload.get("slerp"))), payload, "float")


def _write(word: Word, payload: Payload, precision: str) -> list[str]:
    out, token = Path(payload["out"]), payload.get("token")
    Findings(errors=encoding_problems([("the word", token)])).raise_errors()
    if token:
        word = replace(word, token=token)
    files = encode_word(word, out, to=payload.get("to"), precision=precision)
    write_files(files, overwrite=False)
    return [path.name for path in files]


def _second(payload: Payload) -> Path | None:
    second = payload.get("second")
    return Path(second) if second else None


def _model(source: str | None) -> ModelConfig:
    """Return a model by its source.

    Raises:
        ConfigError: none is given.
    """
    if not source:
        raise ConfigError([Problem("this needs a model", hint="choose one")])
    return ModelConfig(source=source, family=detect_family(source) or DEFAULT.name)
