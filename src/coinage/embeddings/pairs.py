"""Find and join words that diffusers writes as two files, one for each of two text encoders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from coinage.embeddings.layouts import quoted
from coinage.embeddings.reading import OpenedFile, open_file
from coinage.embeddings.word import Word
from coinage.errors import EmbeddingFileError
from coinage.models.facts import (
    FACTS,
    KNOWN_WIDTHS,
    PAIRS,
    SDXL,
    FamilyFacts,
    fits_other_families,
    pair_of_widths,
)

NAMES = " or ".join(facts.short_name for facts in PAIRS)
FIRST_HALF = f"the first half of a word for {NAMES}"
HOW_TO_JOIN = (
    "if it is one of two files that diffusers wrote: "
    "coinage convert ONE WORD.safetensors --second OTHER joins them"
)
OTHER_KIND = "give a file that was made for this kind of model"
WITHOUT_T5 = (
    "the word was made without T5: give the model without it, or a word that has such vectors"
)
OPTIONAL = {e.key for facts in FACTS.values() for e in facts.text_encoders if e.optional}


def how_to_fit(has: Collection[str], needed: Collection[str]) -> str:
    """Return what to do about a word without vectors for some of a model's text encoders.

    Args:
        has: keys of its vectors.
        needed: keys of the model's text encoders.
    """
    if len(has) == 1 and len(needed) == 2:
        return HOW_TO_JOIN
    is_whole_otherwise = OPTIONAL.issuperset(set(needed) - set(has))
    return WITHOUT_T5 if is_whole_otherwise else OTHER_KIND


def open_embedding(path: Path, *, key: str | None = None, second: Path | None = None) -> OpenedFile:
    """Read an embedding of any layout from a file, or from the two files that are named.

    Args:
        path: the file; its content counts, not its suffix.
        key: the placeholder, word or tensor to take from a file with several.
        second: the other file of a word that diffusers wrote as two.

    Raises:
        EmbeddingFileError: missing, unreadable, not an embedding, or one must be chosen with `key`.
    """
    first = open_file(path, key)
    if second is None:
        return first
    if second.exists() and second.samefile(path):
        raise EmbeddingFileError(
            "the second file is the first one again",
            str(second),
            "name the other one of the two files",
        )
    return _joined(first, open_file(second, key), f"{path}, {second}")


def open_with_other_half(path: Path, token: str | None = None) -> OpenedFile:
    """Read an embedding, together with the other half of its word if that is beside it.

    Args:
        path: the file; its content counts, not its suffix.
        token: the word that is wanted: it is taken if the file is a LoRA with several words.

    Raises:
        EmbeddingFileError: missing, unreadable, or not an embedding.
    """
    opened = open_file(path, token=token)
    other = other_half(path, opened)
    if other is None:
        return opened
    path_is_second = other.name != _other_names(path)[0]
    files = (other, path) if path_is_second else (path, other)
    pair = open_embedding(files[0], second=files[1])
    name = pair_with(opened.word, other).short_name
    note = f"read together with {other.name}, the other half of this {name} word"
    return replace(pair, word=replace(pair.word, path=path), notes=(note, *pair.notes))


def other_half(path: Path, opened: OpenedFile) -> Path | None:
    """Return the file beside one of diffusers' with the other half of its word; None without one.

    diffusers writes NAME and NAME_2, and in training NAME-steps-500 and NAME_2-steps-500; both hold
    one tensor under the word, equally many vectors, of the two text encoders' widths.
    """
    if opened.layout != "D":
        return None
    for name in _other_names(path):
        other = path.with_name(name)
        if not other.is_file():
            continue
        try:
            beside = open_file(other)
        except EmbeddingFileError:
            continue
        if beside.layout == "D" and _are_halves(opened.word, beside.word):
            return other
    return None


def _are_halves(word: Word, other: Word) -> bool:
    """Return whether two words of one tensor each may be the halves of one word."""
    if (word.token, word.num_vectors) != (other.token, other.num_vectors):
        return False
    widths = _widths(word, other)
    is_no_released_model = not widths & KNOWN_WIDTHS
    return len(widths) == 2 and (pair_of_widths(widths) is not None or is_no_released_model)


def _widths(*halves: Word) -> set[int]:
    return {_only_rows(half).shape[1] for half in halves}


def _pair(word: Word, other: Word) -> FamilyFacts:
    """Return the family of two halves; SDXL where their widths are no released model's."""
    return pair_of_widths(_widths(word, other)) or SDXL


