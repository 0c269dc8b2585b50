"""Names that will misbehave in some tool, told before training: the word, and the file's stem, which is the word in the UIs.

Imports no torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from coinage.errors import Problem
from coinage.runs.names import DEVICES
from coinage.text.clip_tokenizer import ClipTokenizer
from coinage.text.placeholder import CHUNK, encodable, pieces_of, taken

WORD, FILE = "--token_string", "--output_name"
# What prompt parsers take for themselves. A pattern, its name, and who does what.
SIGNS = (
    (r"[()]", "parentheses", "AUTOMATIC1111, Forge, SD.Next and ComfyUI read them as weights"),
    (
        r"[\[\]]",
        "brackets",
        "AUTOMATIC1111, Forge and SD.Next read them as weights, and in ComfyUI the word ends there",
    ),
    (r":", "a colon", "AUTOMATIC1111, Forge, SD.Next and ComfyUI read a weight after it"),
    (r"\|", "a bar", "AUTOMATIC1111, Forge and SD.Next read alternatives around it"),
    (
        r"[<>]",
        "< or >",
        "in ComfyUI the word ends there, and AUTOMATIC1111 reads <name:weight> as another network",
    ),
    (r",", "a comma", "ComfyUI drops it at the end of a word, and captions are split there"),
    (r"\s", "a space", "in ComfyUI and SwarmUI the word ends there"),
)
KNOWN_SIGNS = re.compile("|".join((*(pattern for pattern, _, _ in SIGNS), r"\.")))
GOOD_STEM = re.compile(r"[a-z0-9][a-z0-9_-]*")
KEYWORD = re.compile(r"\b(BREAK|AND)\b")
# A name that another word's vector has: mychar1 in sd-scripts and here, mychar_1 in diffusers and SD.Next.
PIECE = re.compile(r"(.*?\D)(_?)([1-9]\d?)")


@dataclass(frozen=True, slots=True)
class _Name:
    """A word or a stem, and what is known about it."""

    text: str
    where: str
    num_vectors: int
    tokenizer: ClipTokenizer | None


def naming_problems(
    token: str, stem: str, num_vectors: int, tokenizer: ClipTokenizer | None
) -> list[Problem]:
    """Warnings about a word and the name of its file, one for each cause.

    Args:
        token: the word that is trained.
        stem: of the embedding file.
        num_vectors: of the word.
        tokenizer: of the model; without one, ordinary words are not recognised.

    Returns:
        What goes wrong, in which tool, and a better name; empty for names such as mychar, my-char or sks_style.
    """
    names = [_Name(token, WORD, num_vectors, tokenizer), _Name(stem, FILE, num_vectors, tokenizer)]
    if token == stem:
        names = [_Name(token, f"{WORD}, {FILE}", num_vectors, tokenizer)]
    found = []
    for rule in RULES:
        causes: dict[str, list[_Name]] = {}
        for name in names:
            if name.text and (reason := rule(name)):
                causes.setdefault(reason, []).append(name)
        found += [_problem(reason, hits) for reason, hits in causes.items()]
    return found


def _problem(reason: str, names: list[_Name]) -> Problem:
    link = ": each " if len(names) > 1 else " "
    what = f"{' and '.join(f'`{name.text}`' for name in names)}{link}{reason}"
    return Problem(
        what,
        ", ".join(name.where for name in names),
        f"for example `{suggest(names[0].text, names[0].tokenizer)}`",
    )


def suggest(token: str, tokenizer: ClipTokenizer | None) -> str:
    """A name near to a word that works everywhere and is free in the tokenizer."""
    plain = unicodedata.normalize("NFKD", token).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")
    if not re.search("[a-z]", base):
        base = f"mychar{base}"
    known = tokenizer.get_vocab() if tokenizer else {}
    # The vocabulary is finite, and its words are short: letters enough make any name new.
    candidates = (base + "x" * extra for extra in count())
    return next(
        name
        for name in candidates
        if _is_fine(name, tokenizer) and not taken(pieces_of(name, CHUNK), known)
    )


def _is_fine(name: str, tokenizer: ClipTokenizer | None) -> bool:
    return not any(rule(_Name(name, FILE, CHUNK, tokenizer)) for rule in RULES)


def _is_file(name: _Name) -> bool:
    return FILE in name.where


def _capitals(name: _Name) -> str:
    if name.text == name.text.lower():
        return ""
    if name.num_vectors > 1:
        return f"contains capitals: diffusers would use only the first of its {name.num_vectors} vectors"
    return (
        "contains capitals: in ComfyUI and InvokeAI you must type them exactly, and SwarmUI changes them to small letters"
        if _is_file(name)
        else ""
    )


def _ordinary(name: _Name) -> str:
    """One token of CLIP's own: AUTOMATIC1111 finds a file's word by the tokens of its stem."""
    if (
        name.tokenizer is None
        or not encodable(name.text)
        or len(name.tokenizer.encode(name.text)) != 1
    ):
        return ""
    return "already exists in the model: AUTOMATIC1111 and Forge would replace it in every prompt"


def _digits(name: _Name) -> str:
    return "has only digits, which ComfyUI reads as a weight" if name.text.isdecimal() else ""


def _no_letter(name: _Name) -> str:
    has_letter = any(char.isalpha() for char in name.text)
    return (
        ""
        if has_letter or name.text.isdecimal()
        else "has no letters: AUTOMATIC1111 and Forge would match it inside other prompts"
    )


def _piece(name: _Name) -> str:
    found = PIECE.fullmatch(name.text)
    if found is None or int(found[3]) >= CHUNK or not re.search(r"[^\W\d_]", found[1]):
        return ""
    root, line, number = found.groups()
    where = " in diffusers and SD.Next" if line else ""
    return f"is also the internal name of vector {int(number) + 1} of a word `{root}`{where}"


def _sign(name: _Name, pattern: str, sign: str, reason: str) -> str:
    return f"contains {sign}: {reason}" if re.search(pattern, name.text) else ""


def _dot(name: _Name) -> str:
    return (
        "contains a dot: SD.Next's cards cut the name of the file there"
        if _is_file(name) and "." in name.text
        else ""
    )


def _device(name: _Name) -> str:
    on_windows = _is_file(name) and DEVICES.fullmatch(name.text)
    return "is the name of a device on Windows, where no file can have it" if on_windows else ""


def _keyword(name: _Name) -> str:
    found = KEYWORD.search(name.text)
    return (
        f"contains {found[0]}, which splits prompts in AUTOMATIC1111, Forge and SD.Next"
        if found
        else ""
    )


def _stem(name: _Name) -> str:
    """Whatever else is no good in a file's name; a sign that a rule of its own tells is left out."""
    rest = KNOWN_SIGNS.sub("", name.text.lower())
    if (
        not _is_file(name)
        or not rest
        or GOOD_STEM.fullmatch(rest)
        or not any(char.isalpha() for char in rest)
    ):
        return ""
    odd = "".join(dict.fromkeys(re.findall(r"[^a-z0-9_-]", rest)))
    if odd:
        return f"contains {odd}: InvokeAI takes only the letters a to z, digits, dots, commas, _, - and spaces"
    return f"starts with {rest[0]}, which some prompts and file lists drop: begin with a letter or digit"


RULES: tuple[Callable[[_Name], str], ...] = (
    _capitals,
    _ordinary,
    _digits,
    _no_letter,
    _piece,
    *(partial(_sign, pattern=pattern, sign=sign, reason=reason) for pattern, sign, reason in SIGNS),
    _dot,
    _device,
    _keyword,
    _stem,
)
