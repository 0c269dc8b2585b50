"""Encodings of captions without the new word: they never change, so each is computed once and kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from coinage.errors import CoinageError
from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.token_embedding import table_of
from coinage.system.files import write_bytes
from coinage.system.tensor_files import digest_of_tensors, pack, unpack
from coinage.system.text_files import read_limited

log = logging.getLogger("coinage")
FORMAT = "coinage text 1"
FOLDER = Path(".coinage") / "text"
MOST = 2**30  # bytes kept in memory; an SDXL caption takes 630 kB in float32
# Hidden states [T, D] and pooled [P] of one caption, on the CPU
Encoding = tuple[Tensor, Tensor | None]


class TextCache:
    """A store of encodings, in memory and, with a folder, on disk."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[str, Encoding] = {}
        self._size = 0
        self._model = ""

    def get(self, family: ModelFamily, parts: Components, caption: str) -> Encoding:
        """The encoding of a caption without a new word."""
        found = self._kept.get(caption) or self._load(parts, caption)
        if found is None:
            with torch.no_grad():
                made = family.encode(parts, [caption], torch.zeros(1, 6, dtype=torch.int64))
            found = (
                made.encoder_hidden_states[0].cpu(),
                None if made.pooled is None else made.pooled[0].cpu(),
            )
            if not all(torch.isfinite(tensor).all() for tensor in found if tensor is not None):
                return found  # half precision overflows; float32 may not
            self._save(parts, caption, found)
        if caption not in self._kept and self._size < MOST:
            self._kept[caption] = found
            self._size += sum(
                tensor.numel() * tensor.element_size() for tensor in found if tensor is not None
            )
        return found

    def _path(self, parts: Components, caption: str) -> Path | None:
        """Where an encoding is kept: under a key of all that shapes it."""
        if self._folder is None:
            return None
        if not self._model:
            self._model = digest_of_text_encoders(parts)
        kind = parts.device.type
        computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "as kept"
        ids = [words.rows(caption, parts.chunks) for words in parts.word_encoders]
        key = repr([FORMAT, self._model, parts.clip_skip, str(computed), ids])
        return (
            self._folder
            / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"
        )

    def _load(self, parts: Components, caption: str) -> Encoding | None:
        path = self._path(parts, caption)
        try:
            found = unpack(read_limited(path), FORMAT) if path else ""
        except CoinageError:  # missing, not a regular file, or larger than any encoding
            return None
        if isinstance(found, str):
            return None
        tensors, _ = found
        return tensors["hidden"], tensors.get("pooled")

    def _save(self, parts: Components, caption: str, encoding: Encoding) -> None:
        path = self._path(parts, caption)
        if path is None:
            return
        hidden, pooled = encoding
        try:
            write_bytes(
                path,
                pack(
                    {"hidden": hidden} | ({} if pooled is None else {"pooled": pooled}),
                    {"format": FORMAT},
                ),
                sync=False,
            )
        except CoinageError as error:
            self._folder = None  # they are still kept in memory
            log.warning("encodings of captions are not kept on disk: %s", error.problems[0].what)


def digest_of_text_encoders(parts: Components) -> str:
    """A digest of the frozen weights of all text encoders, and of the one setting that weights do not tell."""
    named = []
    for number, encoder in enumerate(parts.text_encoders):
        named.append((f"{number}.{encoder.config.hidden_act}", torch.empty(0)))
        named += [
            (f"{number}.{name}", tensor)
            for name, tensor in encoder.state_dict().items()
            if ".words." not in name
        ]
        named.append((f"{number}.table", table_of(encoder)))
    return digest_of_tensors(named)


def encode(
    family: ModelFamily, parts: Components, captions: Sequence[str], sizes: Tensor
) -> Conditioning:
    """As `family.encode`; captions without a new word are taken from what is kept, where anything is."""
    store = parts.text_cache
    if store is None:
        return family.encode(parts, captions, sizes)
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    live = [i for i, caption in enumerate(captions) if parts.word_encoders[0].mentions(caption)]
    if live:
        made = family.encode(parts, [captions[i] for i in live], sizes[live])
        pooled = [None] * len(live) if made.pooled is None else made.pooled.unbind()
        found = dict(zip(live, zip(made.encoder_hidden_states, pooled, strict=True), strict=True))
    for i in set(range(len(captions))) - set(live):
        hidden, own = store.get(family, parts, captions[i])
        found[i] = hidden.to(parts.device), None if own is None else own.to(parts.device)
    rows = [found[i] for i in range(len(captions))]
    pools = [own for _, own in rows if own is not None]
    states = torch.stack([hidden for hidden, _ in rows])
    return (
        Conditioning(states, torch.stack(pools), sizes.to(parts.device))
        if pools
        else Conditioning(states)
    )
