"""Prompts for pictures, and the files that list them. Imports no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from coinage.errors import CoinageError, ConfigError, Problem, did_you_mean
from coinage.system.text_files import read_json, read_text, read_toml
from coinage.text.samplers import SAMPLER_NAMES

log = logging.getLogger("coinage")
NAME = "--sample_prompts"
MOST_SEED = 2**63
OPTIONS_OF_OTHER_MODELS = ("g", "cn", "ctr", "rcfg", "fs")
BRACKET_WEIGHTS = {"(": 1.1, "[": 1 / 1.1}  # of a bracket without a number
WEIGHT_SIGNS = re.compile(r"[()\[\]\\:]")
WEIGHT = re.compile(r"\\.|[()\[\]]|:\s*([+-]?\d*\.?\d+)\s*\)|[^\\()\[\]:]+|:")
FIRST_PRIVATE = 0xE000  # first character that Unicode leaves to private use


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One picture to draw. Sizes in pixels; a size of 0 is the model family's own."""

    text: str
    negative: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    steps: int = 30  # 1..1000
    scale: float | None = None  # of guidance; None: the model's own
    sampler: str = "ddim"
    # Number of the prompt that this one repeats without the word, so that training changes nothing in it
    of: int | None = None


def parse_prompt_line(line: str, defaults: Prompt | None = None) -> Prompt:
    """Return the prompt of a line: its text, then options such as `--n bad --w 512 --d 42`.

    Unlike in sd-scripts, the text itself is never read as an option. Unknown options and values that
    do not fit are warned of and left at their defaults.
    """
    head, *options = re.split(r"\s+--(?=\w)", line.strip())
    prompt = replace(defaults or Prompt(text=""), text=head.strip())
    for option in options:
        name, *value = option.split(maxsplit=1)
        prompt = _with_option(prompt, name.lower(), "".join(value).strip())
    return prompt


def _with_option(prompt: Prompt, name: str, value: str) -> Prompt:
    """Return a prompt with one option of its line."""
    changes: dict[str, Any] = {}
    if name == "n":
        changes["negative"] = value
    elif name == "ss":
        changes["sampler"] = value.lower()
    elif name == "w" and value.isdecimal():
        changes["width"] = _side(int(value))
    elif name == "h" and value.isdecimal():
        changes["height"] = _side(int(value))
    elif name == "d" and value.isdecimal() and int(value) < MOST_SEED:
        changes["seed"] = int(value)
    elif name == "s" and value.isdecimal():
        changes["steps"] = _steps(int(value))
    elif name == "l" and re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", value):
        changes["scale"] = float(value)
    elif name not in OPTIONS_OF_OTHER_MODELS:
        log.warning("a prompt's option is not used: --%s %s", name, value)
    return replace(prompt, **changes)


