"""Attention in bf16 on a CPU: a few matrix products for each part of the weights.

PyTorch's fused kernel computes small blocks, whose products are slower in bf16 than those of oneDNN;
most of the difference is in its gradient. Here the attention weights are computed for a part of heads
and queries that stays in the processor's cache, and once more for the gradient where they are large.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger("coinage")

PART = 1 << 20  # attention weights that are computed at once
KEPT = 1 << 19  # attention weights of a head, up to which they are kept for the gradient
TOLERANCE = 0.02  # of the length of the plain one


class _Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v, and its gradients (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        shape = q.shape
        q = (q * scale).contiguous().flatten(0, 1)
        k, v = k.contiguous().flatten(0, 1), v.contiguous().flatten(0, 1)
        heads, queries, keys = len(q), q.shape[1], k.shape[1]
        kept = q.new_empty(heads, queries, keys) if queries * keys <= KEPT else None
        y = torch.empty_like(q)
        space = Space(q, keys)
        for part in parts(heads, queries, keys):
            weights = space.weights(q, k, part, None if kept is None else kept[part])
            torch.bmm(weights, v[part[0]], out=y[part])
        ctx.save_for_backward(q, k, v, kept)
        ctx.scale = scale
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, kept = ctx.saved_tensors
        batch = grads[0].shape[:2]
        grad = grads[0].contiguous().flatten(0, 1)
        heads, queries, keys = len(q), q.shape[1], k.shape[1]
        dq = torch.empty_like(q)
        # Summed over parts in float32; [heads, d, keys] is the faster order of the products
        dk, dv = (x.new_zeros(heads, x.shape[2], keys, dtype=torch.float32) for x in (k, v))
        space = Space(q, keys)
        for part in parts(heads, queries, keys):
            head = part[0]
            weights = space.weights(q, k, part) if kept is None else kept[part]
            dv[head] += torch.bmm(grad[part].transpose(1, 2), weights)
            scores = torch.bmm(grad[part], v[head].transpose(1, 2), out=space.scores(part))
            torch._softmax_backward_data(  # noqa: SLF001
                scores, weights, -1, scores.dtype, grad_input=scores
            )
            torch.bmm(scores, k[head], out=dq[part])
            dk[head] += torch.bmm(q[part].transpose(1, 2), scores)
        dk, dv = (x.transpose(1, 2).to(q.dtype).unflatten(0, batch) for x in (dk, dv))
        return dq.mul_(ctx.scale).unflatten(0, batch), dk, dv


Part = tuple[slice, slice]  # heads, queries


def parts(heads: int, queries: int, keys: int) -> Iterator[Part]:
    """Yield all heads and queries in parts of at most `PART` attention weights, if a query's are no more."""
    more_heads = max(1, PART // (queries * keys))
    more_queries = max(1, PART // keys)
    for head in range(0, heads, more_heads):
        for query in range(0, queries, more_queries):
            yield (
                slice(head, min(head + more_heads, heads)),
                slice(query, min(query + more_queries, queries)),
            )


class Space:
    """Memory for the attention weights of a part, used again for the next one.

    Args:
        like: has the dtype.
        keys: number of them.
    """

    def __init__(self, like: Tensor, keys: int) -> None:
        self._like, self._keys = like, keys
        self._scores: Tensor | None = None
        self._weights: Tensor | None = None

    def scores(self, part: Part) -> Tensor:
        """Return room for the scores of a part, [heads, queries, keys]."""
        self._scores = self._room(self._scores, part)
        return self._scores

    def weights(self, q: Tensor, k: Tensor, part: Part, out: Tensor | None = None) -> Tensor:
        """Return softmax(q k^T) of a part, [heads, queries, keys].

        Args:
            q: [heads, queries, d], of all parts, scaled.
            k: [heads, keys, d].
            part: of heads and queries.
            out: where to; by default what the next part overwrites.
        """
        scores = torch.bmm(q[part], k[part[0]].transpose(1, 2), out=self.scores(part))
        if out is None:
            out = self._weights = self._room(self._weights, part)
        return torch.softmax(scores, -1, out=out)

    def _room(self, room: Tensor | None, part: Part) -> Tensor:
        shape = (*(each.stop - each.start for each in part), self._keys)
        if room is None or room.shape != shape:
            return self._like.new_empty(shape)
        return room


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v with gradients: [B, H, N, d] of q [B, H, N, d], k and v [B, H, M, d].

    All are bf16.
    """
    result: Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return result


class CpuAttention:
    """An attention processor of diffusers for bf16; what is not plain attention goes to diffusers' own."""

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self._fused = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """Return the attention layer's output, [B, N, C]."""
        if attention_mask is not None or hidden_states.ndim != 3 or not is_plain(attn):
            fused: Tensor = self._fused(
                attn, hidden_states, encoder_hidden_states, attention_mask, **more
            )
            return fused
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        is_fit = q.dtype == torch.bfloat16 and q.device.type == "cpu"
        y = attention(q, k, v) if is_fit else F.scaled_dot_product_attention(q, k, v)
        output: Tensor = attn.to_out[1](attn.to_out[0](y.transpose(1, 2).flatten(2)))
        return output


def is_plain(attn: Any) -> bool:
    """Return whether an attention layer of diffusers does nothing besides attention."""
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross")
    return (
        not any(getattr(attn, name, None) for name in extras)
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
    )


def use_cpu_attention(unet: Any) -> None:
    """Make a bf16 UNet on a CPU compute attention by `attention`; one that is wrong is logged, not used."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    processors = unet.attn_processors.values()
    if unet.dtype != torch.bfloat16 or {type(each) for each in processors} != {AttnProcessor2_0}:
        return
    problem = problem_with_attention()
    if problem:
        log.info("note: this PyTorch computes attention the slower way: %s", problem)
        return
    unet.set_attn_processor(CpuAttention())


@torch.enable_grad()
def problem_with_attention() -> str:
    """Return why `attention` cannot be used, "" if nothing is wrong: compared with PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, 2, length, 8, generator=generator).bfloat16().requires_grad_()
        for length in (6, 5, 5, 6)
    )
    try:
        y = attention(q, k, v)
        found = (y.detach(), *torch.autograd.grad(y, (q, k, v), grad))
    except (RuntimeError, TypeError, AttributeError) as error:
        return str(error).partition("\n")[0]
    q, k, v = (x.detach().float().requires_grad_() for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v)
    expected = (y.detach(), *torch.autograd.grad(y, (q, k, v), grad.float()))
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    if not max(errors) <= TOLERANCE:
        return f"its result differs by {max(errors):.0e}"
    return ""
