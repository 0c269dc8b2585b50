"""Inpainting models: a UNet that also reads a mask and the picture outside it, given a full mask.

Such a UNet has 9 input channels in its first convolution: 4 of noisy latents, 1 of the mask (1 where
is to be painted), 4 of the masked picture's latents. With a full mask everything is to be painted, and
the masked picture is grey: 0 in the -1..1 of pixels, as the pipelines and tools that draw make it.
Then the UNet does what its ordinary sibling does, and all that is around it may take it for one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from coinage.errors import CoinageError
from coinage.models.vae import in_memory, placed, side_factor, widened

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

log = logging.getLogger("coinage")
NOTE = (
    "this is an inpainting model: it trains and draws with a full mask, as if everything were to be "
    "painted; the word works in ordinary models of its family too"
)


class FullMask:
    """The channels beside the noisy latents under a full mask.

    Args of the constructor:
        vae: of the model, wherever it is.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        self._vae = vae
        self._kept: dict[tuple[int, int, torch.device], Tensor] = {}

    @torch.no_grad()
    def beside(self, latents: Tensor) -> Tensor:
        """Return mask and masked picture for [B, C, h, w] noisy latents: [B, 1 + C, h, w] of their dtype.

        Those of a size are computed once, and stay where they are in memory, as recorded steps need it.

        Raises:
            CoinageError: the VAE makes no finite latents of grey.
        """
        height, width = latents.shape[-2:]
        key = height, width, latents.device
        if key not in self._kept:
            grey = self._grey(height, width, latents.device)
            self._kept[key] = torch.cat([torch.ones_like(grey[:, :1]), grey], dim=1)
        return self._kept[key].to(latents.dtype).expand(len(latents), -1, -1, -1)

    def _grey(self, height: int, width: int, device: torch.device) -> Tensor:
        """Return the scaled latents of a grey picture, [1, C, h, w] float32: the mean of the posterior."""
        vae, factor = self._vae, side_factor(self._vae)

        def encoded() -> Tensor:
            pixels = torch.zeros(
                1, 3, height * factor, width * factor, device=device, dtype=vae.dtype
            )
            mean: Tensor = vae.encode(pixels).latent_dist.mean
            return mean.float() * float(vae.config.scaling_factor)

        while True:
            with placed(vae, device, vae.dtype):
                grey = in_memory(vae, encoded, 1, max(height, width))
            if torch.isfinite(grey).all():
                return grey
            if not widened(vae, device):
                what = "the VAE makes no finite latents of a grey picture"
                raise CoinageError(what, hint="try --no_half_vae or another --vae")


class MaskedConvolution(nn.Module):
    """The first convolution of an inpainting UNet, which is given noisy latents alone.

    Args of the constructor:
        convolution: as the model has it.
        full_mask: what it reads beside them.
    """

    def __init__(self, convolution: nn.Module, full_mask: FullMask) -> None:
        super().__init__()
        self.convolution = convolution
        self._full_mask = full_mask

    def forward(self, latents: Tensor) -> Tensor:
        """Return the features of [B, C, h, w] noisy latents."""
        inputs = torch.cat([latents, self._full_mask.beside(latents)], dim=1)
        features: Tensor = self.convolution(inputs)
        return features


def paint_everything(unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    """Give an inpainting UNet a full mask, in place; any other stays as it is.

    Args:
        unet: its settings say how many channels it reads; afterwards they are those of the latents.
        vae: of the model, which makes the masked picture's latents when a size is first met.
    """
    channels = int(vae.config.latent_channels)
    if unet.config.in_channels != 2 * channels + 1:
        return
    log.info("note: %s", NOTE)
    unet.conv_in = MaskedConvolution(unet.conv_in, FullMask(vae))
    unet.register_to_config(in_channels=channels)
