"""A VAE at work: where it is, in which precision, and on how much of a picture at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from coinage.system.full_memory import tried

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger("coinage")
LARGEST_TILE = 64  # latents along a side, 512 pixels; what the VAE of Stable Diffusion was made for
T = TypeVar("T")


def side_factor(vae: AutoencoderKL) -> int:
    """Return how many pixels along a side one latent stands for."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def wider(device: torch.device) -> torch.dtype:
    """Return the fastest dtype with the range of float32 that a device computes in."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def widened(vae: AutoencoderKL, device: torch.device) -> bool:
    """Have a VAE that overflows compute in a wider precision from now on; False if there is none.

    Args:
        vae: the VAE.
        device: on which it computes, where it may not be at the moment.
    """
    narrow = vae.dtype
    if narrow == torch.float32:
        return False
    wide = wider(device) if narrow == torch.float16 else torch.float32
    torch.nn.Module.to(vae, dtype=wide)
    text = "note: the VAE overflows in %s: it computes in %s from now on"
    log.info(text, *(str(dtype).removeprefix("torch.") for dtype in (narrow, wide)))
    return True


@contextmanager
def placed(vae: AutoencoderKL, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Put a VAE on a device and in a dtype for a while."""
    home = vae.device, vae.dtype
    # diffusers' own warns each time of parts that no VAE has
    move = partial(torch.nn.Module.to, vae)
    if home != (device, dtype):
        move(device, dtype)
    try:
        yield
    finally:
        if home != (device, dtype):
            move(*home)


def in_memory(
    vae: AutoencoderKL, work: Callable[[], T], count: int, side: int, *, sparing: bool = False
) -> T:
    """Return what a VAE makes of pictures that may not fit in the GPU's memory.

    They are tried as they are, then one by one, then in tiles.

    Args:
        vae: the VAE.
        work: calls it; called again where memory was full, when everything from the failed attempt
            is gone.
        count: pictures that it works on.
        side: the longer one of a picture, in latents.
        sparing: begin with tiles, where a picture is larger than one.

    Raises:
        RuntimeError: the memory is full even so.
    """
    result = None
    sparing = sparing and side > LARGEST_TILE
    if not sparing:
        result = tried(work)
    if result is None and count > 1 and not sparing:
        with _one_by_one(vae):
            result = tried(work)
    if result is None:
        with _one_by_one(vae) if count > 1 else nullcontext(), tiled(vae, side):
            result = work()
    return result


@contextmanager
def _one_by_one(vae: AutoencoderKL) -> Iterator[None]:
    """Let a VAE work on one picture of a batch after the other, which does not change them."""
    before = vae.use_slicing
    vae.use_slicing = True
    try:
        yield
    finally:
        vae.use_slicing = before


@contextmanager
def tiled(vae: AutoencoderKL, side: int) -> Iterator[None]:
    """Let a VAE work on overlapping parts of a picture.

    diffusers does so only for pictures larger than a tile, and its tiles are as large as the
    pictures that a model was made for.

    Args:
        vae: the VAE.
        side: the longer one of a picture, in latents; a tile has half of it, and at most `LARGEST_TILE`.
    """
    names = ("use_tiling", "tile_latent_min_size", "tile_sample_min_size")
    before = [getattr(vae, name) for name in names]
    # Tiles overlap by a quarter, which must be whole latents
    tile = max(4, min(LARGEST_TILE, side // 2) // 4 * 4)
    pixels = tile * side_factor(vae)
    try:
        for name, value in zip(names, (True, tile, pixels), strict=True):
            setattr(vae, name, value)
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(vae, name, value)
