"""Convolutions with weights that are laid out beforehand compute what plain ones do."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coinage.config import ModelConfig
from coinage.models import cpu_layers, relaid
from coinage.models.base import Components
from coinage.models.bit_sums import sum_of_bits
from coinage.models.cpu_attention import CpuAttention
from coinage.models.families import FAMILIES
from coinage.models.placement import load_unplaced
from coinage.models.relaid import (
    RelaidConvolution,
    RelaidLinear,
    is_fit,
    parameter_count,
    relay_weights,
)
from coinage.models.winograd import WinogradConvolution
from coinage.training.diagnosis import full_precision
from tests.helpers import needs_bf16, rows_of, trained
from tests.tiny_models import CONTEXT, FAMILY_NAMES, parts_of

DTYPES = (torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16))
NEAR = {torch.float32: 1e-4, torch.bfloat16: 0.06}  # of the vector's length


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks are laid out too."""
    monkeypatch.setattr(cpu_layers, "MOST_SMALL_PARAMETERS", 0)


def unets(family: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The same UNet twice; the second one is laid out."""
    plain = nn.Module.to(parts_of(family)["unet"], dtype)
    changed = copy.deepcopy(plain)
    assert relay_weights(changed) > 0
    return plain, changed


def passed(unet: Any, family: str, wh: tuple[int, int] = (8, 8), batch: int = 2) -> list[Tensor]:
    """Output, and gradient to the text."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(batch, 4, *wh, generator=generator).to(unet.dtype)
    text = torch.randn(batch, 5, CONTEXT[family], generator=generator).to(unet.dtype)
    text.requires_grad_()
    more: dict[str, Any] = {}
    if family == "sdxl":
        pooled = torch.randn(batch, 64, generator=generator).to(unet.dtype)
        more = {
            "added_cond_kwargs": {
                "text_embeds": pooled,
                "time_ids": torch.zeros(batch, 6, dtype=torch.int64),
            }
        }
    out = unet(latents, torch.tensor([500]), text, **more).sample
    out.float().square().mean().backward()
    assert text.grad is not None
    return [out.detach(), text.grad]


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_output_and_gradient_are_the_plain_ones(family: str, dtype: torch.dtype) -> None:
    plain, changed = unets(family, dtype)
    precise = copy.deepcopy(plain)
    nn.Module.to(precise, torch.float32)
    for wh, batch in (((8, 8), 2), ((12, 6), 1), ((4, 4), 3)):
        ways = [passed(unet, family, wh, batch) for unet in (changed, plain, precise)]
        for found, rounded, expected in zip(*ways, strict=True):
            if dtype == torch.float32:
                assert difference(found, expected) < NEAR[dtype]
            else:
                assert difference(found, expected) < 1.5 * difference(rounded, expected)


def test_it_computes_the_same_bytes_again() -> None:
    _, changed = unets("sd1", torch.float32)
    first, again = passed(changed, "sd1"), passed(changed, "sd1")
    assert all(map(torch.equal, first, again))


@needs_bf16
def test_under_autocast_the_input_is_lowered() -> None:
    plain, changed = unets("sd1", torch.bfloat16)
    layer = next(m for m in changed.modules() if isinstance(m, RelaidConvolution))
    x = torch.randn(1, layer.in_channels, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        pairs = zip(passed(changed, "sd1"), passed(plain, "sd1"), strict=True)
    for found, expected in pairs:
        assert difference(found, expected) < NEAR[torch.bfloat16]


@needs_bf16
def test_the_plain_weights_come_back_bit_for_bit() -> None:
    plain, changed = unets("sdxl", torch.bfloat16)
    before, after = plain.state_dict(), changed.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    sums = [sum_of_bits(list(state.values())) for state in (before, after)]
    assert sums[0] == sums[1]


def test_a_copy_computes_the_same() -> None:
    _, changed = unets("sd2", torch.float32)
    copied = copy.deepcopy(changed)
    assert all(map(torch.equal, passed(copied, "sd2"), passed(changed, "sd2")))


def test_gradient_checkpointing_computes_the_same() -> None:
    _, changed = unets("sd1", torch.float32)
    expected = passed(changed, "sd1")
    changed.enable_gradient_checkpointing()
    changed.train()
    assert all(map(torch.equal, passed(changed, "sd1"), expected))


@needs_bf16
@pytest.mark.usefixtures("any_size")
def test_a_step_in_float32_has_no_rounding(models: Path) -> None:
    config = ModelConfig(source=str(models / "sd1"), precision="bf16")
    parts, _ = load_unplaced(config, torch.device("cpu"))
    assert laid_out(parts.denoiser)
    assert attends_our_way(parts)
    plain: Any = copy.deepcopy(FAMILIES["sd1"].load(config, torch.bfloat16).denoiser).float()
    with full_precision(parts):
        found = passed(parts.denoiser, "sd1")
    for one, other in zip(found, passed(plain, "sd1"), strict=True):
        assert difference(one, other) < NEAR[torch.float32]
    assert parts.dtype == torch.bfloat16


def test_a_small_model_stays_as_it_is(models: Path) -> None:
    config = ModelConfig(source=str(models / "sd1"), precision="bf16")
    parts, _ = load_unplaced(config, torch.device("cpu"))
    assert not laid_out(parts.denoiser)
    assert not attends_our_way(parts)


def laid_out(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, RelaidConvolution | RelaidLinear)]


def attends_our_way(parts: Components) -> bool:
    return any(isinstance(each, CpuAttention) for each in parts.denoiser.attn_processors.values())


@pytest.mark.usefixtures("any_size")
def test_a_compiled_model_stays_as_it_is(models: Path) -> None:
    config = ModelConfig(source=str(models / "sd1"), precision="bf16", compile_backend="eager")
    parts, _ = load_unplaced(config, torch.device("cpu"))
    assert not laid_out(parts.denoiser)


@pytest.mark.usefixtures("any_size")
def test_a_model_in_8_bits_keeps_them(models: Path) -> None:
    config = ModelConfig(source=str(models / "sd1"), precision="bf16", fp8_unet=True)
    parts, _ = load_unplaced(config, torch.device("cpu"))
    assert not laid_out(parts.denoiser)


def test_threads_are_chosen_by_all_weights() -> None:
    plain, changed = unets("sd1", torch.float32)
    assert parameter_count(changed) == parameter_count(plain)
    assert parameter_count(plain) == sum(weight.numel() for weight in plain.parameters())


def test_of_a_huge_unet_only_convolutions_are_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaid, "MOST_PARAMETERS", 1000)
    _, changed = unets("sdxl", torch.float32)
    assert {m.kernel_size for m in laid_out(changed) if isinstance(m, nn.Conv2d)} == {(3, 3)}
    assert not any(isinstance(m, RelaidLinear) for m in changed.modules())


