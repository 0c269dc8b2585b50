"""Have a frozen UNet compute the same with fewer, larger kernels.

At small batches a GPU waits for the CPU to launch its kernels. What is joined here:

- the keys and values of all cross-attention layers, which all read the same text, are one product;
- the queries, keys and values of a self-attention layer are one product;
- results are not divided by factors that are 1.

Everything is computed as before but for the order of sums, and no weight is copied: layers that
were joined read their part of the joint weight where something asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def join_kernels(unet: UNet2DConditionModel) -> None:
    """Join what can be joined in a frozen UNet, in place.

    Only plain linear layers without a bias are joined, so layers in 8 bits are left as they are.
    """
    from diffusers.models.attention import BasicTransformerBlock

    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    for block in blocks:
        if _is_plain(block.attn1) and not block.only_cross_attention:
            _join_own(block.attn1)
    across = [block.attn2 for block in blocks if block.attn2 is not None and _is_plain(block.attn2)]
    widths = {attention.to_k.in_features for attention in across}
    if len(across) == len(blocks) and len(widths) == 1 and unet.encoder_hid_proj is None:
        _join_text(unet, across)
    for module in unet.modules():
        for name in ("output_scale_factor", "rescale_output_factor"):
            if getattr(module, name, None) == 1:
                setattr(module, name, _ONE)


def _is_plain(attention: Any) -> bool:
    layers = (attention.to_q, attention.to_k, attention.to_v)
    extras = ("norm_cross", "norm_q", "norm_k", "group_norm", "spatial_norm", "residual_connection")
    return not any(getattr(attention, name, None) for name in extras) and all(
        type(layer) is nn.Linear and layer.bias is None for layer in layers
    )


class _One:
    """The number 1, by which dividing a tensor gives this tensor."""

    def __rtruediv__(self, tensor: Tensor) -> Tensor:
        return tensor

    def __eq__(self, other: object) -> bool:
        return other == 1

    def __hash__(self) -> int:
        return hash(1)


_ONE = _One()


def _joint(layers: Sequence[nn.Linear]) -> nn.Linear:
    """Return a layer that computes what several do, one after the other, and empty these."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    joint = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    joint.weight = nn.Parameter(weight, requires_grad=False)
    return joint


class _Part(nn.Module):
    """A linear layer whose weight is some rows of a joint layer's, which holds it.

    Args:
        joint: the joint layer.
        start: first of its rows.
        end: the one after the last.
    """

    def __init__(self, joint: nn.Linear, start: int, end: int) -> None:
        super().__init__()
        self._joint = (joint,)  # in a tuple, so that it is not a part of this one
        self._start, self._end = start, end

    @property
    def weight(self) -> Tensor:
        """The rows, [end - start, D]."""
        return self._joint[0].weight[self._start : self._end]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def _parts(joint: nn.Linear, layers: Sequence[nn.Linear]) -> Iterator[_Part]:
    ends = [0]
    for layer in layers:
        ends.append(ends[-1] + layer.out_features)
    for start, end in pairwise(ends):
        yield _Part(joint, start, end)


def _join_own(attention: Any) -> None:
    """Join queries, keys and values of a self-attention layer."""
    layers = [attention.to_q, attention.to_k, attention.to_v]
    joint = _joint(layers)
    attention.to_q, attention.to_k, attention.to_v = _parts(joint, layers)
    attention.to_qkv = joint
    attention.set_processor(JointSelfAttention())


class JointSelfAttention:
    """Self-attention of a transformer block, from one product."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG002 - as diffusers calls it
        attention_mask: Tensor | None = None,  # noqa: ARG002 - a UNet is given none
        **_: Any,
    ) -> Tensor:
        """Return what the layer adds, [B, N, D] for [B, N, D]."""
        heads = [
            part.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for part in attn.to_qkv(hidden_states).chunk(3, dim=2)
        ]
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        result: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return result


class _TextProducts:
    """What stands for the text in a UNet whose cross-attention is joined.

    Attributes:
        pieces: keys and values of all layers in turn, each [B, T, width].
        shape: of the text.
    """

    def __init__(self, text: Tensor, pieces: Sequence[Tensor]) -> None:
        self.pieces, self.shape = pieces, text.shape


class _TextPart(_Part):
    """Keys or values of a cross-attention layer, which are computed already.

    Args:
        number: of the piece.
        rest: as for `_Part`.
    """

    def __init__(self, number: int, *rest: Any) -> None:
        super().__init__(*rest)
        self._number = number

    def forward(self, x: Tensor | _TextProducts) -> Tensor:
        if isinstance(x, _TextProducts):
            return x.pieces[self._number]
        return super().forward(x)


def _join_text(unet: Any, across: Sequence[Any]) -> None:
    """Join keys and values of all cross-attention layers."""
    layers = [layer for attention in across for layer in (attention.to_k, attention.to_v)]
    widths = [layer.out_features for layer in layers]
    joint = _joint(layers)
    ends = [0, *torch.tensor(widths).cumsum(0).tolist()]
    parts = [
        _TextPart(number, joint, start, end) for number, (start, end) in enumerate(pairwise(ends))
    ]
    for attention, keys, values in zip(across, parts[::2], parts[1::2], strict=True):
        attention.to_k, attention.to_v = keys, values
    unet.text_products = joint

    def with_products(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def products(text: Tensor) -> _TextProducts:
            return _TextProducts(text, joint(text).split(widths, dim=-1))

        if len(args) > 2:
            return (*args[:2], products(args[2]), *args[3:]), kwargs
        return args, {**kwargs, "encoder_hidden_states": products(kwargs["encoder_hidden_states"])}

    unet.register_forward_pre_hook(with_products, with_kwargs=True)
