"""Latents: cached and uncached alike, bad numbers retried, then named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from coinage.data.batches import plan_epoch
from coinage.data.latents import Latents, encode
from coinage.data.scan import Sample, scan
from coinage.demo.run import MODEL
from coinage.errors import CoinageError
from tests.helpers import config_for


def vae(dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(MODEL / "vae", torch_dtype=dtype).eval()


def samples(moon_dataset: Path, tmp_path: Path, *more: str) -> list[Sample]:
    return scan(config_for(moon_dataset, tmp_path, *more).data)[0]


@pytest.mark.parametrize("readers", [0, 2])
def test_cached_latents_are_those_encoded_on_the_way(moon_dataset: Path, tmp_path: Path, readers: int) -> None:
    images = samples(moon_dataset, tmp_path, "--flip_aug")
    plan = plan_epoch(images, [4], seed=0, epoch=0)[:3]
    live = list(Latents(vae(), images, readers).of(plan))
    cached = Latents(vae(), images, readers)
    done: list[int] = []
    cached.cache(3, done.append)
    assert done[-1] == 16
    for one, two in zip(live, cached.of(plan), strict=True):
        assert one.shape == (4, 2, 4, 16, 16)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_mean_and_deviation_are_the_posteriors() -> None:
    pixels = np.zeros((3, 64, 64), dtype=np.float32)
    model = vae()
    (moments,) = encode(model, [pixels], ["a.png"])
    with torch.no_grad():
        posterior = model.encode(torch.zeros(1, 3, 64, 64)).latent_dist
    torch.testing.assert_close(moments[0], posterior.mean[0])
    torch.testing.assert_close(moments[1], posterior.std[0])


def overflowing() -> AutoencoderKL:
    """A VAE whose first layer overflows in half precision and not in single."""
    model = vae(torch.float16)
    with torch.no_grad():
        model.encoder.conv_in.weight.mul_(3e4)
        model.encoder.conv_in.bias.mul_(3e4)
    return model


def test_an_overflow_is_retried_in_float32() -> None:
    model = overflowing()
    pixels = np.ones((3, 64, 64), dtype=np.float32)
    assert not torch.isfinite(model.encode(torch.ones(1, 3, 64, 64).half()).latent_dist.mean).all()
    (moments,) = encode(model, [pixels], ["a.png"])
    assert torch.isfinite(moments).all()
    assert model.dtype == torch.float16


def test_an_image_without_finite_latents_is_named() -> None:
    model = vae()
    with torch.no_grad():
        model.quant_conv.bias.fill_(float("nan"))
    with pytest.raises(CoinageError, match=r"no finite latents[\s\S]*b\.png"):
        encode(model, [np.zeros((3, 64, 64), dtype=np.float32)], ["b.png"])
