"""CLIP text encoders: token ids to hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

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
