"""What a model family is: how its parts are loaded, how it reads captions, how it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.schedule import NoiseSchedule
from coinage.models.token_embedding import TokenEmbedding, install_rows
from coinage.text.placeholder import Placeholder, Tokenizer, WordEncoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel

    from coinage.models.text_cache import KeptText


@dataclass(slots=True)
class Components:
    """The parts of a loaded model. Everything is frozen but the rows in `embeddings`.

    The tuples hold one entry per text encoder. `embeddings` is empty until rows are installed.
    """

    tokenizers: tuple[Tokenizer, ...]
    text_encoders: tuple[Any, ...]  # CLIPTextModel, or CLIPTextModelWithProjection
    vae: AutoencoderKL
    denoiser: UNet2DConditionModel
    schedule: NoiseSchedule
    scheduler_config: Mapping[str, Any]
    clip_skip: int | None = None
    chunks: int = 1  # rows of 77 ids per caption
    pad_ids: tuple[int, ...] = ()
    word_encoders: tuple[WordEncoder, ...] = ()
    embeddings: tuple[TokenEmbedding, ...] = ()
    kept_text: KeptText | None = None  # encodings that do not depend on the rows

    @property
    def scaling_factor(self) -> float:
        """What VAE latents are multiplied by before the UNet sees them."""
        return float(self.vae.config.scaling_factor)

    @property
    def device(self) -> torch.device:
        # The UNet's own `device` looks through all its modules
        device: torch.device = next(self.denoiser.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes with; its weights may be kept in 8 bits."""
        dtype: torch.dtype = next(
            p.dtype for p in self.denoiser.parameters() if p.dtype.itemsize > 1
        )
        return dtype

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (*self.text_encoders, self.vae, self.denoiser)

    def rows(self, word: int = 0) -> list[torch.nn.Parameter]:
        """What trains of a word, by its number: one [n, D] float32 parameter per text encoder."""
        return [cast(torch.nn.Parameter, embedding.words[word]) for embedding in self.embeddings]

    def install(self, placeholders: Sequence[Placeholder], rows: Sequence[Tensor]) -> None:
        """Give the words their rows, one [N, D] tensor of all words for each text encoder; earlier words are forgotten.

        Without words and rows, captions are read as they stand.
        """
        sizes = [placeholder.num_vectors for placeholder in placeholders]
        pairs = zip(self.text_encoders, rows, strict=bool(rows))
        self.embeddings = tuple(install_rows(encoder, own.split(sizes)) for encoder, own in pairs)
        pads = zip(self.tokenizers, self.pad_ids, strict=True)
        self.word_encoders = tuple(
            WordEncoder(tokenizer, placeholders, pad) for tokenizer, pad in pads
        )

    @contextmanager
    def lent(self, placeholders: Sequence[Placeholder], rows: Sequence[Tensor]) -> Iterator[None]:
        """Have more words for a while, after those that are there.

        Args:
            placeholders: of the words; their ids follow those of the words that are there.
            rows: one [N, D] tensor of all these words for each text encoder.
        """
        kept, encoders = self.embeddings, self.word_encoders
        together = [
            torch.cat([old.rows.detach(), new.to(old.rows)])
            for old, new in zip(kept, rows, strict=True)
        ]
        self.install([*encoders[0].placeholders, *placeholders], together)
        try:
            yield
        finally:
            self.embeddings, self.word_encoders = kept, encoders
            for encoder, embedding in zip(self.text_encoders, kept, strict=True):
                encoder.set_input_embeddings(embedding)

    def frozen(self) -> Components:
        """The same parts, without gradients and in eval mode."""
        for module in self.modules():
            module.requires_grad_(False).eval()
        return self


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the UNet is told.

    Attributes:
        encoder_hidden_states: [B, T, D].
        pooled: [B, P], SDXL only.
        time_ids: original height and width, crop top and left, target height and width: [B, 6], SDXL only.
    """

    encoder_hidden_states: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None


class ModelFamily(Protocol):
    """One kind of Stable Diffusion."""

    @property
    def name(self) -> str: ...

    @property
    def architecture(self) -> str:
        """Its ModelSpec name."""
        ...

    @property
    def default_size(self) -> int:
        """Preview size when nothing is said, in pixels."""
        ...

    @property
    def embedding_keys(self) -> tuple[str, ...]:
        """Tensor names in an embedding file, one per text encoder."""
        ...

    def load(self, model: ModelConfig, dtype: torch.dtype) -> Components:
        """Load the parts to the CPU, frozen: UNet and VAE in `dtype`, text encoders in float32."""
        ...

    def encode(
        self, parts: Components, captions: Sequence[str], sizes: Tensor, *, weighted: bool = False
    ) -> Conditioning:
        """Conditioning of B captions; gradients flow to the rows.

        Args:
            parts: the model's.
            captions: B texts.
            sizes: [B, 6] as `Conditioning.time_ids`.
            weighted: for pictures: read `(word:1.3)` as a weight, and join the rows of a long text as tools that draw do;
                training reads captions as they stand.
        """
        ...

    def predict(
        self, parts: Components, noisy_latents: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        """The UNet's answer, [B, C, H, W]."""
        ...

    def pipeline(self, parts: Components, scheduler: object) -> DiffusionPipeline:
        """A diffusers pipeline over the same parts."""
        ...
