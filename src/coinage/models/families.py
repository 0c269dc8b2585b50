"""Model families behind one protocol.

A new family is a row here and in `facts`, and a file of its own if it works differently.
"""

from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.facts import FLUX, SD1, SD2, SD3, SDXL
from coinage.models.flux import Flux
from coinage.models.sd3 import StableDiffusion3
from coinage.models.sdxl import StableDiffusionXL
from coinage.models.stable_diffusion import StableDiffusion

FAMILIES: dict[str, ModelFamily] = {
    SD1.name: StableDiffusion(SD1),
    SD2.name: StableDiffusion(SD2),
    SDXL.name: StableDiffusionXL(SDXL),
    SD3.name: StableDiffusion3(SD3),
    FLUX.name: Flux(FLUX),
}

__all__ = ["FAMILIES", "Components", "Conditioning", "ModelFamily"]
