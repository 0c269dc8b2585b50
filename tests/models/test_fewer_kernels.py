"""A UNet whose kernels are joined computes what it did."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from coinage.models.attention import plain_attention
from coinage.models.base import Components, Conditioning
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.families import FAMILIES
from coinage.models.fewer_kernels import join_kernels
from coinage.models.placement import checkpoint_gradients
from coinage.training.diagnosis import full_precision
from tests.tiny_models import CONTEXT, FAMILY_NAMES, loaded


class Operations(TorchDispatchMode):
    """Counts what is computed, views aside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += not func.is_view
        return func(*args, **(kwargs or {}))


def answer(name: str, parts: Components) -> tuple[torch.Tensor, torch.Tensor, Counter[str]]:
    """A prediction, the gradient of the text, and what was computed."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 77, CONTEXT[name], generator=generator).requires_grad_()
    pooled = torch.randn(2, 64, generator=generator) if name == "sdxl" else None
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)
    with Operations() as seen:
        made = FAMILIES[name].predict(
            parts, latents, torch.tensor([10, 700]), Conditioning(text, pooled, sizes)
        )
        (gradient,) = torch.autograd.grad(made.float().square().sum(), text)
    return made.detach(), gradient, seen.counts


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("way", ["plain", "checkpointed", "eight bits", "plain attention"])
def test_it_answers_the_same_with_fewer_kernels(name: str, way: str, models: Path) -> None:
    parts = loaded(name, models / name, models)
    if way == "checkpointed":
        checkpoint_gradients(parts)
    if way == "eight bits":
        keep_in_eight_bits(parts.denoiser)
    with plain_attention(parts) if way == "plain attention" else nullcontext():
        due, due_gradient, before = answer(name, parts)
    weights = sum(p.nbytes for p in parts.denoiser.parameters())
    join_kernels(parts.denoiser)
    with plain_attention(parts) if way == "plain attention" else nullcontext():
        made, gradient, after = answer(name, parts)
    torch.testing.assert_close(made, due, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, due_gradient, rtol=1e-4, atol=1e-6)
    assert after["aten::div"] < before["aten::div"], "by factors of 1"
    if way != "eight bits":
        assert after["aten::mm"] < before["aten::mm"]
        assert after.total() < 0.95 * before.total()
    assert sum(p.nbytes for p in parts.denoiser.parameters()) == weights, "no weight is kept twice"
    join_kernels(parts.denoiser)  # a second time there is nothing to do
    assert torch.equal(answer(name, parts)[0], answer(name, parts)[0])


def test_weights_can_be_widened_and_come_back(models: Path) -> None:
    parts = loaded("sd1", models / "sd1", models)
    parts.denoiser.to(torch.bfloat16)
    join_kernels(parts.denoiser)
    narrow = answer("sd1", parts)[0]
    with full_precision(parts):
        assert answer("sd1", parts)[0].dtype == torch.float32
    assert torch.equal(answer("sd1", parts)[0], narrow)
