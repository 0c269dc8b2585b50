"""Model families behind one protocol; a new one is a row in this table, and a file where it works in another way."""

import logging
import warnings

from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.sdxl import SDXL
from coinage.models.stable_diffusion import StableDiffusion
from coinage.terminal.messages import Lines

FAMILIES: dict[str, ModelFamily] = {
    "sd1": StableDiffusion("sd1", "stable-diffusion-v1", 512, open_clip=False),
    "sd2": StableDiffusion("sd2", "stable-diffusion-v2-512", 768, open_clip=True),
    "sdxl": SDXL(),
}

__all__ = ["FAMILIES", "Components", "Conditioning", "ModelFamily", "quiet_libraries"]


def quiet_libraries() -> None:
    """Keep the model libraries' own progress bars and advice off the terminal; what they warn of looks as ours does."""
    import diffusers  # noqa: F401 - makes its log
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # Of diffusers to huggingface_hub
    warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument")
    for name in ("diffusers", "transformers"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(Lines())  # names of tensors in their messages are strangers' text
    # Imported by diffusers; tells what a CPU lacks
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
