"""Keep the model libraries' progress bars and advice off the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from coinage.models.loading_lock import LOADING_LOCK
from coinage.terminal.messages import Lines

# Of diffusers to huggingface_hub
HUB_WARNING = "The `local_dir_use_symlinks` argument"
# Imported by diffusers; complains about what a CPU lacks
BITSANDBYTES = "bitsandbytes"
# Of diffusers, on each conversion of a part of which nothing must stay in float32
MODULES, NOTHING_TO_KEEP = "diffusers.models.modeling_utils", "kept in float32: []"


def quiet_libraries() -> None:
    """Silence the libraries in this process; their warnings then look as ours do. For programs."""
    import diffusers  # noqa: F401 - makes its log
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=HUB_WARNING)
    for name in ("diffusers", "transformers"):
        for handler in logging.getLogger(name).handlers:
            # Names of tensors in their messages are strangers' text
            handler.setFormatter(Lines())
    logging.getLogger(BITSANDBYTES).setLevel(logging.ERROR)


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Silence the libraries for a `with` block; afterwards their settings are as before.

    One thread at a time: the settings are those of the process.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as library

    with LOADING_LOCK:
        bitsandbytes, modules = logging.getLogger(BITSANDBYTES), logging.getLogger(MODULES)
        verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
        hub_bars, level = not are_progress_bars_disabled(), bitsandbytes.level
        try:
            library.disable_progress_bar()
            library.set_verbosity_error()
            disable_progress_bars()
            bitsandbytes.setLevel(logging.ERROR)
            modules.addFilter(_is_of_use)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=HUB_WARNING)
                yield
        finally:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
            if hub_bars:
                enable_progress_bars()
            else:
                disable_progress_bars()
            bitsandbytes.setLevel(level)
            modules.removeFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a message of diffusers says something."""
    return NOTHING_TO_KEEP not in record.getMessage()
