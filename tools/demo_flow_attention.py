"""What computes a flow-matching demo world fast on a CPU: its dtype, and attention in plain matrix products.

A token of the words can stand for several equal ones, as most of a short caption's padding is: with
n of them a token gets n times the attention, which is log n on its score. `weights` [T] holds that
logarithm for each token; the owner changes it in place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

# bfloat16 takes half the time on a CPU that multiplies it, and many times as long on one that does not
FAST = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32  # noqa: SLF001


def attend(query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> Tensor:
    """Softmax attention over [B, T, heads, D], with `weights` [T]; returns [B, T, heads * D]."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2) + weights.to(query.dtype)
    return (torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2)


class PlainJointAttention:
    """The joint attention of SD 3; the picture stands first."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - the model calls so
    ) -> tuple[Tensor, Tensor]:
        batch, length = hidden_states.shape[:2]

        def split(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads)

        words = encoder_hidden_states
        q = [attn.norm_q(split(attn.to_q(hidden_states)))]
        k = [attn.norm_k(split(attn.to_k(hidden_states)))]
        v = [split(attn.to_v(hidden_states)), split(attn.add_v_proj(words))]
        q.append(attn.norm_added_q(split(attn.add_q_proj(words))))
        k.append(attn.norm_added_k(split(attn.add_k_proj(words))))
        weights = F.pad(self.weights, (length, 0))
        out = attend(torch.cat(q, 1), torch.cat(k, 1), torch.cat(v, 1), weights)
        image, text = attn.to_out[0](out[:, :length]), out[:, length:]
        return image, text if attn.context_pre_only else attn.to_add_out(text)


class PlainRotaryAttention:
    """The attention of FLUX.1, with and without a stream of words; words stand first."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - the model calls so
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, attn.head_dim))

        q = attn.norm_q(split(attn.to_q(hidden_states)))
        k = attn.norm_k(split(attn.to_k(hidden_states)))
        v = split(attn.to_v(hidden_states))
        words = encoder_hidden_states
        if words is not None:
            q = torch.cat([attn.norm_added_q(split(attn.add_q_proj(words))), q], 1)
            k = torch.cat([attn.norm_added_k(split(attn.add_k_proj(words))), k], 1)
            v = torch.cat([split(attn.add_v_proj(words)), v], 1)
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = attend(q, k, v, F.pad(self.weights, (0, q.shape[1] - len(self.weights))))
        if words is None:
            return out
        length = words.shape[1]
        return attn.to_out[0](out[:, length:]), attn.to_add_out(out[:, :length])
