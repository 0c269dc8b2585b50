"""Keep the encodings of captions without the new word: they never change, so each is computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        config = encoder.config
        act = getattr(config, "hidden_act", None) or config.feed_forward_proj  # the latter T5's
        named.append((f"{number}.{act}", torch.empty(0)))
        for name, tensor in encoder.state_dict().items():
            if ".words." not in name:
                named.append((f"{number}.{name}", tensor))
        named.append((f"{number}.table", table_of(encoder)))
    return digest_of_tensors(named)


@dataclass(frozen=True, slots=True)
class TextInputs:
    """What B captions are encoded from: ids of some, kept encodings of the others; on one device.

    Attributes:
        sizes: [B, 6] as `Conditioning.time_ids`.
        ids: of the E captions that are to be encoded, [E * chunks, 77] int64 for each text encoder.
        kept: hidden states of the K others, [K, T, D]; None without any.
        kept_pooled: their pooled vectors, [K, P], SDXL only.
        order: place of each caption in the E encoded ones with the K others behind them, [B] int64;
            None where nothing is kept.
    """

    sizes: Tensor
    ids: tuple[Tensor, ...] = ()
    kept: Tensor | None = None
    kept_pooled: Tensor | None = None
    order: Tensor | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TextInputs:
        """Return inputs whose tensors are what `change` makes of these, in a fixed order."""
        return TextInputs(
            sizes=change(self.sizes),
            ids=tuple(change(ids) for ids in self.ids),
            kept=None if self.kept is None else change(self.kept),
            kept_pooled=None if self.kept_pooled is None else change(self.kept_pooled),
            order=None if self.order is None else change(self.order),
        )


def look_up(
    family: ModelFamily, parts: Components, captions: Sequence[str], sizes: Tensor
) -> TextInputs:
    """Return what captions are encoded from, on the CPU.

    Captions without a new word come from the model's cache, if it has one; those that it does not
    hold are encoded here.
    """
    cache, words = parts.text_cache, parts.word_encoders
    encoded = list(range(len(captions)))
    if cache is not None:
        encoded = [i for i in encoded if words[0].mentions(captions[i])]
    ids: tuple[Tensor, ...] = ()
    if encoded:
        ids = parts.token_ids([captions[i] for i in encoded])
    if cache is None or len(encoded) == len(captions):
        return TextInputs(sizes, ids)
    others = sorted(set(range(len(captions))) - set(encoded))
    kept = [cache.get(family, parts, captions[i]) for i in others]
    pools = [encoding.pooled for encoding in kept if encoding.pooled is not None]
    return TextInputs(
        sizes=sizes,
        ids=ids,
        kept=torch.stack([encoding.hidden for encoding in kept]),
        kept_pooled=torch.stack(pools) if pools else None,
        order=torch.tensor([*encoded, *others]).argsort(),
    )


def encode_inputs(family: ModelFamily, parts: Components, inputs: TextInputs) -> Conditioning:
    """Encode what `look_up` has found, on the device; gradients flow to the rows."""
    if inputs.kept is None or inputs.order is None:
        return family.encode_ids(parts, inputs.ids, inputs.sizes)
    hidden, pooled = inputs.kept, inputs.kept_pooled
    if inputs.ids:
        made = family.encode_ids(parts, inputs.ids, inputs.sizes)
        hidden = torch.cat([made.encoder_hidden_states, hidden])
        if pooled is not None and made.pooled is not None:
            pooled = torch.cat([made.pooled, pooled])
    hidden = hidden[inputs.order]
    if pooled is None:
        return Conditioning(hidden)
    return Conditioning(hidden, pooled[inputs.order], inputs.sizes)


def encode(
    family: ModelFamily, parts: Components, captions: Sequence[str], sizes: Tensor
) -> Conditioning:
    """Encode captions as `family.encode` does; those without a new word come from the model's cache."""
    found = look_up(family, parts, captions, sizes)
    return encode_inputs(family, parts, found.mapped(lambda tensor: tensor.to(parts.device)))
