"""Models on the Hugging Face hub: their settings in the local cache, downloaded if they are missing.

Imports no torch.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from coinage.errors import CoinageError
from coinage.models.detect import kind_of_file, kind_of_folder, read_config
from coinage.models.facts import FACTS
from coinage.system.text_files import is_file, is_folder, is_there

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MOST_BLOCKS = 16  # of a VAE; larger numbers in its settings are nonsense
MOST_LATENTS = 2**16  # along a side
LEAST_SIDE, MOST_SIDE = 64, 2**16  # of a picture, pixels


def reach_hub() -> None:
    """Fail at once without a network, where the hub's own library tries again and again.

    Behind a proxy nothing is checked: the proxy resolves names.

    Raises:
        OSError: the hub's host is not known.
    """
    from huggingface_hub import constants

    if not getproxies():
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)


def is_hub_id(source: str) -> bool:
    """Return whether a model's source names a repository on the hub: nothing here is called so."""
    return HUB_ID.fullmatch(source) is not None and not is_there(Path(source))


def hub_folder(hub_id: str) -> Path | None:
    """Return the folder of a hub id in the local cache; None when it is out of reach.

    The settings of the denoiser, the text encoders and the VAE, which show family and size, are
    downloaded if they are missing.
    """
    for denoiser in dict.fromkeys(facts.denoiser for facts in FACTS.values()):
        path = _settings_file(hub_id, f"{denoiser}/config.json")
        if path is not None:
            for part in dict.fromkeys(_parts_beside(denoiser)):
                _settings_file(hub_id, f"{part}/config.json")
            return path.parents[1]
    return None


def _parts_beside(denoiser: str) -> Iterator[str]:
    """Yield the folders of text encoders and VAE that models with a denoiser may have."""
    for facts in FACTS.values():
        if facts.denoiser == denoiser:
            yield from (encoder.folder for encoder in facts.text_encoders)
    yield "vae"


def _settings_file(hub_id: str, name: str) -> Path | None:
    """Return a file of a hub repository in the local cache, downloaded if it is missing."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, name)
    if not isinstance(path, str) and not constants.HF_HUB_OFFLINE:
        try:
            reach_hub()
            path = hf_hub_download(hub_id, name)
        except Exception:  # noqa: BLE001 - whatever the network raises means the same
            return None
    return Path(path) if isinstance(path, str) else None


def local_path(source: str) -> Path:
    """Return a model's file or folder here: of a hub id the cached folder, if there is one."""
    if is_hub_id(source):
        return hub_folder(source) or Path(source)
    return Path(source)


def detect_family(source: str) -> str | None:
    """Return the family of a folder, a safetensors file or a hub id; None if it cannot be detected."""
    path = local_path(source)
    try:
        if is_folder(path):
            return kind_of_folder(path).family
        kind = kind_of_file(path) if is_file(path) else None
    except (CoinageError, OSError):
        return None
    return kind.family if kind else None


def native_side(source: str) -> int | None:
    """Return the side in pixels that a model is made for; None if its family cannot be detected.

    A folder's settings say so: those of the denoiser, or of the VAE where the denoiser takes tokens and
    has no size of its own. Otherwise it is the family's.
    """
    family = detect_family(source)
    if family is None:
        return None
    path = local_path(source)
    facts = FACTS[family]
    found = None
    if is_folder(path):
        found = _side_of_vae(path) if facts.packs else _side_of_folder(path)
    return found or facts.side


def _side_of_vae(folder: Path) -> int | None:
    """Return the side that a VAE's settings name, in pixels; None of what is no picture's.

    Settings that were written without a side have diffusers' own, 32.
    """
    side = read_config(folder / "vae" / "config.json").get("sample_size")
    return side if isinstance(side, int) and LEAST_SIDE <= side < MOST_SIDE else None


def _side_of_folder(folder: Path) -> int | None:
    """Return the side that a folder's settings name, in pixels; None if they make no sense."""
    names = dict.fromkeys(facts.denoiser for facts in FACTS.values())
    found = [read_config(folder / name / "config.json").get("sample_size") for name in names]
    latents: Any = next((side for side in found if side is not None), None)
    blocks: Any = read_config(folder / "vae" / "config.json").get("block_out_channels")
    if not isinstance(latents, int) or not 0 < latents < MOST_LATENTS:
        return None
    if not isinstance(blocks, list) or not 0 < len(blocks) < MOST_BLOCKS:
        return None
    return latents * int(2 ** (len(blocks) - 1))