class Patched(nn.Conv2d):
    """As tools replace a layer."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(32, 32, 3, padding=1, stride=2, dtype=torch.bfloat16),
        nn.Conv2d(32, 32, 3, stride=2),
        nn.Conv2d(32, 32, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.Conv2d(32, 32, 3, padding="same"),
        nn.Conv2d(4, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, dtype=torch.float16),
        nn.Conv2d(32, 32, 3, padding=1, device="meta"),
        nn.Conv2d(32, 32, 1, stride=2),
        Patched(32, 32, 3, padding=1),
        nn.Conv1d(32, 32, 3),
        nn.Linear(32, 20),
        nn.Bilinear(32, 32, 32),
    ],
)
def test_other_layers_are_left_alone(layer: nn.Module) -> None:
    assert not is_fit(layer.requires_grad_(False))


def test_a_layer_that_trains_is_left_alone() -> None:
    assert not is_fit(nn.Conv2d(32, 32, 3, padding=1))
    assert is_fit(nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False))
    assert is_fit(nn.Linear(32, 32).requires_grad_(False))


def wrong_numbers(reorder: Any) -> Callable[..., Tensor]:
    def laid_out(weight: Tensor, *rest: Any) -> Tensor:
        return reorder(weight * 1.1, *rest)  # type: ignore[no-any-return]

    return laid_out


def no_such_primitive(_: Any) -> Callable[..., Tensor]:
    def laid_out(*_: Any) -> Tensor:
        raise RuntimeError("could not create a primitive\nmore")

    return laid_out


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(wrong_numbers, "differs by 1e-01"), (no_such_primitive, "could not create a primitive")],
)
def test_operators_that_are_wrong_are_not_used(
    broken: Callable[[Any], Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    operators = torch.ops.mkldnn
    name = "_reorder_linear_weight"
    monkeypatch.setattr(operators, name, broken(getattr(operators, name)))
    unet = parts_of("sd1")["unet"]
    with caplog.at_level(logging.INFO, logger="coinage"):
        assert relay_weights(unet) == 0
    assert not laid_out(unet)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("note: this PyTorch computes the UNet's layers the slower way:")
    assert message.endswith(reason)


def test_operators_that_are_missing_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relaid, "OPERATORS", ("_of_another_version",))
    with caplog.at_level(logging.INFO, logger="coinage"):
        assert relay_weights(parts_of("sd1")["unet"]) == 0
    assert "it lacks _of_another_version" in caplog.text


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("precision", ["no", pytest.param("bf16", marks=needs_bf16)])
def test_a_resumed_run_computes_as_before(
    precision: str, moon_dataset: Path, tmp_path: Path
) -> None:
    common = (
        f"--mixed_precision={precision}",
        "--save_every_n_steps=2",
        "--save_state",
        "--max_train_steps=4",
    )
    run, word = trained(moon_dataset, tmp_path / "whole", *common)
    (state,) = (tmp_path / "whole").glob("*step00000002-state")
    _, again = trained(moon_dataset, tmp_path / "again", f"--resume={state}", *common)
    assert laid_out(run.parts.denoiser)
    assert attends_our_way(run.parts) == (precision == "bf16")
    assert torch.equal(rows_of(word), rows_of(again))


@pytest.mark.usefixtures("any_size")
@torch.no_grad()
def test_a_vae_in_float32_computes_the_plain_pictures() -> None:
    plain = parts_of("sd1")["vae"].requires_grad_(False)
    changed = copy.deepcopy(plain)
    cpu_layers.use_cpu_vae(changed)
    assert sum(isinstance(m, WinogradConvolution) for m in changed.modules()) > 10
    assert changed.state_dict().keys() == plain.state_dict().keys()
    picture = torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(3))
    latents = [vae.encode(picture).latent_dist.mode() for vae in (changed, plain)]
    assert difference(*latents) < NEAR[torch.float32]
    assert not torch.equal(*latents)
    pictures = [vae.decode(latents[0]).sample for vae in (changed, plain)]
    assert difference(*pictures) < NEAR[torch.float32]


def test_a_vae_in_another_precision_or_with_a_gradient_computes_plainly() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
    changed = copy.deepcopy(plain)
    changed.__class__ = WinogradConvolution
    x = torch.randn(1, 32, 6, 5)
    assert not torch.equal(changed(x), plain(x))
    leaf = x.clone().requires_grad_()
    assert torch.equal(changed(leaf), plain(leaf))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(changed(x), plain(x))
    assert torch.equal(changed.double()(x.double()), plain.double()(x.double()))
