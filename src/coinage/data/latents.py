"""Encode images to latent distributions, once or each time they are used."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from coinage.data.batches import Item, PlannedBatch
from coinage.data.buckets import Fit, Size
from coinage.data.images import View, load_view, shrink_rows
from coinage.data.sample import Sample
from coinage.errors import CoinageError, ConfigError, Problem
from coinage.models.vae import in_memory, side_factor, widened
from coinage.seeding import rng_for

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger("coinage")
AHEAD = 3  # batches whose images are read before they are needed
Key = tuple[int, bool]  # index of the sample, mirrored
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Latent:
    """An encoded image.

    Attributes:
        moments: posterior mean and standard deviation, [2, C, h, w] float32 on the CPU, unscaled.
        mask: weight of each latent in the loss, [h, w] float32 in 0..1; None where all count alike.
        fit: how the image was resized and cut.
    """

    moments: Tensor
    mask: Tensor | None
    fit: Fit


class Store(Protocol):
    """Keeps latents between uses; `recomputed` says whose stored latents were not used, and why."""

    recomputed: dict[Path, str]

    def load(self, key: Key) -> Latent | None:
        """Return the latent of a key, if it is there and right."""
        ...

    def save(self, key: Key, latent: Latent) -> None:
        """Keep a latent."""
        ...


class Memory:
    """Latents kept in memory."""

    def __init__(self) -> None:
        self._kept: dict[Key, Latent] = {}
        self.recomputed: dict[Path, str] = {}

    def load(self, key: Key) -> Latent | None:
        return self._kept.get(key)

    def save(self, key: Key, latent: Latent) -> None:
        self._kept[key] = latent

    @property
    def kept(self) -> Mapping[Key, Latent]:
        """All latents by image and mirroring."""
        return self._kept


@torch.no_grad()
def encode(vae: AutoencoderKL, views: Sequence[View], paths: Sequence[object]) -> list[Latent]:
    """Return posterior mean and standard deviation of each image.

    A VAE that overflows computes in a wider precision from then on.

    Raises:
        CoinageError: an image's latents are not finite even in float32.
    """
    batch = torch.from_numpy(np.stack([view.pixels for view in views])).to(vae.device)
    moments = _moments(vae, batch)
    while not torch.isfinite(moments).all() and widened(vae, vae.device):
        moments = _moments(vae, batch)
    latents = []
    for path, values, view in zip(paths, moments, views, strict=True):
        if not torch.isfinite(values).all():
            what = "the VAE makes no finite latents of this image"
            raise CoinageError(what, str(path), "try --no_half_vae or another --vae")
        height, width = values.shape[-2:]
        mask = None if view.mask is None else _averaged(view.mask, width, height)
        latents.append(Latent(values.clone(memory_format=torch.contiguous_format), mask, view.fit))
    return latents


def _moments(vae: AutoencoderKL, batch: Tensor) -> Tensor:
    def encoded() -> Tensor:
        posterior = vae.encode(batch.to(vae.dtype)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1)

    side = max(batch.shape[-2:]) // side_factor(vae)
    return in_memory(vae, encoded, len(batch), side).float().cpu()


def _averaged(
    mask: np.ndarray[tuple[int, ...], np.dtype[np.float32]], width: int, height: int
) -> Tensor:
    """Average a mask [H, W] to the latents' size, as in sd-scripts: the mean of 8x8 blocks."""
    rows = shrink_rows(mask[..., None], height)
    return torch.from_numpy(shrink_rows(rows.transpose(1, 0, 2), width)[..., 0].T.copy())


def read_ahead(
    groups: Iterable[Sequence[T]], read: Callable[[T], R], readers: int
) -> Iterator[list[R]]:
    """Yield the results of `read` for each group; threads work a few groups ahead.

    Args:
        groups: of members.
        read: called with each member.
        readers: threads; 0: no thread, nothing is read ahead.
    """
    if readers == 0:
        for group in groups:
            yield [read(member) for member in group]
        return
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[list[Future[R]]] = deque()
        try:
            for group in groups:
                waiting.append([pool.submit(read, member) for member in group])
                if len(waiting) > AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            for future in chain.from_iterable(waiting):
                future.cancel()


