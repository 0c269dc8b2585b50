"""What happens where a device's memory is full: pictures in parts, and what else may help."""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from coinage.cli.console import exit_code_of
from coinage.data.buckets import Fit
from coinage.data.images import View
from coinage.data.latents import encode
from coinage.demo.run import MODEL
from coinage.generate import _decode
from coinage.models.base import Components
from coinage.models.vae import placed
from coinage.system.full_memory import is_full
from coinage.training.diagnosis import as_training_error, smaller
from tests.helpers import config_for, libraries_told

Work = Callable[[Any, Tensor], Tensor]
SAID = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
    RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: "
        "can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    MemoryError(),
)


@contextmanager
def small_memory(module: nn.Module, most: int, error: Exception) -> Iterator[list[torch.Size]]:
    """Have room for so many numbers in a part of the VAE.

    Yields the shapes of what it gets, attempts that fail included.
    """
    shapes: list[torch.Size] = []
    made: list[weakref.ref[Tensor]] = []

    def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert all(tensor() is None for tensor in made), "what a failed attempt has made is gone"
        shapes.append(given[0].shape)
        if given[0].numel() > most:
            activations = given[0] * 2
            made.append(weakref.ref(activations))
            raise type(error)(*error.args)

    hook = module.register_forward_pre_hook(see)
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers import AutoencoderKL

    found = AutoencoderKL.from_pretrained(MODEL, subfolder="vae").eval().requires_grad_(False)
    # pixels, as those of Stable Diffusion
    found.tile_sample_min_size, found.tile_latent_min_size = 512, 128
    return found


def settings(vae: Any) -> tuple[object, ...]:
    return vae.use_slicing, vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size


def decoded(vae: Any, latents: Tensor) -> Tensor:
    class Parts:
        device, scaling_factor, low_memory = torch.device("cpu"), 1.0, False
        unscaled = Components.unscaled

    parts: Any = Parts()
    parts.vae = vae
    with torch.no_grad():
        return _decode(parts, latents.clone())


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    fit = Fit((width, height), (width, height), (0, 0))
    return torch.stack(
        [
            latent.moments
            for latent in encode(
                vae, [View(x.numpy(), None, fit) for x in pixels], [""] * len(pixels)
            )
        ]
    )


@pytest.fixture(scope="module")
def pictures(moon_dataset: Path) -> Tensor:
    """Two pictures of 80 x 64 pixels."""
    files = sorted((moon_dataset.parent / "images").glob("*.png"))[:2]
    found = [
        np.asarray(Image.open(file).convert("RGB").resize((80, 64)), dtype=np.float32)
        for file in files
    ]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture(params=["decoder", "encoder"])
def given(
    request: pytest.FixtureRequest, vae: Any, pictures: Tensor
) -> tuple[nn.Module, Work, Tensor]:
    """A half of the VAE, what is done with it, and what it gets."""
    if request.param == "encoder":
        return vae.encoder, encoded, pictures
    return vae.decoder, decoded, encoded(vae, pictures)[:, 0]


