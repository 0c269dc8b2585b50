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

LEAST_MEAN = 1e-5  # of the mean size of the numbers; below, it is rounding


def hidden_states(encoder: CLIPTextModel, ids: Tensor, clip_skip: int | None) -> Tensor:
    """Return hidden states for cross-attention, as in sd-scripts.

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
    words: WordEncoder, captions: Sequence[str], chunks: int
) -> tuple[Tensor, Tensor]:
    """Return the ids of B captions, and their weights: `(word:1.3)` is read as a weight.

    Args:
        words: of the text encoder.
        captions: B texts.
        chunks: rows per caption.

    Returns:
        Ids [B * chunks, 77] int64, and weights [B * chunks, 77, 1] float32.
    """
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    for caption in captions:
        pieces = parse_weights(caption, words.names)
        caption_ids, caption_weights = words.weighted_rows(pieces, chunks)
        ids += caption_ids
        weights += caption_weights
    return torch.tensor(ids), torch.tensor(weights)[..., None]


def weigh(hidden: Tensor, weights: Tensor, *, keep_mean: bool) -> Tensor:
    """Multiply hidden states [B, T, D] by weights [B, T, 1], as in sd-scripts.

    With `keep_mean` each text's mean stays as it was: so for SD 1 and 2, not for SDXL. A mean that is
    no more than a rounding error, as where the last norm was never trained, is left alone.
    """
    if bool((weights == 1).all()):
        return hidden
    scaled = hidden * weights.to(hidden)
    if not keep_mean:
        return scaled
    # In half precision the mean may round to 0
    mean = hidden.float().mean(dim=(1, 2), keepdim=True)
    scaled_mean = scaled.float().mean(dim=(1, 2), keepdim=True)
    size = scaled.float().abs().mean(dim=(1, 2), keepdim=True)
    ratio = torch.where(scaled_mean.abs() > LEAST_MEAN * size, mean / scaled_mean, 1)
    return (scaled * ratio).to(hidden.dtype)


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """Join the rows of each caption as in sd-scripts: the first start, all text, the last end.

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
    """Join the rows of each text, with every start and end, as tools that draw with SD 1 and 2 do.

    Args:
        hidden: [B * chunks, 77, D].
        chunks: rows per text, >= 1.

    Returns:
        [B, 77 * chunks, D].
    """
    return hidden.reshape(len(hidden) // chunks, chunks * hidden.shape[1], hidden.shape[2])


def end_of_text(ids: Tensor, end_id: int) -> Tensor:
    """Return where each row of [B, T] ids ends, [B] int64; 0 if nowhere.

    A new word's ids are larger than the end's, so that the largest id is not the end.
    """
    return (ids == end_id).int().argmax(dim=1)


def at_end(last_hidden: Tensor, ids: Tensor, end_id: int) -> Tensor:
    """Return the hidden state at the end of each text, [B, D].

    Not the encoder's own pooled output: with its old settings it pools at the largest id, which is
    the new word.
    """
    at = end_of_text(ids, end_id)
    return last_hidden[torch.arange(len(ids), device=ids.device), at]


def pool(encoder: Any, last_hidden: Tensor, ids: Tensor, end_id: int) -> Tensor:
    """Return the projected hidden state at the end of each text, [B, P]."""
    projected: Tensor = encoder.text_projection(at_end(last_hidden, ids, end_id))
    return projected
