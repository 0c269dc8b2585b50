"""Prompts for pictures, and the files that list them. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coinage.errors import ConfigError, Problem, did_you_mean

SAMPLER_NAMES = (
    "ddim", "ddpm", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++",
    "dpmsingle", "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
)  # fmt: skip


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


def parse_prompt_line(line: str, defaults: Prompt | None = None) -> Prompt:
    """A line of a prompt file: the prompt, then options such as `--n bad --w 512 --d 42`.

    Unlike the reference, the prompt itself is never read as an option. Unknown options and values
    that do not fit are left at their defaults.
    """
    head, *options = re.split(r"\s+--(?=\w)", line.strip())
    prompt = replace(defaults or Prompt(text=""), text=head.strip())
    for option in options:
        name, _, value = option.partition(" ")
        prompt = _with_option(prompt, name.lower(), value.strip())
    return prompt


def _with_option(prompt: Prompt, name: str, value: str) -> Prompt:
    changes: dict[str, Any] = {}
    if name == "n":
        changes = {"negative": value}
    elif name == "ss":
        changes = {"sampler": value.lower()}
    elif name in ("w", "h") and value.isdecimal():
        changes = {{"w": "width", "h": "height"}[name]: max(64, int(value) // 8 * 8)}
    elif name == "d" and value.isdecimal():
        changes = {"seed": int(value)}
    elif name == "s" and value.isdecimal():
        changes = {"steps": min(max(int(value), 1), 1000)}
    elif name == "l" and re.fullmatch(r"-?\d+(\.\d*)?", value):
        changes = {"scale": float(value)}
    return replace(prompt, **changes)


def read_prompts(path: Path, sampler: str) -> list[Prompt]:
    """Prompts of a .txt file, one per line; lines that start with # and empty ones are skipped.

    Raises:
        ConfigError: the file cannot be read, or names an unknown sampler.
    """
    if path.suffix.lower() != ".txt":
        raise ConfigError([Problem(f"--sample_prompts: {path.name} is not a .txt file", str(path), "write one prompt per line")])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(f"--sample_prompts: {error}", str(path))]) from None
    prompts, problems = [], []
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not line.strip():
            continue
        prompt = parse_prompt_line(line, Prompt(text="", sampler=sampler))
        if prompt.sampler not in SAMPLER_NAMES:
            hint = did_you_mean(prompt.sampler, SAMPLER_NAMES) or f"one of {', '.join(SAMPLER_NAMES)}"
            problems.append(Problem(f"unknown sampler {prompt.sampler!r}", f"{path}, line {number}", hint))
        prompts.append(prompt)
    if problems:
        raise ConfigError(problems)
    return prompts
