"""Images to latent distributions, encoded once or each time they are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from coinage.data.batches import PlannedBatch
from coinage.data.images import Floats, load_pixels
from coinage.data.scan import Sample
from coinage.errors import CoinageError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Moments = Tensor  # [2, C, h, w] float32 on the CPU: posterior mean and standard deviation, unscaled
AHEAD = 3  # batches whose images are read before they are needed


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Sequence[Floats], paths: Sequence[object]) -> list[Moments]:
    """Posterior mean and standard deviation of each image, retried in float32 if not finite.

    Raises:
        CoinageError: an image's latents are not finite even in float32.
    """
    batch = torch.from_numpy(np.stack(pixels)).to(vae.device)
    moments = _moments(vae, batch)
    if not torch.isfinite(moments).all() and vae.dtype != torch.float32:
        dtype = vae.dtype
        moments = _moments(vae.to(torch.float32), batch)
        vae.to(dtype)
    for path, values in zip(paths, moments, strict=True):
        if not torch.isfinite(values).all():
            raise CoinageError("the VAE makes no finite latents of this image", str(path), "try --no_half_vae or another --vae")
    return list(moments)


def _moments(vae: AutoencoderKL, batch: Tensor) -> Tensor:
    posterior = vae.encode(batch.to(vae.dtype)).latent_dist
    return torch.stack([posterior.mean, posterior.std], dim=1).float().cpu()


def cache(
    vae: AutoencoderKL, samples: Sequence[Sample], batch_size: int, readers: int, on_image: Callable[[int], None]
) -> dict[tuple[int, bool], Moments]:
    """Latents of every image, and of its mirror image where it is flipped, by (sample, flipped).

    Images are read by threads while others are encoded. `on_image` gets the number done after each batch.
    """
    wanted = [(i, False) for i in range(len(samples))]
    wanted += [(i, True) for i, sample in enumerate(samples) if sample.subset.flip]
    wanted.sort(key=lambda key: (samples[key[0]].fit.bucket_wh, key))
    chunks: list[list[tuple[int, bool]]] = []
    for key in wanted:
        same = chunks and samples[chunks[-1][0][0]].fit.bucket_wh == samples[key[0]].fit.bucket_wh
        if same and len(chunks[-1]) < batch_size:
            chunks[-1].append(key)
        else:
            chunks.append([key])
    store: dict[tuple[int, bool], Moments] = {}
    for chunk, pixels in zip(chunks, _read_ahead(chunks, samples, readers), strict=True):
        moments = encode(vae, pixels, [samples[i].path for i, _ in chunk])
        store.update(zip(chunk, moments, strict=True))
        on_image(len(store))
    return store


def _read_ahead(chunks: Iterable[Sequence[tuple[int, bool]]], samples: Sequence[Sample], readers: int) -> Iterator[list[Floats]]:
    """The pixels of each chunk, read by threads a few chunks before they are asked for."""
    if readers == 0:
        for chunk in chunks:
            yield [load_pixels(samples[i], flipped=flipped) for i, flipped in chunk]
        return
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[list[Future[Floats]]] = deque()
        for chunk in chunks:
            waiting.append([pool.submit(load_pixels, samples[i], flipped=flipped) for i, flipped in chunk])
            if len(waiting) > AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]


class Latents:
    """Latent moments of planned batches: from the cache, or encoded on the way."""

    def __init__(self, vae: AutoencoderKL, samples: Sequence[Sample], readers: int) -> None:
        self._vae, self._samples, self._readers = vae, samples, readers
        self._store: dict[tuple[int, bool], Moments] = {}

    def cache(self, batch_size: int, on_image: Callable[[int], None]) -> None:
        """Encode every image now."""
        self._store = cache(self._vae, self._samples, batch_size, self._readers, on_image)

    def of(self, batches: Sequence[PlannedBatch]) -> Iterator[Tensor]:
        """[B, 2, C, h, w] float32 moments of each batch, in order."""
        keys = [[(item.sample, item.flipped) for item in batch] for batch in batches]
        if self._store:
            yield from (torch.stack([self._store[key] for key in batch]) for batch in keys)
            return
        for batch, pixels in zip(keys, _read_ahead(keys, self._samples, self._readers), strict=True):
            yield torch.stack(encode(self._vae, pixels, [self._samples[i].path for i, _ in batch]))
