"""Weights in 8 bits: how near they are, what goes through them, and that they stay so."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coinage.checks import make_plans
from coinage.models.eight_bit import EightBitConvolution, EightBitLinear, keep_in_eight_bits
from coinage.training import model_check
from coinage.training.model_check import gradient, image_with_word
from coinage.training.run import Run
from coinage.training.setup import prepare
from tests.tiny_models import parts_of
from tests.training.test_model_check import config_for

KINDS = {
    "linear": (lambda: nn.Linear(64, 48), (3, 5, 64)),
    "without bias": (lambda: nn.Linear(64, 48, bias=False), (3, 64)),
    "convolution": (lambda: nn.Conv2d(32, 48, 3, stride=2, padding=1), (2, 32, 7, 7)),
    "in groups": (lambda: nn.Conv2d(32, 48, 3, groups=2, dilation=2), (2, 32, 7, 7)),
}


def layer_and_input(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    return make().requires_grad_(False).to(dtype), torch.randn(shape).to(dtype)


def through(layer: nn.Module, x: Tensor, checkpointed: bool = False) -> tuple[Tensor, Tensor]:
    """What a layer makes of an input, and the gradient that comes back to it."""
    given = x.clone().requires_grad_()
    made = checkpoint(layer, given, use_reentrant=False) if checkpointed else layer(given)
    made.float().square().sum().backward()
    assert given.grad is not None
    return made, given.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_rounded_weights(kind: str, dtype: torch.dtype) -> None:
    plain, x = layer_and_input(kind, dtype)
    layer = copy.deepcopy(plain)
    keep_in_eight_bits(layer := nn.Sequential(layer))
    eight = layer[0]
    assert isinstance(eight, EightBitLinear | EightBitConvolution)
    assert eight.weight.dtype == torch.int8
    plain.weight.copy_(eight.weight * eight.scale)
    expected, found = through(plain, x), through(layer, x)
    torch.testing.assert_close(found, expected)
    again = through(layer, x, checkpointed=True)
    assert all(torch.equal(one, other) for one, other in zip(again, found, strict=True))
    assert found[0].dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_gives_what_the_lower_dtype_gives(kind: str) -> None:
    layer, x = layer_and_input(kind)
    keep_in_eight_bits(layer := nn.Sequential(layer))
    with torch.autocast("cpu", torch.bfloat16):
        made, grad = through(layer, x)
    expected, due = through(layer.to(torch.bfloat16), x.bfloat16())
    assert torch.equal(made, expected)
    torch.testing.assert_close(grad.bfloat16(), due)


@pytest.mark.parametrize("size", [1.0, 0.005, 1e-7])
def test_the_rounding_does_not_depend_on_the_size_of_the_weights(size: float) -> None:
    layer = nn.Linear(1280, 640)
    weight = torch.randn(640, 1280, generator=torch.Generator().manual_seed(0)) * size
    layer.weight.data = weight
    keep_in_eight_bits(nn.Sequential(layer))
    error = (layer.weight_in(torch.float32) - weight).norm() / weight.norm()  # type: ignore[operator]
    assert error < 0.0085


def test_channels_of_zeros_and_of_the_smallest_numbers() -> None:
    layer = nn.Linear(16, 4)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 0, 1e-44
    keep_in_eight_bits(nn.Sequential(layer))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weight = layer.weight_in(dtype)  # type: ignore[operator]
        assert weight.isfinite().all()
        assert not weight[:2].any()


def test_a_weight_that_is_not_finite_shows() -> None:
    layer = nn.Linear(16, 4).requires_grad_(False)
    layer.weight[1, 3], layer.weight[2, 5] = torch.nan, torch.inf
    keep_in_eight_bits(nn.Sequential(layer))
    assert layer(torch.ones(16)).isfinite().tolist() == [True, False, False, True]


def test_fp16_holds_sums_that_are_large_before_they_are_scaled() -> None:
    layer = nn.Linear(4096, 8, bias=False).requires_grad_(False).half()
    layer.weight.fill_(1e-4)
    keep_in_eight_bits(nn.Sequential(layer))
    assert float(layer(torch.full((4096,), 20.0).half()).mean()) == pytest.approx(8.19, rel=0.01)


def test_the_scale_stays_in_float32_and_the_weight_in_8_bits() -> None:
    layer, _ = layer_and_input("linear")
    keep_in_eight_bits(module := nn.Sequential(layer))
    scale = layer.scale.clone()
    for changed in (module.half(), module.to(torch.bfloat16), module.double(), module.float()):
        assert changed[0].weight.dtype == torch.int8
        assert torch.equal(changed[0].scale, scale)
    assert module.to("meta")[0].scale.is_meta


def test_copies_and_states_are_the_same() -> None:
    layer, x = layer_and_input("convolution")
    keep_in_eight_bits(module := nn.Sequential(layer))
    made = module(x)
    assert torch.equal(copy.deepcopy(module)(x), made)
    other, _ = layer_and_input("convolution")
    other.weight.zero_()
    keep_in_eight_bits(others := nn.Sequential(other))
    others.load_state_dict(module.state_dict())
    assert torch.equal(others(x), made)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    keep_in_eight_bits(module)
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())


def test_other_layers_stay_as_they_are() -> None:
    module = nn.Sequential(
        nn.Embedding(9, 32),
        nn.LayerNorm(32),
        nn.Conv2d(4, 32, 3),
        nn.Conv2d(32, 4, 3),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.MultiheadAttention(32, 2),
    )
    keep_in_eight_bits(module)
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_convolutions_keep_no_input_and_no_weight_for_the_backward_pass() -> None:
    layer, x = layer_and_input("convolution")
    keep_in_eight_bits(module := nn.Sequential(layer))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(x.requires_grad_())
    assert not kept


# torch's compiler makes one of torch's own functions
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_a_compiler_takes_the_layers_in_one_graph() -> None:
    unet = parts_of("sd1")["unet"]
    keep_in_eight_bits(unet)

    def passed(unet: Any) -> tuple[Tensor, Tensor]:
        text = torch.linspace(-1, 1, 7 * 32).view(1, 7, 32).requires_grad_()
        noisy, steps = torch.ones(1, 4, 8, 8), torch.tensor([3])
        made = unet(noisy, steps, text.clone(), return_dict=False)[0]
        return made.detach(), torch.autograd.grad(made.square().sum(), text)[0]

    expected = passed(unet)
    found = passed(torch.compile(unet, backend="eager", fullgraph=True))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_words_gradient_is_near_that_of_float32(
    family: str, moon_dataset: Path, tmp_path: Path
) -> None:
    config = config_for(family, moon_dataset, tmp_path)
    run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
    expected = gradients(run)
    for modules in ((run.parts.denoiser,), run.parts.text_encoders):
        for module in modules:
            keep_in_eight_bits(module)
        found = gradients(run)
        cosines = torch.cosine_similarity(found, expected)
        assert cosines.min() >= 0.99
        assert cosines.median() >= 0.998
    assert run.parts.dtype == torch.float32


def gradients(run: Run) -> Tensor:
    """A word's gradient at timesteps from little noise to much, [10, D] float32."""
    batch = image_with_word(run)
    assert batch is not None
    noised = model_check._noised
    found = []
    with pytest.MonkeyPatch.context() as patched:
        for step in range(25, 1000, 105):
            timesteps = torch.tensor([step])
            patched.setattr(
                model_check, "_noised", lambda *args, t=timesteps: (*noised(*args)[:2], t)
            )
            found.append(gradient(run, batch))
    return torch.stack(found)
