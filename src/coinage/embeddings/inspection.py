"""Inspect an embedding file: its kind, what it has learned, and where it works."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.embeddings.base_model import BaseModel, base_of_model, base_of_word, other_base
from coinage.embeddings.formats import layout_title
from coinage.embeddings.header import TRAINED
from coinage.embeddings.pairs import half_note, open_with_other_half, other_half, pair_with
from coinage.embeddings.reading import OpenedFile
from coinage.embeddings.saving import save_word
from coinage.embeddings.stored_tensors import body_start, file_digest
from coinage.embeddings.tools import verdicts
from coinage.embeddings.word import Word
from coinage.errors import CoinageError
from coinage.models.facts import FACTS
from coinage.models.hub_files import detect_family
from coinage.models.token_embedding import initial_rows
from coinage.models.vocabulary import Vocabulary, read_vocabularies

LONG_VECTOR, SHORT_VECTOR = 10.0, 0.2  # times the vocabulary's median length
SAME_WORD_COSINE = 0.9999  # from which on a vector is a word of the model
SHOWN_CHARACTERS = 200  # of a metadata value
CHANGED_TENSORS = (
    "the tensors are not those that the file's header names: it was changed, or is damaged"
)
SAFE_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A model that vectors are compared with.

    Attributes:
        family: its name; None without a model.
        base: what words know it by.
        vocabularies: one for each text encoder, by the key of its vectors; empty without a model.
    """

    family: str | None = None
    base: BaseModel = field(default_factory=BaseModel)
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)


def read_model(source: str | None, tokenizer_cache: Path | None = None) -> ComparedModel:
    """Read the vocabularies of a model; without a source, return no model.

    Args:
        source: a file, a diffusers folder or a hub id.
        tokenizer_cache: folder of tokenizers, for a model in a single file.

    Raises:
        CoinageError: not a model, or it cannot be read.
    """
    if source is None:
        return ComparedModel()
    family = detect_family(source)
    if family is None:
        raise CoinageError(
            "not a Stable Diffusion model, or its kind cannot be recognised",
            source,
            "give a file, a diffusers folder or a hub id",
        )
    model = ModelConfig(source=source, family=family, tokenizer_cache=tokenizer_cache)
    return ComparedModel(family, base_of_model(model), read_vocabularies(model))


def inspect_word(word: Word, model: str | None, tokenizer_cache: Path | None) -> dict[str, Any]:
    """Return all about a word, as `Word.inspect` does.

    Raises:
        CoinageError: the file or the model cannot be read.
    """
    compared = read_model(model, tokenizer_cache)
    if word.path is not None and word.path.is_file():
        opened = open_with_other_half(word.path, word.token)
        if _same_vectors(opened.word, word):
            return inspect_file(word.path, replace(opened, word=word), compared)
    stem = word.token if word.token and SAFE_STEM.fullmatch(word.token) else "word"
    with tempfile.TemporaryDirectory(prefix="coinage-") as folder:
        path = Path(folder) / f"{stem}.safetensors"
        save_word(word, path, to=None, precision="float", overwrite=True)
        return inspect_file(path, open_with_other_half(path), compared) | {"file": None}


def _same_vectors(a: Word, b: Word) -> bool:
    if a.vectors.keys() != b.vectors.keys():
        return False
    return all(torch.equal(rows, b.vectors[key].cpu()) for key, rows in a.vectors.items())


def inspect_file(path: Path, opened: OpenedFile, model: ComparedModel) -> dict[str, Any]:
    """Return all about a file, as plain values for JSON.

    Args:
        path: the file.
        opened: what was read from it.
        model: to compare with.
    """
    word = opened.word
    other = other_half(path, opened)
    warnings = list(opened.warnings)
    encoders = []
    for key, rows in word.vectors.items():
        vocabulary = model.vocabularies.get(key)
        encoders.append(_encoder(key, rows, vocabulary, word.metadata.get("ti.init_word")))
        warnings += _length_warnings(key, rows)
        learned = key in word.metadata.get(TRAINED, key).split(", ")
        warnings += _comparison_warnings(key, rows, vocabulary, encoders[-1], learned=learned)
    if not other:
        warnings += _key_warnings(word, model)
    if model.base and (warning := other_base(path.name, word.metadata, model.base)):
        warnings.append(warning)
    hashes = _hashes(path, word.metadata.get("modelspec.hash_sha256"))
    if not _is_as_stored(hashes):
        warnings.append(CHANGED_TENSORS)
    family = pair_with(word, other).name if other else word.family
    target_family = model.family or family
    target_widths = _target_widths(model, target_family)
    if family is None and _widths(word) == target_widths:
        family = model.family
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "layout": {"id": opened.layout, "name": layout_title(opened.layout)},
        "family": family,
        "family_name": FACTS[family].display_name if family else "unknown model",
        "token": word.token,
        "base": _base(word),
        "vectors": word.num_vectors,
        "dtype": str(opened.dtype).removeprefix("torch."),
        "encoders": encoders,
        "metadata": _shown_metadata(word.metadata),
        "hash": hashes,
        "notes": _notes(path, opened, other),
        "warnings": list(dict.fromkeys(warnings)),
        "tools": _tools(path, opened, target_family, target_widths),
    }


def _base(word: Word) -> dict[str, str | None] | None:
    """Return the model that the word was trained on; None if its header does not name it."""
    base = base_of_word(word.metadata)
    if not base:
        return None
    return {"name": base.name, "hash": base.digits, "predicts": base.predicts}


def _notes(path: Path, opened: OpenedFile, other: Path | None) -> list[str]:
    note = "" if opened.layout == "D2" else half_note(path, opened, other)
    return [*opened.notes, note] if note else [*opened.notes]