def _side(pixels: int) -> int:
    """Return the nearest side below that a model can draw, in pixels."""
    return max(64, pixels // 8 * 8)


def _steps(steps: int) -> int:
    """Return a number of steps within the range of schedulers."""
    return min(max(steps, 1), 1000)


def parse_weights(text: str, words: Sequence[str] = ()) -> list[tuple[str, float]]:
    """Return a prompt's parts with their weights, as AUTOMATIC1111 writes them.

    `(x)` is 1.1, `[x]` is 1/1.1, `(x:1.3)` is 1.3, nesting multiplies, and a backslash makes the next
    sign plain. A bracket that is not closed counts to the end. Brackets that belong to one of `words`
    (longest first) are plain.
    """
    signs: dict[str, str] = {}
    for word in words:
        if WEIGHT_SIGNS.search(word):
            sign = chr(FIRST_PRIVATE + len(signs))
            signs[sign] = word
            text = text.replace(word, sign)
    brackets = _Brackets()
    for match in WEIGHT.finditer(text):
        brackets.read(match)
    brackets.close_all()
    parts = []
    for weight, group in groupby(brackets.parts, key=lambda part: part[1]):
        joined = "".join(part for part, _ in group)
        parts.append(("".join(signs.get(char, char) for char in joined), weight))
    return parts


class _Brackets:
    """Reads a prompt sign by sign; `parts` are its texts with their weights so far."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float]] = []
        self._open: list[tuple[str, int]] = []  # kind of bracket, and the first part inside

    def read(self, match: re.Match[str]) -> None:
        """Read one match of `WEIGHT`: a bracket, an escaped sign, or plain text."""
        sign = match[0]
        if sign in BRACKET_WEIGHTS:
            self._open.append((sign, len(self.parts)))
        elif sign[0] == "\\":
            self.parts.append((sign[1], 1.0))
        elif not self._closes(sign, match[1]):
            self.parts.append((sign, 1.0))

    def _closes(self, sign: str, number: str | None) -> bool:
        """Close a bracket if a sign ends one; return whether it did."""
        if sign.endswith(")"):
            return self._close("(", float(number or BRACKET_WEIGHTS["("]))
        return sign == "]" and self._close("[", BRACKET_WEIGHTS["["])

    def _close(self, kind: str, factor: float) -> bool:
        """Weigh everything since the last open bracket of a kind; False if there is none."""
        for place in reversed(range(len(self._open))):
            if self._open[place][0] == kind:
                _, start = self._open.pop(place)
                inside = self.parts[start:]
                self.parts[start:] = [(text, weight * factor) for text, weight in inside]
                return True
        return False

    def close_all(self) -> None:
        """Close the brackets that are still open, from the inside out."""
        while self._open:
            kind = self._open[-1][0]
            self._close(kind, BRACKET_WEIGHTS[kind])


class _Field(NamedTuple):
    """What a key of a table sets: a field of `Prompt`, and the types that it takes."""

    name: str
    types: tuple[type, ...]


FIELDS = {
    "prompt": _Field("text", (str,)),
    "negative_prompt": _Field("negative", (str,)),
    "width": _Field("width", (int,)),
    "height": _Field("height", (int,)),
    "seed": _Field("seed", (int,)),
    "sample_steps": _Field("steps", (int,)),
    "scale": _Field("scale", (int, float)),
    "sample_sampler": _Field("sampler", (str,)),
    "compared_with": _Field("of", (int,)),  # counted from 1 in files
}
OTHER_MODELS = (
    "guidance_scale",
    "controlnet_image",
    "cfg_trunc_ratio",
    "renorm_cfg",
    "flow_shift",
    "enum",
    "prompt_dict",
)


def _from_table(
    table: Mapping[str, Any], defaults: Prompt, where: str, problems: list[Problem]
) -> Prompt:
    """Return the prompt of a TOML or JSON table; unknown keys and wrong types are problems."""
    changes: dict[str, Any] = {}
    for key, value in table.items():
        field = FIELDS.get(key)
        if value is None or key in OTHER_MODELS:
            continue
        if field is None:
            problems.append(Problem(f"unknown key `{key}`", where, did_you_mean(key, list(FIELDS))))
        elif not isinstance(value, field.types) or isinstance(value, bool):
            kind = "a text" if str in field.types else "a number"
            problems.append(Problem(f"`{key} = {value!r}` is not {kind}", where))
        else:
            changes[field.name] = value
    seed = changes.get("seed", 0)
    if not 0 <= seed < MOST_SEED:
        problems.append(Problem(f"`seed = {seed}` is out of range", where, "use 0 to 2^63 - 1"))
    for side in ("width", "height"):
        if side in changes:
            changes[side] = _side(changes[side])
    if "steps" in changes:
        changes["steps"] = _steps(changes["steps"])
    return replace(defaults, **changes)


def _read_tables(path: Path, defaults: Prompt, problems: list[Problem]) -> list[tuple[str, Prompt]]:
    """Return place and prompt of each entry of a TOML or JSON file."""
    entries, shared = _entries_of(path)
    prompts = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, prompt {number}"
        if isinstance(entry, str):
            prompts.append((where, parse_prompt_line(entry, defaults)))
        elif isinstance(entry, dict):
            prompt = _from_table({**shared, **entry}, defaults, where, problems)
            prompts.append((where, _compared(prompt, number, where, problems)))
        else:
            problems.append(Problem("the entry is neither a text nor a table", where))
    return prompts


def _compared(prompt: Prompt, number: int, where: str, problems: list[Problem]) -> Prompt:
    """Return a prompt with the place of the one that it repeats without the word, counted from 0."""
    if prompt.of is None:
        return prompt
    if not 1 <= prompt.of < number:
        what = f"`compared_with = {prompt.of}` is not the number of a prompt before this one"
        problems.append(Problem(what, where, "the first prompt has the number 1"))
        return replace(prompt, of=None)
    return replace(prompt, of=prompt.of - 1)


def _entries_of(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Return the entries of a TOML or JSON file, and the keys that all entries share.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    is_toml = path.suffix.lower() == ".toml"
    try:
        data: Any = read_toml(path, NAME) if is_toml else read_json(path, NAME)
    except CoinageError as error:
        raise ConfigError(error.problems) from None
    shared: dict[str, Any] = {}
    if is_toml:
        table = data.get("prompt")
        shared = dict(table) if isinstance(table, dict) else {}
        data = shared.pop("subset", None)
    if not isinstance(data, list):
        wanted = "[[prompt.subset]] tables" if is_toml else "a list of prompts"
        raise ConfigError([Problem(f"{NAME}: the file must hold {wanted}", str(path))])
    return data, shared


def _read_lines(path: Path, defaults: Prompt) -> list[tuple[str, Prompt]]:
    """Return place and prompt of each line of a text file; empty lines and comments are left out."""
    try:
        lines = read_text(path, NAME).splitlines()
    except CoinageError as error:
        raise ConfigError(error.problems) from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            prompts.append((f"{path}, line {number}", parse_prompt_line(line, defaults)))
    return prompts


def read_prompts(path: Path, sampler: str) -> list[Prompt]:
    """Return the prompts of a file, with a warning if there are none.

    A .txt file has one per line, .toml `[prompt]` and `[[prompt.subset]]`, .json a list.

    Args:
        path: the file.
        sampler: of prompts that name none.

    Raises:
        ConfigError: the file cannot be read, or has entries that cannot be used: all of them.
    """
    defaults, problems = Prompt(text="", sampler=sampler), list[Problem]()
    suffix = path.suffix.lower()
    if suffix in (".toml", ".json"):
        prompts = _read_tables(path, defaults, problems)
    elif suffix == ".txt":
        prompts = _read_lines(path, defaults)
    else:
        what = f"{NAME}: {path.name} is not a .txt, .toml or .json file"
        raise ConfigError([Problem(what, str(path))])
    if not prompts and not problems:  # GUIs write such a file where no prompt is asked for
        what = f"{NAME}: the file holds no prompt, so no previews are drawn"
        log.warning("%s\n  --> %s", what, path)
    for where, prompt in prompts:
        if prompt.sampler not in SAMPLER_NAMES:
            near = did_you_mean(prompt.sampler, SAMPLER_NAMES)
            hint = near or f"one of {', '.join(SAMPLER_NAMES)}"
            problems.append(Problem(f"unknown sampler {prompt.sampler!r}", where, hint))
    if problems:
        raise ConfigError(problems)
    return [prompt for _, prompt in prompts]
