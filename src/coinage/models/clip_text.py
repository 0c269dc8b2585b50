"""CLIP text encoders: token ids to hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coinage.text.placeholder import CHUNK, WordEncoder
from coinage.text.prompts import parse_weights

if TYPE_CHECKING:
    from transformers import CLIPTextModel


def hidden_states(encoder: CLIPTextModel, ids: Tensor, clip_skip: int | None) -> Tensor:
    """Hidden states for cross-attention, as in sd-scripts.

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


def rows_and_weights(
    words: WordEncoder, captions: Sequence[str], chunks: int, *, weighted: bool
) -> tuple[Tensor, Tensor | None]:
    """Ids [B * chunks, 77] of B captions, and the weight of each [B * chunks, 77, 1], where `(word:1.3)` is read as a weight."""
    if not weighted:
        return torch.tensor(
            [row for caption in captions for row in words.rows(caption, chunks)]
        ), None
    pairs = [
        words.weighted_rows(parse_weights(caption, words.names), chunks) for caption in captions
    ]
    return torch.tensor([row for rows, _ in pairs for row in rows]), torch.tensor(
        [row for _, rows in pairs for row in rows]
    )[..., None]


def weigh(hidden: Tensor, weights: Tensor | None, *, keep_mean: bool) -> Tensor:
    """Hidden states [B, T, D] times weights [B, T, 1], as in sd-scripts: SD 1 and 2 keep each text's mean, SDXL does not."""
    if weights is None or bool((weights == 1).all()):
        return hidden
    scaled = hidden * weights.to(hidden)
    if not keep_mean:
        return scaled
    # In half precision it may round to 0
    mean, now = (states.float().mean(dim=(1, 2), keepdim=True) for states in (hidden, scaled))
    return (scaled * (mean / now)).to(hidden.dtype)


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """The rows of each caption as one sequence, as in sd-scripts: the first start, all text, the last end.

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


def whole_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """The rows of each text as one sequence with every start and end kept, as tools that draw with SD 1 and 2 do.

    Args:
        hidden: [B * chunks, 77, D].
        chunks: rows per text, >= 1.

    Returns:
        [B, 77 * chunks, D].
    """
    return hidden.reshape(len(hidden) // chunks, chunks * hidden.shape[1], hidden.shape[2])


def end_of_text(ids: Tensor, end_id: int) -> Tensor:
    """[B] int64: where each row of [B, T] ids ends, 0 if nowhere. A new word's ids are larger than the end's."""
    return (ids == end_id).int().argmax(dim=1)
