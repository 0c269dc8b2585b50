"""Import what every model needs of the model libraries, and nothing that they would import beside it."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from coinage.models.loading_lock import LOADING_LOCK
from coinage.system.garbage import not_collecting

BITSANDBYTES = "bitsandbytes"
# Of diffusers: where it imports bitsandbytes, under which name, and what says that it can
QUANTIZER, NAME = "diffusers.quantizers.bitsandbytes.utils", "bnb"
AVAILABILITY, IS_AVAILABLE = "diffusers.utils.import_utils", "_bitsandbytes_available"


def import_libraries() -> None:
    """Import the classes of models and tokenizers; afterwards all can be used as if imported plainly.

    bitsandbytes takes seconds to import and serves models that are stored in its formats: diffusers
    gets it when it asks for something in it. One thread at a time.
    """
    with LOADING_LOCK, not_collecting():
        if BITSANDBYTES not in sys.modules and QUANTIZER not in sys.modules:
            _put_off_bitsandbytes()
        from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
        from transformers import (  # noqa: F401
            CLIPTextModel,
            CLIPTextModelWithProjection,
            CLIPTokenizer,
        )


def _put_off_bitsandbytes() -> None:
    """Import the module of diffusers that uses bitsandbytes without importing the latter."""
    availability: Any = import_module(AVAILABILITY)
    if not getattr(availability, IS_AVAILABLE, False):
        return  # not installed, or this diffusers is another
    setattr(availability, IS_AVAILABLE, False)
    try:
        quantizer = import_module(QUANTIZER)
    except ImportError:
        return  # it has another place there: whoever needs it imports it
    finally:
        setattr(availability, IS_AVAILABLE, True)
    if not hasattr(quantizer, NAME):
        setattr(quantizer, NAME, _Later(BITSANDBYTES))


class _Later(ModuleType):
    """Stands for a module that is imported when something in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)
