"""CLIP text encoders: token ids to hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coinage.words import CHUNK, WordEncoder

if TYPE_CHECKING:
    from transformers import CLIPTextModel


def hidden_states(encoder: CLIPTextModel, ids: Tensor, clip_skip: int | None) -> Tensor:
    """Hidden states for cross-attention, as the reference.

    Args:
        encoder: a text encoder, transformers 4 or 5.
        ids: [B, 77] int64.
        clip_skip: k takes the k-th last layer, then the final layer norm; None and 1 are the last.

    Returns:
        [B, 77, D].
    """
    if clip_skip in (None, 1):
        last: Tensor = encoder(ids).last_hidden_state
        return last
    output: Any = encoder(ids, output_hidden_states=True)
    inner: Any = getattr(encoder, "text_model", encoder)
    normed: Tensor = inner.final_layer_norm(output.hidden_states[-clip_skip])
    return normed


def encode_captions(
    encoder: CLIPTextModel, words: WordEncoder, captions: Sequence[str], clip_skip: int | None, chunks: int, device: torch.device
) -> Tensor:
    """[B, 75 * chunks + 2, D] hidden states of B captions of up to 75 * chunks tokens."""
    rows = [row for caption in captions for row in words.rows(caption, chunks)]
    return join_chunks(hidden_states(encoder, torch.tensor(rows, device=device), clip_skip), chunks)


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """The rows of each caption as one sequence, as the reference: the first start, all text, the last end.

    Args:
        hidden: [B * chunks, 77, D].
        chunks: rows per caption, >= 1.

    Returns:
        [B, 75 * chunks + 2, D].
    """
    if chunks == 1:
        return hidden
    rows = hidden.unflatten(0, (-1, chunks))
    text = rows[:, :, 1 : CHUNK + 1].flatten(1, 2)
    return torch.cat([rows[:, 0, :1], text, rows[:, -1, -1:]], dim=1)


def end_of_text(ids: Tensor, end_id: int) -> Tensor:
    """[B] int64: where each row of [B, T] ids ends, 0 if nowhere. A new word's ids are larger than the end's."""
    return (ids == end_id).int().argmax(dim=1)
