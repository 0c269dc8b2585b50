"""Keep the encodings of captions without the new word: they never change, so each is computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
MOST_BYTES = 2**30  # kept in memory; an SDXL caption takes 630 kB in float32


class Encoding(NamedTuple):
    """The encoding of one caption: hidden states [T, D], and SDXL's pooled vector [P]."""

    hidden: Tensor
    pooled: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Return what there is of them, by name."""
        if self.pooled is None:
            return {"hidden": self.hidden}
        return {"hidden": self.hidden, "pooled": self.pooled}

    def to(self, device: torch.device) -> Encoding:
        """Return the same on a device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return Encoding(self.hidden.to(device), pooled)


class TextCache:
    """A store of encodings, in memory and, with a folder, on disk. Its tensors are on the CPU."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._encodings: dict[str, Encoding] = {}
        self._bytes = 0
        self._model = ""

    def get(self, family: ModelFamily, parts: Components, caption: str) -> Encoding:
        """Return the encoding of a caption without a new word, computed if it is not stored."""
        encoding = self._encodings.get(caption) or self._load(parts, caption)
        if encoding is None:
            with torch.no_grad():
                made = family.encode(parts, [caption], torch.zeros(1, 6, dtype=torch.int64))
            pooled = None if made.pooled is None else made.pooled[0]
            encoding = Encoding(made.encoder_hidden_states[0], pooled).to(torch.device("cpu"))
            if not all(torch.isfinite(t).all() for t in encoding.tensors().values()):
                return encoding  # half precision overflows; float32 may not
            self._save(parts, caption, encoding)
        if caption not in self._encodings and self._bytes < MOST_BYTES:
            self._encodings[caption] = encoding
            self._bytes += sum(tensor.nbytes for tensor in encoding.tensors().values())
        return encoding

    def _path(self, parts: Components, caption: str) -> Path | None:
        """Return the file of an encoding: named by a digest of everything that shapes it."""
        if self._folder is None:
            return None
        if not self._model:
            self._model = digest_of_text_encoders(parts)
        kind = parts.device.type
        computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "as kept"
        ids = [words.rows(caption, parts.chunks) for words in parts.word_encoders]
        key = repr([FORMAT, self._model, parts.clip_skip, str(computed), ids])
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self._folder / f"{digest}.safetensors"

    def _load(self, parts: Components, caption: str) -> Encoding | None:
        path = self._path(parts, caption)
        if path is None:
            return None
        try:
            content = unpack(read_limited(path), FORMAT)
        except CoinageError:  # missing, not a regular file, or larger than any encoding
            return None
        if isinstance(content, str):
            return None
        tensors, _ = content
        return Encoding(tensors["hidden"], tensors.get("pooled"))

    def _save(self, parts: Components, caption: str, encoding: Encoding) -> None:
        path = self._path(parts, caption)
        if path is None:
            return
        try:
            write_bytes(path, pack(encoding.tensors(), {"format": FORMAT}), sync=False)
        except CoinageError as error:
            self._folder = None  # they are still kept in memory
            log.warning("encodings of captions cannot be saved: %s", error.problems[0].what)


def digest_of_text_encoders(parts: Components) -> str:
    """Return a digest of all text encoders' frozen weights, and of the setting that weights do not show."""
    named = []
    for number, encoder in enumerate(parts.text_encoders):
        named.append((f"{number}.{encoder.config.hidden_act}", torch.empty(0)))
        for name, tensor in encoder.state_dict().items():
            if ".words." not in name:
                named.append((f"{number}.{name}", tensor))
        named.append((f"{number}.table", table_of(encoder)))
    return digest_of_tensors(named)


def encode(
    family: ModelFamily, parts: Components, captions: Sequence[str], sizes: Tensor
) -> Conditioning:
    """Encode captions as `family.encode` does; those without a new word come from the model's cache."""
    cache = parts.text_cache
    if cache is None:
        return family.encode(parts, captions, sizes)
    encodings: dict[int, Encoding] = {}
    with_word = [i for i, text in enumerate(captions) if parts.word_encoders[0].mentions(text)]
    if with_word:
        made = family.encode(parts, [captions[i] for i in with_word], sizes[with_word])
        for place, i in enumerate(with_word):
            pooled = None if made.pooled is None else made.pooled[place]
            encodings[i] = Encoding(made.encoder_hidden_states[place], pooled)
    for i, caption in enumerate(captions):
        if i not in encodings:
            encodings[i] = cache.get(family, parts, caption).to(parts.device)
    in_order = [encodings[i] for i in range(len(captions))]
    hidden = torch.stack([encoding.hidden for encoding in in_order])
    pools = [encoding.pooled for encoding in in_order if encoding.pooled is not None]
    if not pools:
        return Conditioning(hidden)
    return Conditioning(hidden, torch.stack(pools), sizes.to(parts.device))
