"""What an embedding file is, what it has learned, and where it works: `coinage inspect`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coinage.embeddings.consumers import verdicts
from coinage.embeddings.file import body_hash
from coinage.embeddings.reading import Found, half_note, other_half
from coinage.errors import CoinageError
from coinage.models.facts import FACTS, SDXL
from coinage.models.token_embedding import initial_rows
from coinage.models.vocabulary import Vocabulary

LAYOUTS = {
    "E": "sd-scripts (emb_params)",
    "X": "SDXL pair (clip_l, clip_g)",
    "A": "AUTOMATIC1111 (string_to_param)",
    "O": "the first Textual Inversion code (string_to_param)",
    "Ept": "sd-scripts (emb_params), pickled",
    "Xpt": "SDXL pair (clip_l, clip_g), pickled",
    "D": "diffusers (one tensor, named as the word)",
    "D2": "diffusers, in two files",
    "P": "diffusers, pivotal tuning (clip_l or clip_g)",
    "PTI": "diffusers, embeddings.pti",
    "OT": "OneTrainer",
    "B": "embedding in a LoRA",
    "L": "list of words",
    "T": "tensor without a name",
    "G": "AUTOMATIC1111, in a picture",
}
LOUD, FAINT = 10.0, 0.2  # times the vocabulary's median length
UNMOVED = 0.9999  # cosine to a word, from which a row is that word
SHOWN = 200  # characters of a metadata value


def inspect(
    path: Path, found: Found, vocabularies: Mapping[str, Vocabulary], family: str | None = None
) -> dict[str, Any]:
    """All there is to say about a file, as plain values for JSON.

    Args:
        path: the file.
        found: what was read from it.
        vocabularies: of the model to compare with, by key; empty without one.
        family: of that model; told from the file without one.
    """
    file = found.embedding
    other = other_half(path, found)
    half = "" if found.layout == "D2" else half_note(path, found, other)
    warnings: list[str] = [*found.warnings]
    encoders = [
        _encoder(key, rows, vocabularies.get(key), file.metadata.get("ti.init_word"), warnings)
        for key, rows in file.vectors.items()
    ]
    if (
        vocabularies
        and not other
        and not set(file.vectors) <= {*vocabularies, *_other_keys(family)}
    ):
        warnings.append(
            f"the file has {', '.join(file.vectors)}, and the model takes {', '.join(vocabularies)}: made for another model"
        )
    file_family = SDXL.name if other else found.family
    target = family or file_family
    widths = tuple(v.table.shape[1] for v in vocabularies.values())
    if not widths and target:
        widths = FACTS[target].widths
    own = file_family or (
        family if tuple(rows.shape[1] for rows in file.vectors.values()) == widths else None
    )
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "layout": {"id": found.layout, "name": LAYOUTS.get(found.layout, "")},
        "family": own,
        "family_name": FACTS[own].display_name if own else "unknown model",
        "token": file.token,
        "vectors": file.num_vectors,
        "dtype": str(found.dtype).removeprefix("torch."),
        "encoders": encoders,
        "metadata": {
            key: value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
            for key, value in sorted(file.metadata.items())
        },
        "hash": _hashes(path, file.metadata.get("modelspec.hash_sha256"), warnings),
        "notes": [*found.notes, *([half] if half else [])],
        "warnings": list(dict.fromkeys(warnings)),
        "tools": _tools(path, found, target, widths),
    }


def _other_keys(family: str | None) -> list[str]:
    """Return keys of other families' files whose vectors fit a family's text encoders as well."""
    keys: list[str] = []
    if family:
        for encoder in FACTS[family].text_encoders:
            keys.extend(encoder.other_keys)
    return keys


def _tools(
    path: Path, found: Found, family: str | None, widths: tuple[int, ...]
) -> list[dict[str, Any]]:
    """What each tool makes of the file, where its family is known; a word that lies elsewhere works in OneTrainer at most."""
    judged = verdicts(path, family, widths, found.embedding.token) if family and widths else []
    told = []
    for v in judged:
        loads, why = v.loads, v.why
        if found.problem and v.tool != "OneTrainer":
            loads, why = False, f"{found.problem.what[0].upper()}{found.problem.what[1:]}."
        told.append({"tool": v.tool, "loads": loads, "write": v.write if loads else "", "why": why})
    return told


def _encoder(
    key: str,
    rows: Tensor,
    vocabulary: Vocabulary | None,
    init_word: str | None,
    warnings: list[str],
) -> dict[str, Any]:
    """One text encoder's rows, beside the words of its vocabulary."""
    norms = rows.norm(dim=1)
    entries: list[dict[str, Any]] = [{"norm": float(norm)} for norm in norms]
    told: dict[str, Any] = {"key": key, "width": rows.shape[1], "rows": entries}
    if norms.any():  # all of them zero is told already
        warnings += [
            f"{key}, vector {n}: its length is 0, so it does nothing"
            for n, norm in enumerate(norms, 1)
            if not norm
        ]
    if vocabulary is None:
        return told
    if vocabulary.table.shape[1] != rows.shape[1]:
        warnings.append(
            f"{key}: {rows.shape[1]} wide, and the model's vectors are {vocabulary.table.shape[1]} wide: made for another model"
        )
        return told
    low, median, high = vocabulary.usual_lengths
    told["vocabulary"] = {"median": median, "from": low, "to": high}
    start = _start(vocabulary, init_word, len(rows))
    for number, (entry, norm, nearest) in enumerate(
        zip(entries, norms.tolist(), vocabulary.nearest(rows), strict=True), 1
    ):
        entry |= {
            "ratio": norm / median,
            "nearest": [{"word": word, "cosine": cosine} for word, cosine in nearest],
        }
        if start is not None:
            cosine = torch.cosine_similarity(rows[number - 1], start[number - 1], dim=0).clamp(
                -1, 1
            )
            entry["degrees_from_init_word"] = float(cosine.acos().rad2deg())
        warnings += _row_warnings(f"{key}, vector {number}", norm / median, nearest[0])
    return told


def _start(vocabulary: Vocabulary, init_word: str | None, count: int) -> Tensor | None:
    """Where the rows began, if the file tells and the model knows the word."""
    if not init_word:
        return None
    try:
        return initial_rows(vocabulary.table, vocabulary.tokenizer, init_word, count)
    except CoinageError:
        return None


def _row_warnings(what: str, ratio: float, nearest: tuple[str, float]) -> list[str]:
    found = []
    if ratio > LOUD:
        hint = "coinage convert --rescale vocab shortens it"
        found.append(
            f"{what}: {ratio:.0f} times as long as the model's words, so the rest of a prompt may be ignored; {hint}"
        )
    if 0 < ratio < FAINT:
        found.append(
            f"{what}: {ratio:.2f} of the length of the model's words, so it will hardly act"
        )
    if nearest[1] > UNMOVED:
        found.append(f"{what}: is the word {nearest[0]!r} itself: nothing was learned")
    return found


def _hashes(path: Path, stored: str | None, warnings: list[str]) -> dict[str, str | None]:
    """The whole file's digest (AutoV2 is its start), that of its tensors (AutoV3), and what the header says of the latter."""
    data = path.read_bytes()
    body = body_hash(data)
    if stored and body and stored.removeprefix("0x") != body:
        warnings.append(
            "the tensors are not those that the file's header names: it was changed, or is damaged"
        )
    return {"file": hashlib.sha256(data).hexdigest(), "tensors": body, "stored": stored}