def pair_with(word: Word, other: Path) -> FamilyFacts:
    """Return the family of a half of a word and the half in another file.

    Raises:
        EmbeddingFileError: the file is no embedding.
    """
    return _pair(word, open_file(other).word)


def half_note(path: Path, opened: OpenedFile, other: Path | None) -> str:
    """Return a note on a file that is, or may be, one of the two files of a word; "" for others."""
    if other is not None:
        name = pair_with(opened.word, other).short_name
        return (
            f"half of a pair: {other.name} holds the other half of this {name} word; "
            f"--second {other} reads both"
        )
    for facts in PAIRS:
        if tuple(opened.word.vectors) == facts.keys[1:]:
            return (
                f"only the second half of a word for {facts.short_name}; "
                "--second names the file of the first"
            )
    if not fits_other_families(opened.word.family):
        return ""
    if opened.layout == "P":
        return f"an SD 1.x word, or {FIRST_HALF}"
    if opened.layout == "D":
        other_name = _other_names(path)[0]
        return f"an SD 1.x word, or {FIRST_HALF}, whose other file would be {other_name}"
    return ""


def _other_names(path: Path) -> list[str]:
    """Return possible names of a pair's other file: as the second half's file, then as the first's."""
    stem, dash, step = path.stem.partition("-steps-")
    names = [f"{stem}_2{dash}{step}{path.suffix}"]
    if stem.endswith("_2") and stem != "_2":
        names.append(f"{stem[:-2]}{dash}{step}{path.suffix}")
    return names


def _joined(first: OpenedFile, second: OpenedFile, where: str) -> OpenedFile:
    """Return two halves from a file each as one word.

    Their widths say which is which; where they do not, the order given counts.
    """
    first, second = _in_order(first, second, where)
    notes = dict.fromkeys((*first.notes, *second.notes))
    tokens = [opened.word.token for opened in (first, second) if opened.word.token]
    if len(set(tokens)) > 1:
        names = " and ".join(quoted(token) for token in tokens)
        notes[f"the two files name different words: {names}"] = None
    warnings = tuple(dict.fromkeys((*first.warnings, *second.warnings)))
    halves = (_only_rows(first.word), _only_rows(second.word))
    word = Word(
        vectors=dict(zip(_pair(first.word, second.word).keys, halves, strict=True)),
        token=tokens[0] if tokens else None,
        step=first.word.step,
        metadata={**second.word.metadata, **first.word.metadata},
        path=first.word.path,
    )
    problem = first.problem or second.problem
    return OpenedFile(word, "D2", first.dtype, tuple(notes), warnings, problem)


def _in_order(first: OpenedFile, second: OpenedFile, where: str) -> tuple[OpenedFile, OpenedFile]:
    """Return two halves in the order of the text encoders.

    Raises:
        EmbeddingFileError: they are not the halves of one word.
    """
    if len(first.word.vectors) > 1 or len(second.word.vectors) > 1:
        raise EmbeddingFileError(
            "one of the two files holds both halves already", where, "give it alone"
        )
    widths = (_only_rows(first.word).shape[1], _only_rows(second.word).shape[1])
    pair = pair_of_widths(widths)
    if pair is not None and widths == pair.widths[::-1]:
        first, second = second, first
    elif pair is None and KNOWN_WIDTHS.intersection(widths):
        raise EmbeddingFileError(
            f"the two files are not a pair for {NAMES}: their vectors are {widths[0]} and {widths[1]} wide",
            where,
        )
    counts = (first.word.num_vectors, second.word.num_vectors)
    if counts[0] != counts[1]:
        raise EmbeddingFileError(
            f"the two files do not match: {counts[0]} and {counts[1]} vectors", where
        )
    return first, second


def _only_rows(word: Word) -> Tensor:
    (rows,) = word.vectors.values()
    return rows