class Latents:
    """Latents of planned batches: from a store, or encoded on the way."""

    def __init__(
        self,
        vae: AutoencoderKL,
        samples: Sequence[Sample],
        readers: int,
        store: Store | None = None,
    ) -> None:
        self._vae, self._samples, self._readers, self._store = vae, samples, readers, store

    @property
    def recomputed(self) -> Mapping[Path, str]:
        """Images whose stored latents were not used, and why."""
        return self._store.recomputed if self._store else {}

    def kept(self) -> Mapping[Key, Latent]:
        """Return the latents in memory; none where they are on disk, which all processes see."""
        return self._store.kept if isinstance(self._store, Memory) else {}

    def keep(self, latents: Mapping[Key, Latent]) -> None:
        """Store latents that another process has encoded."""
        for key, latent in latents.items():
            if isinstance(self._store, Memory):
                self._store.save(key, latent)

    def cache(
        self,
        batch_size: int,
        on_image: Callable[[int], None],
        share: Callable[[Sequence[list[Key]]], Sequence[list[Key]]] = lambda x: x,
    ) -> None:
        """Encode every image, and its mirror image where it is flipped, that the store does not have.

        Images are read and latents written by threads while others are encoded.

        Args:
            batch_size: images per VAE call.
            on_image: gets the number done after each batch.
            share: which of all groups of images this process encodes.

        Raises:
            ConfigError: images that cannot be decoded, all together, after the others are done.
            CoinageError: latents that are not finite, or cannot be written.
        """
        store = self._store
        if store is None:
            return
        failed: dict[Key, CoinageError] = {}

        def read(key: Key) -> View | Latent | None:
            try:
                return store.load(key) or load_view(self._samples[key[0]], flipped=key[1])
            except CoinageError as error:
                failed[key] = error
                return None

        done = 0
        chunks = share(self._chunks(batch_size))
        with ThreadPoolExecutor(1) as writer:
            writes: deque[Future[None]] = deque()
            results = read_ahead(chunks, read, self._readers)
            for chunk, chunk_results in zip(chunks, results, strict=True):
                new = _views_in(chunk, chunk_results)
                for (key, _), latent in zip(new, self._encoded(new), strict=True):
                    writes.append(writer.submit(store.save, key, latent))
                while len(writes) > 4 * batch_size:
                    writes.popleft().result()
                done += len(chunk)
                on_image(done)
            for write in writes:
                write.result()
        if failed:
            problems: list[Problem] = []
            for key in sorted(failed):
                problems += failed[key].problems
            raise ConfigError(problems)

    def _chunks(self, batch_size: int) -> list[list[Key]]:
        """Return every image and its mirror image, in groups of one bucket, small ones first."""
        buckets: dict[Size, list[Key]] = {}
        for index, sample in enumerate(self._samples):
            keys = buckets.setdefault(sample.fit.bucket_wh, [])
            keys.append((index, False))
            if sample.latents > 1:
                keys.append((index, True))
        chunks = []
        for size in sorted(buckets, key=lambda size: (size[0] * size[1], size)):
            keys = buckets[size]
            chunks += [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
        return chunks

    def _encoded(self, views: Sequence[tuple[Key, View]]) -> list[Latent]:
        if not views:
            return []
        paths = [self._samples[index].path for (index, _), _ in views]
        return encode(self._vae, [view for _, view in views], paths)

    def of(self, batches: Sequence[PlannedBatch], seed: int, epoch: int) -> Iterator[list[Latent]]:
        """Yield the latents of each batch, in order.

        Crop and colours of an image that is not cached are drawn from (seed, epoch, position).
        """

        def rng(item: Item) -> np.random.Generator | None:
            vary = self._samples[item.sample].subset.images.vary_pixels
            return rng_for(seed, "image", epoch, item.position) if vary else None

        yield from self._of(batches, rng)

    def still(self, batches: Sequence[PlannedBatch]) -> Iterator[list[Latent]]:
        """Yield the same, every image cut in the middle and in its own colours."""
        yield from self._of(batches, lambda _: None)

    def _of(
        self, batches: Sequence[PlannedBatch], rng: Callable[[Item], np.random.Generator | None]
    ) -> Iterator[list[Latent]]:
        def read(item: Item) -> View | Latent:
            if self._store and (latent := self._store.load((item.sample, item.flipped))):
                return latent
            return load_view(self._samples[item.sample], flipped=item.flipped, rng=rng(item))

        results = read_ahead(batches, read, self._readers)
        for batch, batch_results in zip(batches, results, strict=True):
            keys = [(item.sample, item.flipped) for item in batch]
            encoded = iter(self._encoded(_views_in(keys, batch_results)))
            latents = []
            for result in batch_results:
                latents.append(result if isinstance(result, Latent) else next(encoded))
            yield latents


def _views_in(
    keys: Sequence[Key], results: Sequence[View | Latent | None]
) -> list[tuple[Key, View]]:
    """Return the images that are to be encoded, with their keys."""
    views = []
    for key, result in zip(keys, results, strict=True):
        if isinstance(result, View):
            views.append((key, result))
    return views
