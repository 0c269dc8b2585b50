"""Load what models of flow matching have in common: a transformer, and the settings of its sampler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.detect import UNET
from coinage.models.facts import FamilyFacts
from coinage.models.loading import Source
from coinage.models.pretrained import pretrained
from coinage.text.placeholder import CHUNK

log = logging.getLogger("coinage")
WHOLE_WAY = 1000  # steps of the sampler's schedule; of some transformers the time at pure noise


def note_length(model: ModelConfig, facts: FamilyFacts) -> None:
    """Log that `--max_token_length` has no effect, where it is given."""
    if model.max_token_length > CHUNK:
        log.info(
            "note: --max_token_length has no effect on %s, which reads %d tokens of CLIP and %d of T5",
            facts.display_name,
            CHUNK,
            facts.t5s[0].room,
        )


def sampler_settings(source: Source) -> dict[str, Any]:
    """Return the settings of a model's scheduler.

    Raises:
        CoinageError: they are not those of flow matching.
    """
    settings = {"num_train_timesteps": WHOLE_WAY, **source.settings_of_scheduler()}
    if "beta_schedule" in settings or settings["num_train_timesteps"] != WHOLE_WAY:
        what = "the model's scheduler settings are not those of flow matching"
        raise CoinageError(what, f"{source.configs}/scheduler", "download the model again")
    return settings


def load_transformer(
    source: Source,
    dtype: torch.dtype,
    cls: Any,
    settings_of: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, Any]],
    converted: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
) -> Any:
    """Load a transformer in `dtype`, from a diffusers folder or a single file.

    Args:
        source: of the model.
        dtype: of the weights.
        cls: diffusers' class.
        settings_of: returns its settings, from the shapes in a single file, without prefix.
        converted: returns a single file's tensors under diffusers' names.
    """
    if source.tensors is None:
        return pretrained(cls, source.path, "transformer", torch_dtype=dtype)
    tensors = {
        name.removeprefix(UNET): tensor
        for name, tensor in source.tensors.items()
        if name.startswith(UNET)
    }
    settings = settings_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.device("meta"):
        transformer = cls(**settings)
    transformer.load_state_dict(converted(tensors), strict=False, assign=True)
    return transformer.to(dtype)
