"""What a model file or folder holds, told from names and shapes alone. Imports no torch."""

from __future__ import annotations

import io
import json
import pickletools
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from coinage.errors import CoinageError, Problem
from coinage.system.text_files import MEGABYTE, is_file, is_folder, is_there, read_json

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LONGEST_NAME = 300  # characters of a tensor's name
# Of a safetensors file, that of SDXL has half of one; a long header of many small values takes far more memory
MOST_HEADER = 16 * MEGABYTE
MOST_PICKLE = 100 * MEGABYTE  # whose texts are looked through
MOST_SETTINGS = MEGABYTE  # of one part of a model, which has a few kB
LARGEST = 2**63  # no size or place in a file is larger
SIDES = {"sd1": 512, "sd2": 768, "sdxl": 1024}  # pixels
FAMILY_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}
UNET, VAE = "model.diffusion_model.", "first_stage_model."
PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")
SETTINGS = (*(f"{part}/config.json" for part in PARTS), "scheduler/scheduler_config.json")
CONFIGS = Path(__file__).parent / "configs"  # settings of the released models
UNREADABLE, AGAIN = "the model's settings cannot be read", "download the model again"
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"


@dataclass(frozen=True, slots=True)
class Kind:
    """A model's family, or why it cannot be trained on."""

    family: str | None  # sd1, sd2 or sdxl
    why_not: str = ""

    @property
    def name(self) -> str:
        """The family in words."""
        return FAMILY_NAMES.get(self.family or "", "")


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a safetensors file, from its header.

    Raises:
        CoinageError: no safetensors file, or a truncated one.
    """
    return {name: shape for name, (shape, _, _) in safetensors_places(path).items()}


def safetensors_places(path: Path) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Shape, start and end in bytes of every tensor in a safetensors file, from its header.

    Raises:
        CoinageError: no safetensors file, or a truncated one.
    """
    hint = "download the file again"
    size = path.stat().st_size
    header, body = _header(path, size)
    try:
        places = {
            name: (
                tuple(map(_size, entry["shape"])),
                body + _size(entry["data_offsets"][0]),
                body + _size(entry["data_offsets"][1]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        raise CoinageError(
            "no safetensors file: its header cannot be read", str(path), hint
        ) from None
    end = max((place[2] for place in places.values()), default=body)
    if end != size:
        raise CoinageError(f"the file is truncated: {size} of {end} bytes", str(path), hint)
    return places


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return what a safetensors file's header says beside the tensors; {} where it says nothing.

    Raises:
        CoinageError: no safetensors file, or a truncated one.
    """
    told = _header(path, path.stat().st_size)[0].get("__metadata__")
    return (
        {key: value for key, value in told.items() if isinstance(value, str)}
        if isinstance(told, dict)
        else {}
    )


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its tensors begin, in bytes."""
    hint = "download the file again"
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if start[:1] == b"<":
            raise CoinageError(
                "this is a web page, not a model",
                str(path),
                "download the file itself, not its page",
            )
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise CoinageError("no safetensors file, or a truncated one", str(path), hint)
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise CoinageError("no safetensors file: its header cannot be read", str(path), hint)
    return header, 8 + length


def _size(value: Any) -> int:
    """A whole number of a header.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not 0 <= value < LARGEST:
        raise ValueError("no size")
    return value


def wrong_kind(kind: Kind, wanted: str, source: str) -> Problem:
    """That a model is of another kind than the command is for, and which command is for it."""
    if kind.family is None:
        return Problem(f"this is {kind.why_not}", source, f"give a {FAMILY_NAMES[wanted]} model")
    hints = {
        "sd1": "use train_textual_inversion.py without --v2",
        "sd2": "use train_textual_inversion.py with --v2",
    }
    hint = hints.get(kind.family, "use sdxl_train_textual_inversion.py")
    what = f"this is a {kind.name} model, and the command is for {FAMILY_NAMES[wanted]}"
    return Problem(what, source, f"{hint}, or coinage train, which sees what the model is")


def kind_of_file(path: Path, *, own_vae: bool = True) -> Kind | None:
    """What a single file holds; None for a pickle that does not tell before it is loaded.

    Raises:
        CoinageError: neither a safetensors file nor a pickle, or a broken one.
    """
    if path.suffix.lower() == ".safetensors":
        return kind_of_checkpoint(safetensors_shapes(path), own_vae=own_vae)
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"<":
        raise CoinageError(
            "this is a web page, not a model", str(path), "download the file itself, not its page"
        )
    if not start.startswith((b"PK", b"\x80")):  # a zip archive, or a bare pickle
        raise CoinageError("no model file", str(path), "give a .safetensors or .ckpt file")
    names = pickled_names(path)
    # Shapes are not told: whether the UNet has another number of input channels is seen when it is loaded.
    return (
        kind_of_checkpoint(dict.fromkeys(names, (0, 4)), own_vae=own_vae)
        if _has(dict.fromkeys(names, ()), UNET)
        else None
    )


def pickled_names(path: Path) -> set[str]:
    """All short texts in a pickle, names of tensors among them, read without running it; empty when it cannot be read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                if archive.getinfo(member).file_size > MOST_PICKLE:
                    return set()
                return _texts(io.BytesIO(archive.read(member)), 1)
        # Before 2020: a magic number, a version, the system, then the table, in one pickle each
        with path.open("rb") as file:
            return _texts(file, 4)
    except (OSError, ValueError, StopIteration, RuntimeError, zipfile.BadZipFile, zlib.error):
        return set()


def _texts(stream: IO[bytes], pickles: int) -> set[str]:
    found: set[str] = set()
    for _ in range(pickles):
        found |= {
            arg
            for _, arg, _ in pickletools.genops(stream)
            if isinstance(arg, str) and len(arg) < LONGEST_NAME
        }
    return found


def kind_of_checkpoint(shapes: Mapping[str, tuple[int, ...]], *, own_vae: bool = True) -> Kind:
    """What a single file in an original layout holds; without `own_vae` it may lack a VAE."""
    channels = shapes.get(FIRST_CONV, (0, 4))[1]
    why_not = {
        "a LoRA, not a model": _has(shapes, "lora_") or any(".lora." in name for name in shapes),
        "a diffusers UNet alone: give its folder with model_index.json": _has(
            shapes, "down_blocks.", "unet.down_blocks."
        ),
        "no Stable Diffusion model: it has no UNet": not _has(shapes, UNET),
        f"an inpainting or other special model: its UNet has {channels} input channels": channels
        != 4,
        "an EDM model, whose noise schedule is another (its file has edm_ tensors)": _has(
            shapes, "edm_"
        ),
        "an SDXL refiner, which is not made for this": _has(shapes, "conditioner.")
        and not _has(shapes, "conditioner.embedders.1."),
        "a model without VAE: add --vae": own_vae and not _has(shapes, VAE),
    }
    families = {
        "sdxl": "conditioner.embedders.1.",
        "sd2": "cond_stage_model.model.",
        "sd1": "cond_stage_model.transformer.",
    }
    reason = next((text for text, holds in why_not.items() if holds), "")
    family = next((name for name, prefix in families.items() if _has(shapes, prefix)), None)
    return (
        Kind(None, reason or "a UNet without text encoder")
        if reason or family is None
        else Kind(family)
    )


def _has(shapes: Mapping[str, tuple[int, ...]], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in shapes)


def kind_of_folder(folder: Path) -> Kind:
    """What a diffusers folder holds.

    Raises:
        CoinageError: the settings of a part cannot be read.
    """
    for file in SETTINGS:
        _check_kinds(folder / file, read_config(folder / file), _usual_kinds(file))
    unet = read_config(folder / "unet" / "config.json")
    channels = unet.get("in_channels", 4)
    if type(channels) is not int:
        raise CoinageError(UNREADABLE, str(folder / "unet" / "config.json"), AGAIN)
    if channels != 4:
        return Kind(
            None, f"an inpainting or other special model: its UNet has {channels} input channels"
        )
    if (folder / "text_encoder_2").is_dir() or unet.get("addition_embed_type") == "text_time":
        return (
            Kind("sdxl")
            if (folder / "text_encoder").is_dir()
            else Kind(None, "an SDXL refiner, which is not made for this")
        )
    text = read_config(folder / "text_encoder" / "config.json")
    # SD 2.x has OpenCLIP's encoder, which is told by its activation; the widths are for models with settings missing.
    wide = unet.get("cross_attention_dim") == 1024
    return Kind(
        "sd2" if text.get("hidden_act", "gelu" if wide else "quick_gelu") == "gelu" else "sd1"
    )


@cache
def _usual_kinds(file: str) -> Mapping[str, frozenset[str]]:
    """The kinds of value that a part's settings have in the released models, by name."""
    found: dict[str, frozenset[str]] = {}
    for family in FAMILY_NAMES:
        for name, value in read_config(CONFIGS / family / file).items():
            found[name] = found.get(name, frozenset()) | _kinds_in(value)
    return found


def _kinds_in(value: Any) -> frozenset[str]:
    """The kinds of a setting's values: a list has those of its entries, since a model may have one for each of its levels."""
    if isinstance(value, list):
        return frozenset[str]().union(*map(_kinds_in, value))
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        dict: "a table",
    }
    return frozenset({kinds[type(value)]} if value is not None else ())


def _check_kinds(
    path: Path, settings: Mapping[str, Any], usual: Mapping[str, frozenset[str]]
) -> None:
    """See that settings are of the kinds that they have in the released models; the libraries would fail on others while drawing.

    Raises:
        CoinageError: one is not.
    """
    for name, value in settings.items():
        known = usual.get(name)
        if known and not _kinds_in(value) <= known:
            raise CoinageError(
                f"{UNREADABLE}: `{name}` is not {' or '.join(sorted(known))}", str(path), AGAIN
            )


def reach_hub() -> None:
    """Fail at once without a network, where the hub's own library tries again and again; behind a proxy, that is left to the proxy.

    Raises:
        OSError: the hub's host is not known.
    """
    from huggingface_hub import constants

    if not getproxies():
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)


def hub_folder(hub_id: str) -> Path | None:
    """The folder of a hub id in the local cache, where the settings that tell its family and size are brought; None when out of reach."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    folder: Path | None = None
    for part in ("unet", "text_encoder", "vae"):
        found = try_to_load_from_cache(hub_id, f"{part}/config.json")
        if not isinstance(found, str) and not constants.HF_HUB_OFFLINE:
            try:
                reach_hub()
                found = hf_hub_download(hub_id, f"{part}/config.json")
            except Exception:  # noqa: BLE001 - whatever the network raises means the same
                found = None
        if isinstance(found, str):
            folder = Path(found).parents[1]
    return folder if folder and (folder / "unet" / "config.json").is_file() else None


def told_family(source: str) -> str | None:
    """The family of a folder, a safetensors file or a cached hub id; None when it cannot be told."""
    path = Path(source)
    if not is_there(path) and HUB_ID.fullmatch(source):
        path = hub_folder(source) or path
    try:
        kind = (
            kind_of_folder(path)
            if is_folder(path)
            else kind_of_file(path)
            if is_file(path)
            else None
        )
    except (CoinageError, OSError):
        return None
    return kind.family if kind else None


def own_side(source: str) -> int | None:
    """The side in pixels that a model is made for, from a folder's settings or a family's size; None when it cannot be told."""
    family = told_family(source)
    if family is None:
        return None
    path = Path(source)
    folder = (
        path
        if is_folder(path)
        else hub_folder(source)
        if HUB_ID.fullmatch(source) and not is_there(path)
        else None
    )
    unet, vae = (
        read_config(folder / part / "config.json") if folder else {} for part in ("unet", "vae")
    )
    latents, blocks = unet.get("sample_size"), vae.get("block_out_channels")
    if (
        isinstance(latents, int)
        and isinstance(blocks, list)
        and 0 < latents < 2**16
        and 0 < len(blocks) < 16
    ):
        return latents * int(2 ** (len(blocks) - 1))
    return SIDES[family]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON settings file; {} when it is not there.

    Raises:
        CoinageError: the file is broken.
    """
    if not is_there(path):
        return {}
    try:
        data = read_json(path, most=MOST_SETTINGS)
    except CoinageError as error:
        raise CoinageError(f"{UNREADABLE}: {error.problems[0].what}", str(path), AGAIN) from None
    if not isinstance(data, dict):
        raise CoinageError(f"{UNREADABLE}: they are not a table", str(path), AGAIN)
    return data
