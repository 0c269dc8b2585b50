"""Prompts for pictures, and the files that list them. Imports no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from coinage.errors import CoinageError, ConfigError, Problem, did_you_mean
from coinage.system.text_files import read_json, read_text, read_toml
from coinage.text.samplers import SAMPLER_NAMES

log = logging.getLogger("coinage")
NAME = "--sample_prompts"
MOST_SEED = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One picture to draw. Sizes in pixels; a size of 0 is the model family's own."""

    text: str
    negative: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    steps: int = 30  # 1..1000
    scale: float = 7.5  # classifier-free guidance
    sampler: str = "ddim"
    # Number of the prompt that this one is without the word: training changes nothing in it
    of: int | None = None


def parse_prompt_line(line: str, defaults: Prompt | None = None) -> Prompt:
    """A line of a prompt file: the prompt, then options such as `--n bad --w 512 --d 42`.

    Unlike sd-scripts, the prompt itself is never read as an option. Unknown options and values
    that do not fit are told and left at their defaults.
    """
    head, *options = re.split(r"\s+--(?=\w)", line.strip())
    prompt = replace(defaults or Prompt(text=""), text=head.strip())
    for option in options:
        name, *value = option.split(maxsplit=1)
        prompt = _with_option(prompt, name.lower(), "".join(value).strip())
    return prompt