def _widths(word: Word) -> tuple[int, ...]:
    return tuple(rows.shape[1] for rows in word.vectors.values())


def _target_widths(model: ComparedModel, family: str | None) -> tuple[int, ...]:
    """Return the widths of the text encoders: of the model, or of the family's released models."""
    if model.vocabularies:
        return tuple(words.table.shape[1] for words in model.vocabularies.values())
    return FACTS[family].widths if family else ()


def _shown_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    shown = {}
    for key, value in sorted(metadata.items()):
        is_long = len(value) > SHOWN_CHARACTERS
        shown[key] = f"{value[:SHOWN_CHARACTERS]}..." if is_long else value
    return shown


def _tools(
    path: Path, opened: OpenedFile, family: str | None, widths: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return what each tool makes of the file, if its family is known.

    A word that is in other vectors than a word's works in OneTrainer at most.
    """
    if not family or not widths:
        return []
    entries = []
    for verdict in verdicts(path, family, widths, opened.word.token):
        loads, why = verdict.loads, verdict.why
        if opened.problem and verdict.tool != "OneTrainer":
            what = opened.problem.what
            loads, why = False, f"{what[0].upper()}{what[1:]}."
        write = verdict.write if loads else ""
        entries.append({"tool": verdict.tool, "loads": loads, "write": write, "why": why})
    return entries


def _encoder(
    key: str, rows: Tensor, vocabulary: Vocabulary | None, init_word: str | None
) -> dict[str, Any]:
    """Return one text encoder's vectors beside the words of its vocabulary."""
    entries: list[dict[str, Any]] = [{"norm": norm} for norm in rows.norm(dim=1).tolist()]
    encoder: dict[str, Any] = {"key": key, "width": rows.shape[1], "rows": entries}
    if vocabulary is None or vocabulary.table.shape[1] != rows.shape[1]:
        return encoder
    low, median, high = vocabulary.usual_lengths
    encoder["vocabulary"] = {"median": median, "from": low, "to": high}
    start = _start(vocabulary, init_word, len(rows))
    for number, nearest in enumerate(vocabulary.nearest(rows)):
        entry = entries[number]
        entry["ratio"] = entry["norm"] / median
        entry["nearest"] = [{"word": word, "cosine": cosine} for word, cosine in nearest]
        if start is not None:
            entry["degrees_from_init_word"] = _degrees(rows[number], start[number])
    return encoder


def _degrees(a: Tensor, b: Tensor) -> float:
    cosine = torch.cosine_similarity(a, b, dim=0).clamp(-1, 1)
    return float(cosine.acos().rad2deg())


def _start(vocabulary: Vocabulary, init_word: str | None, count: int) -> Tensor | None:
    """Return where the vectors began, if the file says so and the model knows the word."""
    if not init_word:
        return None
    try:
        return initial_rows(vocabulary.table, vocabulary.tokenizer, init_word, count)
    except CoinageError:
        return None


def _length_warnings(key: str, rows: Tensor) -> list[str]:
    """Return warnings about single vectors of length 0; that all are zero is another warning."""
    norms = rows.norm(dim=1)
    if not norms.any():
        return []
    numbers = [number for number, norm in enumerate(norms, 1) if not norm]
    return [f"{key}, vector {n}: its length is 0, so it does nothing" for n in numbers]


def _key_warnings(word: Word, model: ComparedModel) -> list[str]:
    """Return a warning about text encoders that the model does not have."""
    taken = {*model.vocabularies}
    if model.family:
        for encoder in FACTS[model.family].text_encoders:
            taken.update(encoder.other_keys)
    if not model.vocabularies or set(word.vectors) <= taken:
        return []
    has, takes = ", ".join(word.vectors), ", ".join(model.vocabularies)
    return [f"the file has {has}, and the model takes {takes}: made for another model"]


def _comparison_warnings(
    key: str,
    rows: Tensor,
    vocabulary: Vocabulary | None,
    encoder: dict[str, Any],
    *,
    learned: bool,
) -> list[str]:
    """Return warnings about vectors beside a model's words; what has not learned may be one of them."""
    if vocabulary is None:
        return []
    width, expected = rows.shape[1], vocabulary.table.shape[1]
    if width != expected:
        widths = f"{key}: {width} wide, and the model's vectors are {expected} wide"
        return [f"{widths}: made for another model"]
    warnings = []
    for number, entry in enumerate(encoder["rows"], 1):
        name, nearest = f"{key}, vector {number}", entry["nearest"][0]
        warnings += _length_against_words(name, entry["ratio"])
        if learned and nearest["cosine"] > SAME_WORD_COSINE:
            warnings.append(f"{name}: is the word {nearest['word']!r} itself: nothing was learned")
    return warnings


def _length_against_words(name: str, ratio: float) -> list[str]:
    warnings = []
    if ratio > LONG_VECTOR:
        warnings.append(
            f"{name}: {ratio:.0f} times as long as the model's words, so the rest of a prompt "
            "may be ignored; coinage convert --adjust INIT_WORD mends it"
        )
    if 0 < ratio < SHORT_VECTOR:
        warnings.append(
            f"{name}: {ratio:.2f} of the length of the model's words, so it will have little effect"
        )
    return warnings


def _hashes(path: Path, stored: str | None) -> dict[str, str | None]:
    """Return digests: of the file (AutoV2 is its start), of its tensors (AutoV3), and as in the header."""
    start = body_start(path)
    return {
        "file": file_digest(path),
        "tensors": None if start is None else file_digest(path, start),
        "stored": stored,
    }


def _is_as_stored(hashes: Mapping[str, str | None]) -> bool:
    stored, tensors = hashes["stored"], hashes["tensors"]
    return not stored or not tensors or stored.removeprefix("0x") == tensors
