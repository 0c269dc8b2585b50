"""How fast a run will be, as far as an earlier one of the workspace tells. Imports no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coinage.errors import CoinageError
from coinage.system.text_files import read_toml
from coinage.ui.workspace import WordFolder, Workspace, read_json_or

# What decides how long a step takes; runs that are alike in all of it are compared
ALIKE = (
    "pretrained_model_name_or_path",
    "resolution",
    "train_batch_size",
    "gradient_accumulation_steps",
    "mixed_precision",
    "gradient_checkpointing",
    "low_memory",
)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that a step has taken, and the word of the run that it was measured in."""

    seconds: float
    word: str


def known_speed(workspace: Workspace, toml: str) -> Speed | None:
    """Return how fast the newest run was that was like this one; None if there was none.

    Args:
        workspace: whose runs are looked at.
        toml: settings of the run that is to begin.
    """
    wanted = _alike(tomllib.loads(toml))
    newest, speed = 0.0, None
    for word_id in workspace.word_ids():
        folder = WordFolder(workspace.words / word_id)
        with suppress(CoinageError, OSError):
            changed = folder.progress.stat().st_mtime
            if changed > newest:
                settings = read_toml(folder.run_settings)
                seconds = _seconds(read_json_or(folder.progress, {}), settings)
                if seconds and _alike(settings) == wanted:
                    newest, speed = changed, Speed(seconds, word_id)
    return speed


def _alike(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(settings[name]) for name in ALIKE if name in settings}


def _seconds(progress: Any, settings: Mapping[str, Any]) -> float | None:
    """Return the seconds of a step; None if they were not measured."""
    speed = progress.get("images_per_second") if isinstance(progress, dict) else None
    images = [settings.get(name, 1) for name in ("train_batch_size", "gradient_accumulation_steps")]
    if not isinstance(speed, int | float) or speed <= 0:
        return None
    if not all(isinstance(number, int) for number in images):
        return None
    return float(images[0] * images[1] / speed)