def _with_option(prompt: Prompt, name: str, value: str) -> Prompt:
    changes: dict[str, Any] = {}
    if name == "n":
        changes = {"negative": value}
    elif name == "ss":
        changes = {"sampler": value.lower()}
    elif name in ("w", "h") and value.isdecimal():
        changes = {{"w": "width", "h": "height"}[name]: max(64, int(value) // 8 * 8)}
    elif name == "d" and value.isdecimal() and int(value) < MOST_SEED:
        changes = {"seed": int(value)}
    elif name == "s" and value.isdecimal():
        changes = {"steps": min(max(int(value), 1), 1000)}
    elif name == "l" and re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", value):
        changes = {"scale": float(value)}
    elif name not in ("g", "cn", "ctr", "rcfg", "fs"):  # those are for other models
        log.warning("a prompt's option is not used: --%s %s", name, value)
    return replace(prompt, **changes)


CLOSES = {"(": 1.1, "[": 1 / 1.1}  # what a bracket without a number weighs
WEIGHT_SIGNS = re.compile(r"[()\[\]\\:]")
FREE = 0xE000  # first character that Unicode leaves to private use
WEIGHT = re.compile(r"\\.|[()\[\]]|:\s*([+-]?\d*\.?\d+)\s*\)|[^\\()\[\]:]+|:")


def parse_weights(text: str, words: Sequence[str] = ()) -> list[tuple[str, float]]:
    """A prompt's parts with their weights, as AUTOMATIC1111 writes them.

    `(x)` is 1.1, `[x]` is 1/1.1, `(x:1.3)` is 1.3, nesting multiplies, and a backslash makes the next sign plain.
    What is not closed counts to the end. Brackets that belong to one of `words` (longest first) are plain.
    """
    kept = {
        chr(FREE + i): word
        for i, word in enumerate(word for word in words if WEIGHT_SIGNS.search(word))
    }
    for sign, word in kept.items():
        text = text.replace(word, sign)
    parts: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []  # kind of bracket, and the first part inside

    def close(kind: str, factor: float) -> bool:
        """Weigh all since the last open bracket of a kind; False when there is none."""
        at = next((i for i in reversed(range(len(opened))) if opened[i][0] == kind), None)
        if at is None:
            return False
        start = opened.pop(at)[1]
        parts[start:] = [(word, weight * factor) for word, weight in parts[start:]]
        return True

    for match in WEIGHT.finditer(text):
        sign = match[0]
        if sign in CLOSES:
            opened.append((sign, len(parts)))
            continue
        ends = "(" if sign.endswith(")") else "[" if sign == "]" else ""
        if not ends or sign[0] == "\\" or not close(ends, float(match[1] or CLOSES[ends])):
            parts.append((sign[1] if sign[0] == "\\" else sign, 1.0))
    while opened:
        close(opened[-1][0], CLOSES[opened[-1][0]])
    found = [
        ("".join(word for word, _ in group), weight)
        for weight, group in groupby(parts, key=lambda part: part[1])
    ]
    return [("".join(kept.get(sign, sign) for sign in part), weight) for part, weight in found]


FIELDS = {
    "prompt": "text", "negative_prompt": "negative", "width": "width", "height": "height", "seed": "seed", "sample_steps": "steps",
    "scale": "scale", "sample_sampler": "sampler",
}  # fmt: skip
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
    """A prompt of a TOML or JSON table; what is unknown or of the wrong type is a problem."""
    changes: dict[str, Any] = {}
    for key, value in table.items():
        field = FIELDS.get(key)
        if value is None:
            continue
        wanted: tuple[type, ...] = (
            (str,)
            if field in ("text", "negative", "sampler")
            else (int, float)
            if field == "scale"
            else (int,)
        )
        if field is None and key not in OTHER_MODELS:
            problems.append(Problem(f"unknown key `{key}`", where, did_you_mean(key, list(FIELDS))))
        elif field and (not isinstance(value, wanted) or isinstance(value, bool)):
            problems.append(
                Problem(
                    f"`{key} = {value!r}` is not {'a text' if str in wanted else 'a number'}", where
                )
            )
        elif field:
            changes[field] = value
    if not 0 <= changes.get("seed", 0) < MOST_SEED:
        problems.append(
            Problem(f"`seed = {changes['seed']}` is out of range", where, "use 0 to 2^63 - 1")
        )
    for side in ("width", "height"):
        if side in changes:
            changes[side] = max(64, changes[side] // 8 * 8)
    if "steps" in changes:
        changes["steps"] = min(max(changes["steps"], 1), 1000)
    return replace(defaults, **changes)


def _tables(path: Path, defaults: Prompt, problems: list[Problem]) -> list[tuple[str, Prompt]]:
    """Place and prompt of each entry of a TOML or JSON file."""
    try:
        data: Any = (
            read_toml(path, NAME) if path.suffix.lower() == ".toml" else read_json(path, NAME)
        )
    except CoinageError as error:
        raise ConfigError(error.problems) from None
    shared: Any = {}
    if path.suffix.lower() == ".toml":
        shared = data.get("prompt", {}) if isinstance(data.get("prompt"), dict) else {}
        data = shared.get("subset")
        shared = {key: value for key, value in shared.items() if key != "subset"}
    if not isinstance(data, list):
        wanted = (
            "[[prompt.subset]] tables" if path.suffix.lower() == ".toml" else "a list of prompts"
        )
        raise ConfigError([Problem(f"--sample_prompts: the file must hold {wanted}", str(path))])
    found = []
    for number, entry in enumerate(data, 1):
        where = f"{path}, prompt {number}"
        if isinstance(entry, str):
            found.append((where, parse_prompt_line(entry, defaults)))
        elif isinstance(entry, dict):
            found.append((where, _from_table({**shared, **entry}, defaults, where, problems)))
        else:
            problems.append(Problem("the entry is neither a text nor a table", where))
    return found


def read_prompts(path: Path, sampler: str) -> list[Prompt]:
    """Return the prompts of a file: .txt with one per line, .toml with `[prompt]` and `[[prompt.subset]]`, .json with a list.

    A file without any is warned of.

    Raises:
        ConfigError: the file cannot be read, or has entries that cannot be used: all of them.
    """
    defaults, problems = Prompt(text="", sampler=sampler), list[Problem]()
    if path.suffix.lower() in (".toml", ".json"):
        found = _tables(path, defaults, problems)
    elif path.suffix.lower() == ".txt":
        try:
            lines = read_text(path, NAME).splitlines()
        except CoinageError as error:
            raise ConfigError(error.problems) from None
        kept = [
            (number, line)
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith("#")
        ]
        found = [
            (f"{path}, line {number}", parse_prompt_line(line, defaults)) for number, line in kept
        ]
    else:
        raise ConfigError(
            [
                Problem(
                    f"--sample_prompts: {path.name} is not a .txt, .toml or .json file", str(path)
                )
            ]
        )
    if not found and not problems:  # GUIs write such a file where no prompt is asked for
        log.warning(
            "--sample_prompts: the file holds no prompt, and so no previews are drawn\n  --> %s",
            path,
        )
    for where, prompt in found:
        if prompt.sampler not in SAMPLER_NAMES:
            hint = (
                did_you_mean(prompt.sampler, SAMPLER_NAMES) or f"one of {', '.join(SAMPLER_NAMES)}"
            )
            problems.append(Problem(f"unknown sampler {prompt.sampler!r}", where, hint))
    if problems:
        raise ConfigError(problems)
    return [prompt for _, prompt in found]
