"""The protocol of a model family: how it loads its parts, reads captions and predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.schedule import NoiseSchedule
from coinage.models.facts import FamilyFacts
from coinage.models.own_precision import computing_dtype
from coinage.models.token_embedding import TokenEmbedding, install_rows, table_of
from coinage.text.placeholder import (
    Placeholder,
    RowFormat,
    Tokenizer,
    WordEncoder,
    placeholders_for,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline

    from coinage.models.text_cache import TextCache


@dataclass(slots=True)
class Components:
    """The parts of a loaded model. Everything is frozen but the rows in `embeddings`.

    The tuples hold one entry per text encoder. `embeddings` is empty until words are installed.
    """

    tokenizers: tuple[Tokenizer, ...]
    text_encoders: tuple[Any, ...]  # such as CLIPTextModel and CLIPTextModelWithProjection
    row_formats: tuple[RowFormat, ...]  # how each text encoder takes ids
    vae: AutoencoderKL
    denoiser: Any  # a UNet2DConditionModel, or a transformer
    schedule: NoiseSchedule
    scheduler_config: Mapping[str, Any]
    keys: tuple[str, ...]  # name of each text encoder's vectors in embedding files
    clip_skip: int | None = None
    chunks: int = 1  # rows of ids per caption
    word_encoders: tuple[WordEncoder, ...] = ()
    embeddings: tuple[TokenEmbedding, ...] = ()
    text_cache: TextCache | None = None  # encodings that do not depend on the rows
    home: torch.device | None = None  # where it computes; None: where the UNet is
    low_memory: bool = False  # token tables stay on the CPU, and pictures are decoded in tiles
    at_once: int = 16  # samples that go through it together where nothing is kept for a gradient

    @property
    def scaling_factor(self) -> float:
        """Factor that VAE latents are multiplied by before the UNet sees them."""
        return float(self.vae.config.scaling_factor)

    def scaled(self, latents: Tensor) -> Tensor:
        """Return VAE latents as the denoiser sees them."""
        shift = getattr(self.vae.config, "shift_factor", None)
        return (latents - shift if shift else latents) * self.scaling_factor

    def unscaled(self, latents: Tensor) -> Tensor:
        """Return latents that the denoiser sees as the VAE decodes them."""
        shift = getattr(self.vae.config, "shift_factor", None)
        latents = latents / self.scaling_factor
        return latents + shift if shift else latents

    @property
    def device(self) -> torch.device:
        """Device on which the model computes, whether or not its weights are there yet."""
        if self.home is not None:
            return self.home
        # The UNet's own `device` looks through all its modules
        device: torch.device = next(self.denoiser.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the UNet computes with; its weights may be stored in 8 bits."""
        return computing_dtype(self.denoiser)

    def own_precision(self) -> AbstractContextManager[None]:
        """Have the UNet compute in its own dtype within a `with` block, whatever autocast is around.

        Its norms and its softmax sum in float32 by themselves. What autocast adds are copies: the
        UNet would read and write its activations in float32, and cast them down again and again.
        """
        kind = self.device.type
        available = torch.amp.is_autocast_available(kind)
        return torch.autocast(kind, enabled=False) if available else nullcontext()

    def token_ids(self, captions: Sequence[str]) -> tuple[Tensor, ...]:
        """Return the ids of B captions for each text encoder, [B * chunks, 77] int64 on the CPU."""
        found = []
        for words in self.word_encoders:
            rows = [words.rows(caption, self.chunks) for caption in captions]
            found.append(torch.tensor(list(chain.from_iterable(rows))))
        return tuple(found)

    def modules(self) -> tuple[torch.nn.Module, ...]:
        """Return all neural networks of the model."""
        return (*self.text_encoders, self.vae, self.denoiser)

    def rows(self, word: int = 0) -> list[torch.nn.Parameter]:
        """Return the parameters of one word: [n, D] float32 for each text encoder.

        Args:
            word: its number among the installed words.
        """
        return [cast(torch.nn.Parameter, embedding.words[word]) for embedding in self.embeddings]

    def install(
        self, words: Sequence[tuple[str, int]], rows: Sequence[Tensor]
    ) -> tuple[Placeholder, ...]:
        """Install new words in place of earlier ones. Without words, captions are read as they stand.

        Args:
            words: each one's token and number of vectors.
            rows: the vectors of all words together, one [N, D] tensor for each text encoder; [] without
                words.

        Returns:
            The words with their ids in the first text encoder; others have as many in their own vocabularies.
        """
        counts = [count for _, count in words]
        if rows:
            self.embeddings = tuple(
                install_rows(encoder, vectors.split(counts), self.device)
                for encoder, vectors in zip(self.text_encoders, rows, strict=True)
            )
        else:
            self.embeddings = ()
        encoders = []
        for tokenizer, encoder, row_format in zip(
            self.tokenizers, self.text_encoders, self.row_formats, strict=True
        ):
            placeholders = placeholders_for(words, len(table_of(encoder)))
            encoders.append(WordEncoder(tokenizer, placeholders, row_format))
        self.word_encoders = tuple(encoders)
        return self.word_encoders[0].placeholders

    @contextmanager
    def with_words(
        self, words: Sequence[tuple[str, int]], rows: Sequence[Tensor], *, keep: bool = False
    ) -> Iterator[tuple[Placeholder, ...]]:
        """Install words for a `with` block, which gets them with their ids; afterwards all is as before.

        Args:
            words: as for `install`.
            rows: as for `install`.
            keep: leave the installed words in place, before the new ones.
        """
        embeddings, word_encoders = self.embeddings, self.word_encoders
        modules = [encoder.get_input_embeddings() for encoder in self.text_encoders]
        installed: list[tuple[str, int]] = []
        if keep:
            installed = [(p.token, p.num_vectors) for p in word_encoders[0].placeholders]
            rows = [
                torch.cat([embedding.rows.detach(), vectors.to(embedding.rows)])
                for embedding, vectors in zip(embeddings, rows, strict=True)
            ]
        try:
            yield self.install([*installed, *words], rows)[len(installed) :]
        finally:
            self.embeddings, self.word_encoders = embeddings, word_encoders
            for encoder, module in zip(self.text_encoders, modules, strict=True):
                encoder.set_input_embeddings(module)

    def frozen(self) -> Components:
        """Switch off gradients and dropout in all parts, and return the same object."""
        for module in self.modules():
            module.requires_grad_(False).eval()
        return self


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Everything that the UNet reads beside latents and time.

    Attributes:
        encoder_hidden_states: [B, T, D].
        pooled: [B, P], not for SD 1 and 2.
        time_ids: original height and width, crop top and left, target height and width: [B, 6],
            SDXL only.
    """

    encoder_hidden_states: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None


class ModelFamily(Protocol):
    """One kind of model."""

    @property
    def facts(self) -> FamilyFacts:
        """The facts that are fixed for all its models."""
        ...

    @property
    def name(self) -> str:
        """Its name in the table of families."""
        ...

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        """Load the parts to the CPU, frozen: UNet and VAE in `dtype`, text encoders in float32."""
        ...

    def encode(
        self, parts: Components, captions: Sequence[str], sizes: Tensor, *, weighted: bool = False
    ) -> Conditioning:
        """Return the conditioning of B captions; gradients flow to the rows.

        Args:
            parts: of the model.
            captions: B texts.
            sizes: [B, 6] as `Conditioning.time_ids`.
            weighted: for pictures: read `(word:1.3)` as a weight, and join the rows of a long text
                as tools that draw do; training reads captions as they stand.
        """
        ...

    def joined(self, rows: Tensor, chunks: int) -> Tensor:
        """Join the rows of each text as `encode` does for pictures.

        Args:
            rows: [B * chunks, 77, D].
            chunks: rows per text, >= 1.

        Returns:
            [B, T, D].
        """
        ...

    def encode_ids(self, parts: Components, ids: Sequence[Tensor], sizes: Tensor) -> Conditioning:
        """Return the same of the ids of B captions; nothing is read from the CPU.

        Args:
            parts: of the model.
            ids: as `Components.token_ids` returns them, on the model's device.
            sizes: [B, 6] on the model's device; where they are more than the captions, the
                caller knows which are whose.
        """
        ...

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        """Return the UNet's prediction, [B, C, H, W], computed in the UNet's own dtype."""
        ...

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        """Return a diffusers pipeline over the same parts."""
        ...
