"""Weights that are copied to the device where they are used: the same numbers, and little room."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coinage.models import streaming
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.frozen import FrozenConvolution, FrozenLinear
from coinage.models.pinned_memory import PinnedMemory
from coinage.models.streaming import blocks_of, stream
from tests.tiny_models import CONTEXT, parts_of

CPU = torch.device("cpu")
LIMIT, LEAST = 40_000, 2_000  # bytes


def unet_of(family: str, *, eight_bits: bool, checkpointed: bool = False) -> Any:
    unet: Any = parts_of(family)["unet"]
    if eight_bits:
        keep_in_eight_bits(unet)
    if checkpointed:
        unet.enable_gradient_checkpointing()
        unet.train()
    return unet


def streamed(unet: Any) -> Any:
    stream(unet, CPU, limit=LIMIT, least=LEAST)
    return unet


def predicted(unet: Any, family: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A prediction, and the text that it comes from."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, 7, CONTEXT[family], generator=generator).requires_grad_()
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    more = {"text_embeds": torch.ones(2, 64), "time_ids": torch.ones(2, 6)}
    # As a text encoder's output: autocast would convert a leaf once for all layers
    made = unet(noisy, torch.tensor([3, 900]), text.clone(), added_cond_kwargs=more).sample
    return made, text


def passed(unet: Any, family: str, seed: int = 0) -> list[Tensor]:
    """A prediction and the gradient that reaches its text."""
    made, text = predicted(unet, family, seed)
    made.float().square().sum().backward()
    assert text.grad is not None
    return [made.detach(), text.grad]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_numbers_are_those_of_a_model_on_the_device(
    family: str, eight_bits: bool, checkpointed: bool, lower: bool
) -> None:
    unet = unet_of(family, eight_bits=eight_bits, checkpointed=checkpointed)
    with torch.autocast("cpu", torch.bfloat16) if lower else nullcontext():
        expected = passed(unet, family)
        streamed(unet)
        assert same(passed(unet, family), expected)
        assert same(passed(unet, family), expected), "and when copies are made ahead"


@contextmanager
def weights_used() -> Iterator[list[tuple[int, int]]]:
    """Collect where the memory is that lent weights lie in, and how large it is."""
    used: list[tuple[int, int]] = []
    lend = streaming._Streamer.lend

    def noted(*args: Any) -> Tensor:
        weight = lend(*args)
        storage = weight.untyped_storage()
        used.append((storage.data_ptr(), storage.nbytes()))
        return weight

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming._Streamer, "lend", noted)
        yield used


@pytest.mark.parametrize("eight_bits", [False, True])
def test_two_blocks_are_on_the_device_and_what_is_small(eight_bits: bool) -> None:
    unet = unet_of("sdxl", eight_bits=eight_bits, checkpointed=True)
    whole = sum(parameter.nbytes for parameter in unet.parameters())
    streamed(unet)
    with weights_used() as used:
        passed(unet, "sdxl")
        with torch.no_grad():
            predicted(unet, "sdxl")
    parts = blocks_of(unet, LIMIT, LEAST)
    blocks = [sum(layer.weight.nbytes for layer in part) for part in parts]
    assert len(blocks) > 10
    assert len(set(used)) == 2
    assert sum(size for _, size in set(used)) < 2 * max(blocks) + 2 * 256 * 20
    lent = [layer for layer in unet.modules() if getattr(layer, "lender", None)]
    stays = whole - sum(layer.weight.nbytes for layer in lent)
    assert sum(blocks) == whole - stays
    assert stays < whole / 4
    sizes = zip(blocks, parts, strict=True)
    assert all(size <= LIMIT for size, part in sizes if len(part) > 1)


def test_blocks_are_there_before_they_are_used() -> None:
    unet = streamed(unet_of("sdxl", eight_bits=True, checkpointed=True))
    told: list[str] = []

    def telling(owner: type, name: str, word: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def told_of(*args: Any) -> Any:
            told.append(word(*args))
            return real(*args)

        patched.setattr(owner, name, told_of)

    with pytest.MonkeyPatch.context() as patched:
        telling(streaming._Buffer, "fill", lambda _, number, __: f"copy {number}")
        telling(streaming._Streamer, "_turn_to", lambda _, number: f"use {number}")
        for _ in range(3):
            told.clear()
            passed(unet, "sdxl")
    late = [one for one, other in pairwise(told) if one.replace("use", "copy") == other]
    copies = [word for word in told if word.startswith("copy")]
    assert len(copies) > 30
    assert not late


def test_passes_may_come_in_any_order() -> None:
    plain = unet_of("sd1", eight_bits=True)
    expected = [passed(plain, "sd1", seed) for seed in range(3)]
    unet = streamed(unet_of("sd1", eight_bits=True))
    made = [predicted(unet, "sd1", seed) for seed in range(3)]
    with torch.inference_mode():
        assert torch.equal(predicted(unet, "sd1", 1)[0], expected[1][0])
    for prediction, _ in reversed(made):
        prediction.square().sum().backward()
    found = [[prediction.detach(), text.grad] for prediction, text in made]
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))  # type: ignore[arg-type]


def test_drawing_may_come_first() -> None:
    expected = passed(unet_of("sd1", eight_bits=False), "sd1")
    unet = streamed(unet_of("sd1", eight_bits=False))
    with torch.inference_mode():
        predicted(unet, "sd1")
    assert same(passed(unet, "sd1"), expected)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("place", ["layer", "copy"])
def test_after_an_interruption_the_next_pass_is_right(place: str, backward: bool) -> None:
    expected = passed(unet_of("sd1", eight_bits=True, checkpointed=True), "sd1")
    unet = streamed(unet_of("sd1", eight_bits=True, checkpointed=True))
    passed(unet, "sd1", seed=1)
    made, _ = predicted(unet, "sd1")
    left = 9

    def interrupted(*args: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left <= 0:
            raise KeyboardInterrupt
        return real(*args, **more)

    with pytest.MonkeyPatch.context() as patched:
        # A layer, or the middle of a block
        owner, name = (streaming._Streamer, "lend") if place == "layer" else (Tensor, "copy_")
        real = getattr(owner, name)
        patched.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.sum().backward() if backward else predicted(unet, "sd1")
    assert same(passed(unet, "sd1"), expected)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_copies_and_states_are_those_of_any_module(eight_bits: bool) -> None:
    plain = unet_of("sd1", eight_bits=eight_bits)
    expected = passed(plain, "sd1")
    unet = streamed(unet_of("sd1", eight_bits=eight_bits))
    passed(unet, "sd1")
    other = copy.deepcopy(unet)
    assert same(passed(other, "sd1"), expected)
    assert unet.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(unet.state_dict()[name], t) for name, t in plain.state_dict().items())
    for weight in other.state_dict().values():
        weight.zero_()
    assert not passed(other, "sd1")[0].any(), "what is on the device is not what was there"
    assert same(passed(unet, "sd1"), expected), "and a copy is a copy"
    other.load_state_dict(unet.state_dict())
    assert same(passed(other, "sd1"), expected)


def test_streamed_weights_stay_where_the_module_is_moved() -> None:
    unet = streamed(unet_of("sd1", eight_bits=False))
    unet.to("meta", torch.bfloat16)
    lent = [layer for layer in unet.modules() if getattr(layer, "lender", None)]
    assert {(layer.weight.device, layer.weight.dtype) for layer in lent} == {(CPU, torch.float32)}
    ids = {id(layer.weight) for layer in lent}
    rest = [parameter for parameter in unet.parameters() if id(parameter) not in ids]
    assert {(parameter.device.type, parameter.dtype) for parameter in rest} == {
        ("meta", torch.bfloat16)
    }
    assert unet.conv_in.weight.is_meta, "who asks for the first parameter learns the device"


def test_strides_are_kept() -> None:
    memory = PinnedMemory(CPU)
    for tensor in (
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.randn(5, 3).t(),
        torch.randn(6),
    ):
        copied = memory.copy_of(tensor)
        assert copied.stride() == tensor.stride()
        assert torch.equal(copied, tensor)
    gaps = torch.randn(4, 6)[:, ::2]
    assert torch.equal(memory.copy_of(gaps), gaps)


def test_layers_of_a_module_that_is_small_stay_on_the_device() -> None:
    module = nn.Sequential(nn.Linear(32, 32), nn.Conv2d(16, 16, 3))
    stream(module, CPU)
    assert isinstance(module[0], FrozenLinear)
    assert isinstance(module[1], FrozenConvolution)
    assert module[0].lender is None
    assert not blocks_of(module, 10**6, 10**6)
