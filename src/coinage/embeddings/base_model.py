"""The model that a word was trained on, as its header names it, beside the one that it is used with.

Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coinage.config import ModelConfig, PredictionType
from coinage.models.prediction import HEADER, NAMES, SPELLINGS, usual_prediction
from coinage.runs.digests import SHORT_DIGITS, short_hash

log = logging.getLogger("coinage")
# In headers: our own keys, then those of sd-scripts, and of AUTOMATIC1111's files as they are read
NAME_KEYS = ("ti.base_model", "ss_sd_model_name")
HASH_KEYS = ("ti.base_model_hash", "ss_sd_model_hash")
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
NO_DATA = "e3b0c442"  # the hash of a file that ends before what is hashed begins


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model, as far as it is known.

    Attributes:
        name: of its file or folder; "" if unknown.
        digits: as `short_hash` returns them; "" if unknown.
        predicts: None if unknown.
    """

    name: str = ""
    digits: str = ""
    predicts: PredictionType | None = None

    def __bool__(self) -> bool:
        return bool(self.name or self.digits)

    def __str__(self) -> str:
        if self.name and self.digits:
            return f"{self.name} ({self.digits})"
        return self.name or self.digits

    def is_same(self, other: BaseModel) -> bool:
        """Return whether nothing speaks against two models being one: their hashes, else their names."""
        if self.digits and other.digits:
            return self.digits == other.digits
        names = [_bare(model.name) for model in (self, other)]
        return not all(names) or names[0] == names[1]


def _bare(name: str) -> str:
    """Return a model's name without the suffix of a file, in small letters."""
    path = Path(name.lower())
    return path.stem if path.suffix in MODEL_SUFFIXES else path.name


def base_of_word(metadata: Mapping[str, str]) -> BaseModel:
    """Return the model that a word's header names.

    AUTOMATIC1111's newer hashes, of whole files, are left out: the names are compared instead.
    """
    name = next((metadata[key] for key in NAME_KEYS if metadata.get(key)), "")
    digits = next((metadata[key] for key in HASH_KEYS if metadata.get(key)), "").lower()
    if len(digits) != SHORT_DIGITS or digits == NO_DATA:
        digits = ""
    return BaseModel(name, digits, SPELLINGS.get(metadata.get(HEADER, "").strip().lower()))


def base_of_model(model: ModelConfig, predicts: str | None = None) -> BaseModel:
    """Return a model as words name it.

    Args:
        model: a file, a folder or a hub id.
        predicts: as the loaded model's schedule has it; None: as its settings or its file say.
    """
    known = SPELLINGS.get(predicts) if predicts else usual_prediction(model)
    return BaseModel(Path(model.source).name, short_hash(model.source), known)


def other_base(name: str, metadata: Mapping[str, str], model: BaseModel) -> str:
    """Return a warning that a word meets another model than that of its training; "" if it does not.

    Args:
        name: of the word or its file.
        metadata: of its header.
        model: that it is used with.
    """
    own = base_of_word(metadata)
    trained = f"{name} was trained on {own or 'a model'}"
    if own.predicts and model.predicts and own.predicts != model.predicts:
        return (
            f"{trained}, which predicts {NAMES[own.predicts]}, and {model} predicts "
            f"{NAMES[model.predicts]}: here the word may do little, or something else"
        )
    if own.is_same(model):
        return ""
    return f"{trained}, and this model is {model}: the word may look different here"


def log_other_base(name: str, metadata: Mapping[str, str], model: BaseModel) -> None:
    """Log what `other_base` returns, if anything."""
    if warning := other_base(name, metadata, model):
        log.warning("%s", warning)
