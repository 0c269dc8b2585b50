"""Parts and pictures that a model cannot take: told before a layer fails on their shapes."""

from pathlib import Path

import pytest
import torch

from coinage.errors import CoinageError
from coinage.models.families import FAMILIES
from tests.tiny_models import loaded


@pytest.mark.parametrize(
    ("family", "other", "what"),
    [
        ("sd3", "sd1", "the VAE's latents have 4 channels, and the model takes 16"),
        ("flux", "sd1/vae", "the VAE's latents have 4 channels, and the model takes 16"),
        ("sd1", "sd3", "the VAE's latents have 16 channels, and the model takes 4"),
        ("sdxl", "flux/vae", "the VAE's latents have 16 channels, and the model takes 4"),
    ],
)
def test_a_vae_of_another_family_is_refused(
    family: str, other: str, what: str, models: Path, sd3: Path, flux: Path
) -> None:
    folders = {"sd3": sd3, "flux": flux, "sd1": models / "sd1", "sdxl": models / "sdxl"}
    name, _, part = other.partition("/")
    with pytest.raises(CoinageError, match=f"--vae: {what}") as caught:
        loaded(family, folders[family], models, vae=str(folders[name] / part))
    assert "give a VAE of" in caught.value.problems[0].hint


def test_the_places_of_a_picture_have_an_end(sd3: Path, models: Path) -> None:
    parts = loaded("sd3", sd3, models)
    family, sizes = FAMILIES["sd3"], torch.zeros(1, 6)
    cond = family.encode(parts, ["zibu"], sizes)
    most = 2 * parts.denoiser.config.pos_embed_max_size
    for side, fits in ((most, True), (most + 2, False)):
        latents, times = torch.zeros(1, 16, 4, side), torch.full((1,), 0.5)
        if fits:
            with torch.no_grad():
                assert family.predict(parts, latents, times, cond).shape == latents.shape
            continue
        with pytest.raises(CoinageError, match="256 pixels along a side at most"):
            family.predict(parts, latents, times, cond)
