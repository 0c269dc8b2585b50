"""Attention for a CPU computes what PyTorch's own does, with its gradients."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from coinage.models import cpu_attention
from coinage.models.attention import plain_attention
from coinage.models.cpu_attention import CpuAttention, attention, use_cpu_attention
from tests.tiny_models import loaded, parts_of


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def with_gradients(function: Any, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y))]


@pytest.mark.parametrize("kept", [0, 1 << 19])
@pytest.mark.parametrize("part", [1, 30, 100, 700, 1 << 20])
def test_output_and_gradients_are_the_plain_ones(
    part: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "PART", part)
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    q, k, v, grad = tensors((2, 3, 11, 8), (2, 3, 7, 8), (2, 3, 7, 8), (2, 3, 11, 8))
    precise = with_gradients(
        F.scaled_dot_product_attention, [x.float() for x in (q, k, v)], grad.float()
    )
    for found, expected in zip(with_gradients(attention, [q, k, v], grad), precise, strict=True):
        assert found.dtype == torch.bfloat16
        assert float((found - expected).norm() / expected.norm()) < 0.01


def layer(**more: Any) -> Attention:
    torch.manual_seed(0)
    made: Attention = Attention(32, heads=4, dim_head=8, processor=AttnProcessor2_0(), **more)
    return made.bfloat16().requires_grad_(False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", [None, 24])
def test_a_layer_computes_the_same(width: int | None) -> None:
    attn = layer(cross_attention_dim=width)
    x, text = tensors((2, 9, 32), (2, 5, 24))
    context = {} if width is None else {"encoder_hidden_states": text}
    expected = attn(x, **context)
    attn.set_processor(CpuAttention())
    assert float((attn(x, **context) - expected).float().norm() / expected.float().norm()) < 0.02


def test_what_is_not_plain_attention_is_left_to_diffusers() -> None:
    attn = layer(residual_connection=True, norm_num_groups=4)
    (x,) = tensors((1, 32, 3, 3))
    expected = attn(x)
    attn.set_processor(CpuAttention())
    assert torch.equal(attn(x), expected)


def test_a_mask_is_obeyed() -> None:
    attn = layer(cross_attention_dim=24)
    x, text = tensors((1, 9, 32), (1, 5, 24))
    mask = torch.zeros(4, 1, 5).bfloat16()
    mask[..., 2:] = -1e4
    attn.set_processor(CpuAttention())
    masked = attn(x, encoder_hidden_states=text, attention_mask=mask)
    assert torch.allclose(masked, attn(x, encoder_hidden_states=text[:, :2]), atol=0.01)


def test_float32_is_left_to_pytorch() -> None:
    unet: Any = parts_of("sd1")["unet"]
    use_cpu_attention(unet)
    assert {type(each) for each in unet.attn_processors.values()} == {AttnProcessor2_0}


def test_plain_attention_for_a_while(models: Any) -> None:
    parts = loaded("sd1", models / "sd1", models)
    torch.nn.Module.to(parts.denoiser, torch.bfloat16)
    use_cpu_attention(parts.denoiser)
    with plain_attention(parts):
        assert not any(isinstance(p, CpuAttention) for p in parts.denoiser.attn_processors.values())
    assert all(isinstance(p, CpuAttention) for p in parts.denoiser.attn_processors.values())


def raising(*_: Tensor) -> Tensor:
    raise RuntimeError("softmax is of another version\nmore")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda q, k, v: attention(q, k * 2, v), "differs by"),
        (raising, "softmax is of another version"),
    ],
)
def test_one_that_is_wrong_is_not_used(
    broken: Any, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unet: Any = torch.nn.Module.to(parts_of("sd1")["unet"], torch.bfloat16)
    monkeypatch.setattr(cpu_attention, "attention", broken)
    with caplog.at_level(logging.INFO, logger="coinage"):
        use_cpu_attention(unet)
    assert {type(each) for each in unet.attn_processors.values()} == {AttnProcessor2_0}
    assert reason in caplog.text
