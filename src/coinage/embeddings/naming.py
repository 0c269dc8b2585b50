"""Warnings, before training, about names that will cause trouble in some tool. Imports no torch.

The names are the word and the stem of its file's name, which is the word in the web UIs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from coinage.errors import Problem
from coinage.runs.names import DEVICES
from coinage.text.clip_tokenizer import ClipTokenizer
from coinage.text.placeholder import CHUNK, encodable, pieces_of, taken

WORD, FILE = "--token_string", "--output_name"
# Signs with a meaning for prompt parsers: a pattern, its name, and who does what.
PROMPT_SIGNS = (
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
SIGNS_WITH_A_RULE = re.compile("|".join([*(sign[0] for sign in PROMPT_SIGNS), r"\."]))
GOOD_STEM = re.compile(r"[a-z0-9][a-z0-9_-]*")
KEYWORD = re.compile(r"\b(BREAK|AND)\b")
# Names of another word's vectors: mychar1 in sd-scripts and Coinage, mychar_1 in diffusers and SD.Next
PIECE = re.compile(r"(.*?\D)(_?)([1-9]\d?)")


@dataclass(frozen=True, slots=True)
class _Name:
    """A word, or the stem of a file's name, and what the rules need to judge it."""

    text: str
    where: str
    num_vectors: int
    tokenizer: ClipTokenizer | None


def naming_problems(
    token: str, stem: str, num_vectors: int, tokenizer: ClipTokenizer | None
) -> list[Problem]:
    """Return warnings about a word and the name of its file, one for each cause.

    Args:
        token: the word that is trained.
        stem: of the embedding file.
        num_vectors: of the word.
        tokenizer: of the model; without one, ordinary words are not recognised.

    Returns:
        What goes wrong, in which tool, and a better name; empty for names such as mychar, my-char or
        sks_style.
    """
    names = [_Name(token, WORD, num_vectors, tokenizer), _Name(stem, FILE, num_vectors, tokenizer)]
    if token == stem:
        names = [_Name(token, f"{WORD}, {FILE}", num_vectors, tokenizer)]
    problems = []
    for rule in RULES:
        causes: dict[str, list[_Name]] = {}
        for name in names:
            reason = rule(name) if name.text else ""
            if reason:
                causes.setdefault(reason, []).append(name)
        problems += [_problem(reason, names) for reason, names in causes.items()]
    return problems


def _problem(reason: str, names: list[_Name]) -> Problem:
    subject = " and ".join(f"`{name.text}`" for name in names)
    link = ": each " if len(names) > 1 else " "
    where = ", ".join(name.where for name in names)
    better_name = suggest(names[0].text, names[0].tokenizer)
    return Problem(f"{subject}{link}{reason}", where, f"for example `{better_name}`")


def suggest(token: str, tokenizer: ClipTokenizer | None) -> str:
    """Return a name similar to a word that works everywhere and is free in the tokenizer."""
    plain = unicodedata.normalize("NFKD", token).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")
    if not re.search("[a-z]", base):
        base = f"mychar{base}"
    known = tokenizer.get_vocab() if tokenizer else {}
    # The vocabulary is finite, and its words are short: enough letters make any name new.
    name = base
    while taken(pieces_of(name, CHUNK), known) or not _is_fine(name, tokenizer):
        name += "x"
    return name


def _is_fine(name: str, tokenizer: ClipTokenizer | None) -> bool:
    return not any(rule(_Name(name, FILE, CHUNK, tokenizer)) for rule in RULES)


def _is_file(name: _Name) -> bool:
    return FILE in name.where


def _capitals(name: _Name) -> str:
    if name.text == name.text.lower():
        return ""
    if name.num_vectors > 1:
        count = name.num_vectors
        return f"contains capitals: diffusers would use only the first of its {count} vectors"
    if not _is_file(name):
        return ""
    return (
        "contains capitals: in ComfyUI and InvokeAI you must type them exactly, "
        "and SwarmUI changes them to small letters"
    )


def _ordinary(name: _Name) -> str:
    """Judge one token of CLIP's own: AUTOMATIC1111 finds a file's word by the tokens of its stem."""
    if name.tokenizer is None or not encodable(name.text):
        return ""
    if len(name.tokenizer.encode(name.text)) != 1:
        return ""
    return "already exists in the model: AUTOMATIC1111 and Forge would replace it in every prompt"


def _digits(name: _Name) -> str:
    return "has only digits, which ComfyUI reads as a weight" if name.text.isdecimal() else ""


def _no_letter(name: _Name) -> str:
    if _has_letter(name.text) or name.text.isdecimal():
        return ""
    return "has no letters: AUTOMATIC1111 and Forge would match it inside other prompts"


def _has_letter(text: str) -> bool:
    return any(char.isalpha() for char in text)


def _piece(name: _Name) -> str:
    match = PIECE.fullmatch(name.text)
    if match is None:
        return ""
    root, underscore, number = match.groups()
    if int(number) >= CHUNK or not re.search(r"[^\W\d_]", root):
        return ""
    where = " in diffusers and SD.Next" if underscore else ""
    return f"is also the internal name of vector {int(number) + 1} of a word `{root}`{where}"


def _sign(name: _Name, pattern: str, sign: str, reason: str) -> str:
    return f"contains {sign}: {reason}" if re.search(pattern, name.text) else ""


def _dot(name: _Name) -> str:
    if not _is_file(name) or "." not in name.text:
        return ""
    return "contains a dot: SD.Next's cards cut the name of the file there"


def _device(name: _Name) -> str:
    on_windows = _is_file(name) and DEVICES.fullmatch(name.text)
    return "is the name of a device on Windows, where no file can have it" if on_windows else ""


def _keyword(name: _Name) -> str:
    match = KEYWORD.search(name.text)
    if match is None:
        return ""
    return f"contains {match[0]}, which splits prompts in AUTOMATIC1111, Forge and SD.Next"


def _stem(name: _Name) -> str:
    """Judge everything else in a file's name; signs with a rule of their own are left out."""
    rest = SIGNS_WITH_A_RULE.sub("", name.text.lower())
    if not _is_file(name) or not _has_letter(rest) or GOOD_STEM.fullmatch(rest):
        return ""
    odd = "".join(dict.fromkeys(re.findall(r"[^a-z0-9_-]", rest)))
    if odd:
        return (
            f"contains {odd}: InvokeAI takes only the letters a to z, digits, dots, commas, "
            "_, - and spaces"
        )
    return (
        f"starts with {rest[0]}, which some prompts and file lists drop: "
        "begin with a letter or digit"
    )


RULES: tuple[Callable[[_Name], str], ...] = (
    _capitals,
    _ordinary,
    _digits,
    _no_letter,
    _piece,
    *(partial(_sign, pattern=sign[0], sign=sign[1], reason=sign[2]) for sign in PROMPT_SIGNS),
    _dot,
    _device,
    _keyword,
    _stem,
)
