"""Load one part of a diffusers folder or hub id, in the variant of its weights that is there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from coinage.errors import CoinageError
from coinage.models.hub_files import hub_folder, is_hub_id, reach_hub

log = logging.getLogger("coinage")
ADAPTER = "lora"
HALF = re.compile(r"\.fp16[.-]")  # in names of files, also of one that is one of several


def pretrained(cls: Any, path: str, folder: str, **more: Any) -> Any:
    """Load a part of a diffusers folder or hub id.

    Its fp16 variant is loaded where that alone is there, and tried first where fp16 is wanted.

    Raises:
        CoinageError: weights are missing from the file, or it has more than its settings tell of.
        OSError: it is not there.
    """
    reason: OSError | ValueError | None = None
    for variant in _variants(files_of(path, folder), half=torch.float16 in more.values()):
        try:
            part, info = cls.from_pretrained(
                path, subfolder=folder, variant=variant, output_loading_info=True, **more
            )
        except (OSError, ValueError) as error:
            reason = error if variant is None or reason is None else reason
            continue
        part_name = folder or "the VAE"
        missing = [name for name in info["missing_keys"] if not name.endswith("position_ids")]
        if missing:
            what = f"{len(missing)} weights are missing from {part_name}, such as {min(missing)}"
            raise CoinageError(what, path, "download the model again")
        left = _left_over(part, info["unexpected_keys"])
        if left:
            what = (
                f"{len(left)} weights of {part_name} are not in its settings, such as {min(left)}"
            )
            hint = "config.json and the weights do not belong together: download the model again"
            raise CoinageError(what, path, hint)
        return part
    raise reason or OSError(f"nothing to load in {folder}")


def _left_over(part: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Return those weights that a model's repeated layers have no place for.

    A text encoder may leave out its last layers on purpose, and a UNet's file may hold a LoRA.
    """
    from transformers import PreTrainedModel

    if isinstance(part, PreTrainedModel):
        return []
    modules = part.named_modules()
    lists = tuple(f"{name}." for name, module in modules if isinstance(module, nn.ModuleList))
    return [name for name in unexpected if name.startswith(lists) and ADAPTER not in name.lower()]


def _variants(files: Sequence[str], *, half: bool) -> Sequence[str | None]:
    """Return the available variants of a part's weights, the wanted one first; the usual one if none is seen.

    Asking for a missing one makes diffusers warn of it, and of pickles, on each run.
    """
    available: set[str | None] = set()
    for name in files:
        if name.endswith((".safetensors", ".bin")):
            available.add("fp16" if HALF.search(name) else None)
    order = ("fp16", None) if half else (None, "fp16")
    return [variant for variant in order if variant in available] or [None]


def files_of(path: str, folder: str) -> list[str]:
    """Return the names of a part's files: in a folder, on the hub, or else in the hub's local cache."""
    place = Path(path)
    if is_hub_id(path):
        from huggingface_hub import HfApi, constants

        try:
            if not constants.HF_HUB_OFFLINE:
                reach_hub()
                names = map(PurePosixPath, HfApi().list_repo_files(path))
                return [name.name for name in names if str(name.parent) == (folder or ".")]
        except Exception:  # noqa: BLE001 - whatever the network or a bad id raises means the same
            log.debug("the hub does not list %s", path)
        place = hub_folder(path) or place
    return [file.name for file in (place / folder).glob("*")]
