"""Keep latents on disk, one file per image, for the same image, cut, VAE and precision."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from coinage.data.latents import Key, Latent
from coinage.data.sample import LATENTS, Sample
from coinage.errors import CoinageError
from coinage.system.files import write_bytes
from coinage.system.tensor_files import digest_of_tensors, pack, unpack
from coinage.system.text_files import MEGABYTE, read_limited

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

FORMAT = "coinage latents 1"
# Bytes that are read of a file; a VAE that makes nothing smaller writes 36
MOST_PER_PIXEL = 64
LONGEST_NAME = 120  # bytes of an image's name in its file's name; file systems allow 255 in all


class DiskCache:
    """A store of latents in files.

    A file's name holds a key of everything that shapes the latents but the image's content. The
    content is checked by time and size, and by its digest where those differ. A file that is
    broken, of another image or of another program counts as missing, and `recomputed` says why.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        vae: AutoencoderKL,
        folder: Path | None,
        *,
        trust: bool = False,
    ) -> None:
        self._samples, self._folder, self._trust = samples, folder, trust
        self._vae = f"{digest_of_tensors(vae.state_dict().items())} {vae.dtype}"
        self._scale = 2 ** (len(vae.config.block_out_channels) - 1)
        self._lock = Lock()
        self.recomputed: dict[Path, str] = {}  # image: why its file was not used

    def path_for(self, key: Key) -> Path:
        """Return where a latent is kept: beside its image, or in a folder per image folder."""
        sample, flipped = self._samples[key[0]], key[1]
        rules, fit = sample.subset.images, sample.fit
        mask = sample.mask.name if sample.mask else ""
        parts = [
            sample.path.name,
            mask,
            fit,
            flipped,
            rules.interpolation,
            rules.alpha_mask,
            rules.background,
            rules.as_reference,
            self._vae,
            # Earlier versions overlooked some orientations: what they kept of squares lies on its side.
            *(["turned"] if sample.rotated else []),
        ]
        digest = hashlib.blake2b(repr([FORMAT, *parts]).encode(), digest_size=8).hexdigest()
        # The digest has the whole name
        stem = sample.path.name.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")
        name = f"{stem}_{fit.bucket_wh[0]}x{fit.bucket_wh[1]}_{digest}.safetensors"
        parent = sample.path.parent
        if self._folder is None:
            return parent / LATENTS / name
        place = hashlib.blake2b(os.fsencode(parent.resolve()), digest_size=4).hexdigest()
        return self._folder / f"{parent.resolve().name}-{place}" / name

    def load(self, key: Key) -> Latent | None:
        path, sample = self.path_for(key), self._samples[key[0]]
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a folder may not be read
            return None
        try:
            width, height = sample.fit.bucket_wh
            data = read_limited(path, most=MEGABYTE + MOST_PER_PIXEL * width * height)
        except CoinageError:  # a device, or far larger than any latent of ours
            data = b""
        latent = self._parse(data, sample)
        if isinstance(latent, Latent):
            return latent
        with self._lock:
            self.recomputed[sample.path] = latent
        return None

    def _parse(self, data: bytes, sample: Sample) -> Latent | str:
        """Return the latent in a file's bytes, or why it cannot be used."""
        contents = unpack(data, FORMAT)
        if isinstance(contents, str):
            return contents
        tensors, about = contents
        width, height = sample.fit.bucket_wh
        if "moments" not in tensors:
            return "the file is not ours"
        shape = tensors["moments"].shape
        if len(shape) != 4 or shape[2:] != (height // self._scale, width // self._scale):
            return "the file is broken"
        try:
            same = self._trust or _same_content(sample, about)
        except OSError:
            return "the image cannot be read"
        if not same:
            return "the image has changed"
        return Latent(tensors["moments"], tensors.get("mask"), sample.fit)

    def save(self, key: Key, latent: Latent) -> None:
        sample = self._samples[key[0]]
        tensors = {"moments": latent.moments}
        if latent.mask is not None:
            tensors["mask"] = latent.mask
        about = {"format": FORMAT, "stamp": _stamp(sample), "content": _content(sample)}
        path = self.path_for(key)
        try:
            write_bytes(path, pack(tensors, about), sync=False)
        except CoinageError as error:
            hint = "free some space, name a folder with --cache_dir"
            hint += ", or use --cache_latents to keep them in memory"
            what = f"cannot keep latents: {error.problems[0].what}"
            raise CoinageError(what, str(path), hint) from error


def _files(sample: Sample) -> list[Path]:
    return [sample.path, *([sample.mask] if sample.mask else [])]


def _stamp(sample: Sample) -> str:
    """Return time and size of the image and its mask."""
    stats = [path.stat() for path in _files(sample)]
    return " ".join(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in stats)


def _content(sample: Sample) -> str:
    """Return a digest of the bytes of the image and its mask."""
    digest = hashlib.blake2b(digest_size=16)
    for path in _files(sample):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _same_content(sample: Sample, about: dict[str, str]) -> bool:
    return about.get("stamp") == _stamp(sample) or about.get("content") == _content(sample)
