"""The previews of a word's run, found by the names that the run gives them. Imports no torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinage.errors import CoinageError
from coinage.ui.workspace import WordFolder, read_json_or, write_json

if TYPE_CHECKING:
    from coinage.training.observers.base import Observer

log = logging.getLogger("coinage")
NAME = re.compile(
    r".*_(?P<epoch>e?)(?P<number>\d{6,})(?P<best>-best)?_(?P<index>\d{2,})_(?P<stamp>\d{14})"
    r"(_(?P<seed>\d+))?\.png"
)
KEPT = "kept"  # folder in a word's folder: pictures that were sent there from Try


def write_prompts(folder: WordFolder, observers: Sequence[Observer]) -> None:
    """Write what a run's previews show, for the page: the prompts by their numbers."""
    from coinage.training.observers.previews import Previewer

    for observer in observers:
        if isinstance(observer, Previewer):
            prompts = [
                {"text": p.text, "negative": p.negative, "seed": p.seed, "of": p.of}
                for p in observer.prompts
            ]
            with suppress(CoinageError):
                write_json(prompts_of(folder), prompts)


def prompts_of(folder: WordFolder) -> Path:
    """Return the file of the prompts of a word's previews."""
    return folder.path / "drawn-prompts.json"


def list_previews(folder: WordFolder, since: float | None) -> list[dict[str, Any]]:
    """Return the previews of a run, in the order in which they were drawn, and then the kept pictures.

    Each has its `file` (its name), the `step` or the `epoch` it is of, the `index` of its prompt, the
    prompt's `text` and `of` (the number of the same prompt with the word), `best` and `kept`.

    Args:
        folder: of the word.
        since: when the run began, seconds since 1970; earlier pictures are those of runs before it.
    """
    prompts = _prompts(folder)
    first = f"{datetime.fromtimestamp(int(since)):%Y%m%d%H%M%S}" if since else ""  # noqa: DTZ006 - as in the names
    drawn = []
    for path in _pictures(folder.output / "sample"):
        name = NAME.fullmatch(path)
        if name is None or name["stamp"] < first:
            continue
        index = int(name["index"])
        prompt = prompts[index] if index < len(prompts) else {}
        preview = {
            "file": path,
            "step": None if name["epoch"] else int(name["number"]),
            "epoch": int(name["number"]) if name["epoch"] else None,
            "index": index,
            "text": prompt.get("text", ""),
            "of": prompt.get("of"),
            "best": bool(name["best"]),
            "kept": False,
        }
        drawn.append((name["stamp"], index, preview))
    drawn.sort(key=lambda entry: entry[:2])
    kept = [_kept(name) for name in _pictures(folder.path / KEPT)]
    return [preview for _, _, preview in drawn] + kept


def _kept(name: str) -> dict[str, Any]:
    return {
        "file": name, "step": None, "epoch": None, "index": 0, "text": "", "of": None,
        "best": False, "kept": True,
    }  # fmt: skip


def picture(folder: WordFolder, name: str) -> Path | None:
    """Return the file of a preview or of a kept picture by its name; None if there is none."""
    for place in (folder.output / "sample", folder.path / KEPT):
        if name in _pictures(place) and folder.holds(place / name):
            return place / name
    return None


def _pictures(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    except OSError:
        return []


def _prompts(folder: WordFolder) -> list[dict[str, Any]]:
    try:
        prompts = read_json_or(prompts_of(folder), [])
    except CoinageError:
        return []
    if not isinstance(prompts, list):
        return []
    return [prompt if isinstance(prompt, dict) else {} for prompt in prompts]
