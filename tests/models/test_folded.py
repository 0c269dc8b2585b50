"""A doubled and convolved picture is computed from the small one."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from coinage.models import folded
from coinage.models.folded import FoldedUpsample, fold_upsamplers
from coinage.models.relaid import Layouts
from tests.helpers import needs_bf16
from tests.tiny_models import FAMILY_NAMES, parts_of

pytestmark = needs_bf16


def upsampler(dtype: torch.dtype = torch.bfloat16, **more: Any) -> tuple[Upsample2D, Upsample2D]:
    """A layer twice; the second one is changed, where it can be."""
    torch.manual_seed(0)
    plain = Upsample2D(32, use_conv=True, out_channels=48, **more).to(dtype).requires_grad_(False)
    changed = copy.deepcopy(plain)
    fold_upsamplers(nn.ModuleList([changed]))
    return plain, changed


def passed(layer: Upsample2D, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y.detach(), *torch.autograd.grad(y, leaf, grad)]


@pytest.mark.parametrize("shape", [(1, 32, 1, 1), (2, 32, 4, 4), (3, 32, 5, 3)])
def test_output_and_gradient_are_the_plain_ones(shape: tuple[int, ...]) -> None:
    plain, changed = upsampler()
    assert type(changed) is FoldedUpsample
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    for found, expected in zip(passed(changed, x), passed(plain, x), strict=True):
        assert found.dtype == torch.bfloat16
        assert float((found - expected).float().norm() / expected.float().norm()) < 0.01


def test_another_size_and_another_precision_are_computed_plainly() -> None:
    plain, changed = upsampler()
    x = torch.randn(1, 32, 3, 2).bfloat16()
    assert torch.equal(changed(x, (5, 4)), plain(x, (5, 4)))
    double = changed.double()
    assert double(x.double()).dtype == torch.float64


@pytest.mark.parametrize("more", [{"interpolate": False}, {"norm_type": "ln_norm", "eps": 1e-5}])
def test_other_upsamplers_stay_as_they_are(more: dict[str, Any]) -> None:
    assert type(upsampler(**more)[1]) is Upsample2D


def test_wrong_sums_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = folded.folded_layouts

    def wrong(convolution: nn.Conv2d) -> Layouts:
        changed = copy.deepcopy(convolution)
        changed.weight.mul_(1.1)
        return right(changed)

    monkeypatch.setattr(folded, "folded_layouts", wrong)
    assert type(upsampler()[1]) is Upsample2D


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_has_one(family: str) -> None:
    unet = nn.Module.to(parts_of(family)["unet"], torch.bfloat16)
    before = unet.state_dict()
    unused = fold_upsamplers(unet)
    assert len(unused) == sum(isinstance(m, Upsample2D) for m in unet.modules()) > 0
    assert unet.state_dict().keys() == before.keys()


def test_in_float32_the_doubled_picture_is_convolved() -> None:
    assert type(upsampler(torch.float32)[1]) is Upsample2D
