"""Model families behind one protocol; a new one is a file and a row in this table."""

from coinage.families.base import Components, Conditioning, ModelFamily
from coinage.families.sd1 import SD1
from coinage.families.sd2 import SD2
from coinage.families.sdxl import SDXL

FAMILIES: dict[str, ModelFamily] = {"sd1": SD1(), "sd2": SD2(), "sdxl": SDXL()}

__all__ = ["FAMILIES", "Components", "Conditioning", "ModelFamily", "quiet_libraries"]


def quiet_libraries() -> None:
    """Keep the model libraries' own progress bars and advice off the terminal."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