@pytest.mark.parametrize("error", SAID[:6], ids=str)
def test_pictures_that_do_not_fit_together_are_done_one_by_one(
    vae: Any, given: tuple[nn.Module, Work, Tensor], error: Exception
) -> None:
    part, work, batch = given
    whole, before = work(vae, batch), settings(vae)
    with small_memory(part, batch[0].numel(), error) as shapes:
        found = work(vae, batch)
    assert shapes == [batch.shape, *[batch[:1].shape] * 2]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
    assert settings(vae) == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_that_does_not_fit_is_done_in_tiles(
    vae: Any, given: tuple[nn.Module, Work, Tensor], count: int
) -> None:
    """Though it is smaller than what diffusers makes tiles of."""
    part, work, batch = given
    batch = batch[:count]
    whole, before = work(vae, batch), settings(vae)
    with small_memory(part, batch[0].numel() // 2, SAID[0]) as shapes:
        found = work(vae, batch)
    tiles = shapes[count:]  # after all at once, and the first of two alone
    assert len(tiles) > 2 * count
    assert all(
        len(tile) == 4 and tile[0] == 1 and max(tile[2:]) <= max(batch.shape[2:]) // 2
        for tile in tiles
    )
    assert found.shape == whole.shape
    assert (
        torch.cosine_similarity(
            (found - whole.mean()).flatten(), (whole - whole.mean()).flatten(), dim=0
        )
        > 0.93
    )
    assert settings(vae) == before


@pytest.mark.parametrize(
    ("error", "attempts"), [(SAID[0], 3), (RuntimeError("something else"), 1)], ids=str
)
def test_what_does_not_fit_even_so_and_other_errors_are_raised(
    vae: Any, given: tuple[nn.Module, Work, Tensor], error: Exception, attempts: int
) -> None:
    part, work, batch = given
    before = settings(vae)
    with small_memory(part, 0, error) as shapes, pytest.raises(type(error), match=str(error)[:10]):
        work(vae, batch)
    assert len(shapes) == attempts
    assert settings(vae) == before


@pytest.mark.parametrize(
    ("batch", "flags", "hint"),
    [
        (
            1,
            (),
            (
                "--gradient_checkpointing, --mixed_precision bf16, --cache_latents, --low_memory, "
                "or a smaller resolution"
            ),
        ),
        (
            2,
            ("--cache_latents_to_disk",),
            (
                "--gradient_checkpointing, --mixed_precision bf16, --low_memory, a smaller batch, "
                "or a smaller resolution"
            ),
        ),
        (
            1,
            ("--mixed_precision=bf16", "--gradient_checkpointing", "--color_aug"),
            "--fp8_base, --low_memory, or a smaller resolution",
        ),
        (
            1,
            ("--mixed_precision=bf16", "--low_memory"),
            "a smaller resolution",
        ),
    ],
)
def test_only_what_is_not_on_yet_is_offered(
    batch: int, flags: tuple[str, ...], hint: str, moon_dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "dataset.toml"
    data.write_text(re.sub(r"batch_size = \d+", f"batch_size = {batch}", moon_dataset.read_text()))
    assert smaller(config_for(data, tmp_path, *flags)) == f"use {hint}"


@pytest.mark.parametrize("error", SAID, ids=lambda e: str(e) or type(e).__name__)
def test_a_full_memory_is_recognised(error: Exception, moon_dataset: Path, tmp_path: Path) -> None:
    assert is_full(error)
    whose = (
        "the computer's" if "CPU" in str(error) or isinstance(error, MemoryError) else "the GPU's"
    )
    run: Any = SimpleNamespace(step=4, config=config_for(moon_dataset, tmp_path))
    found = as_training_error(error, run)
    assert found is not None
    assert found.problems[0].what == f"{whose} memory is full"
    assert found.problems[0].where == "step 5"
    assert found.problems[0].hint.endswith("or a smaller resolution")


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch: 3 and 4"), ValueError("out of memory")], ids=str
)
def test_other_errors_are_no_full_memory(error: Exception) -> None:
    assert not is_full(error)
    with pytest.raises(type(error)):
        exit_code_of(lambda: raised(error))


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", SAID, ids=lambda e: str(e) or type(e).__name__)
def test_a_command_ends_with_a_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """While a model is loaded, images are encoded, or pictures are drawn."""
    assert exit_code_of(lambda: raised(error)) == 1
    told = capsys.readouterr().err
    assert "memory is full\n" in told
    assert "hint: use a lower precision" in told
    assert "Traceback" not in told


def test_a_vae_comes_and_goes_without_a_word(vae: Any) -> None:
    with libraries_told() as told, placed(vae, torch.device("cpu"), torch.bfloat16):
        assert {p.dtype for p in vae.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert not told


def test_in_low_memory_large_pictures_are_decoded_in_tiles_at_once(vae: Any) -> None:
    class Parts:
        device, scaling_factor, low_memory = torch.device("cpu"), 1.0, True
        unscaled = Components.unscaled

    parts: Any = Parts()
    parts.vae = vae
    for side, count in ((64, 1), (72, 4)):
        seen: list[torch.Size] = []
        with (
            vae.decoder.register_forward_pre_hook(
                lambda _, given, s=seen: s.append(given[0].shape)
            ),
            torch.no_grad(),
        ):
            _decode(parts, torch.zeros(1, vae.config.latent_channels, side, side))
        assert (len(seen) >= count) == (count > 1 or len(seen) == 1)
        assert max(shape[-1] for shape in seen) <= 64
