"""Find what a model predicts, and on which schedule: a single file, settings, or flags say so.

Files without settings say it in two ways: empty tensors named `v_pred` and `ztsnr`, which tools that
draw go by, and `modelspec.prediction_type` in a safetensors header.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinage.config import ModelConfig, PredictionType
from coinage.errors import CoinageError
from coinage.models.detect import read_config, safetensors_metadata, tensor_names
from coinage.models.facts import FACTS
from coinage.models.hub_files import local_path
from coinage.system.text_files import is_file

V_PRED, ZTSNR = "v_pred", "ztsnr"
HEADER = "modelspec.prediction_type"
SPELLINGS: dict[str, PredictionType] = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "epsilon": "epsilon",
}
PLAIN_SCHEDULE = (
    "--v_parameterization alone: the schedule does not end in pure noise; "
    "add --zero_terminal_snr if the model was trained that way"
)
UNSAID = (
    "the file does not say what this 2.x model predicts: noise is assumed; "
    "the 768 px models need --v_parameterization"
)
NAMES: dict[PredictionType, str] = {"epsilon": "the noise", "v_prediction": "v"}


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a single file declares about its prediction.

    Attributes:
        prediction_type: what the model predicts; None where the file does not say.
        ends_in_noise: trained on a schedule that ends in pure noise, if it predicts v.
        names: the entries that say so.
    """

    prediction_type: PredictionType | None = None
    ends_in_noise: bool = False
    names: tuple[str, ...] = ()


def read_declaration(names: Collection[str], header: Mapping[str, str]) -> Declaration:
    """Return what a file declares by its tensors' names and header.

    The tensors win, as in tools that draw.
    """
    spelled = SPELLINGS.get(header.get(HEADER, "").strip().lower())
    prediction_type: PredictionType | None = None
    entries: list[str] = []
    if V_PRED in names:
        prediction_type = "v_prediction"
        entries.append(V_PRED)
    elif spelled:
        prediction_type = spelled
        entries.append(HEADER)
    if ZTSNR in names:
        entries.append(ZTSNR)
    return Declaration(prediction_type, ZTSNR in names, tuple(entries))


def declared_in(path: Path) -> Declaration:
    """Return what a single file declares, from its header; of a pickle, from its texts.

    Raises:
        CoinageError: a safetensors file that cannot be read.
    """
    header = safetensors_metadata(path) if path.suffix.lower() == ".safetensors" else {}
    return read_declaration(tensor_names(path), header)


def prediction_of(model: ModelConfig) -> PredictionType | None:
    """Return what a model predicts, before it is loaded; None where flag, settings and file do not say."""
    if model.prediction_type:
        return model.prediction_type
    path = local_path(model.source)
    try:
        if is_file(path):
            return declared_in(path).prediction_type
        settings = read_config(path / "scheduler" / "scheduler_config.json")
    except (CoinageError, OSError):  # what is broken is an error elsewhere
        return None
    return SPELLINGS.get(str(settings.get("prediction_type")))


def usual_prediction(model: ModelConfig) -> PredictionType | None:
    """Return the same, or what models of the family predict where nothing is said.

    None for 2.x, which may predict either, and for flow matching, which predicts neither.
    """
    facts = FACTS[model.family]
    if facts.is_flow:
        return None
    silent = None if facts.file_hides_prediction else SPELLINGS["epsilon"]
    return prediction_of(model) or silent


def resolved_settings(
    settings: Mapping[str, Any], declared: Declaration, model: ModelConfig
) -> dict[str, Any]:
    """Return a model's scheduler settings with what its file declares, and what the flags say, which win."""
    prediction_type = (
        model.prediction_type
        or declared.prediction_type
        or settings.get("prediction_type", "epsilon")
    )
    resolved = {**settings, "prediction_type": prediction_type}
    declared_noise = declared.ends_in_noise and prediction_type == "v_prediction"
    if model.zero_terminal_snr or declared_noise:
        resolved["rescale_betas_zero_snr"] = True
    return resolved


def prediction_note(
    settings: Mapping[str, Any], declared: Declaration, model: ModelConfig, *, is_file: bool
) -> str:
    """Return a note on how a model's prediction was found, "" where it is as its settings say.

    Args:
        settings: the model's scheduler settings before `resolved_settings`.
        declared: what its file declares.
        model: the flags.
        is_file: the model is a single file, which has no settings of its own.
    """
    final = resolved_settings(settings, declared, model)
    if declared.names == (ZTSNR,) and final["prediction_type"] == "epsilon":
        return (
            f"the file declares a schedule that ends in pure noise ({ZTSNR}): "
            "add --v_parameterization if the model predicts v"
        )
    asks_v = model.prediction_type == "v_prediction"
    plain = asks_v and not final.get("rescale_betas_zero_snr")
    if declared.names:
        return _declaration_note(final, declared, flag_wins=asks_v, plain=plain)
    if FACTS[model.family].file_hides_prediction and is_file:
        return "" if model.prediction_type else UNSAID
    if plain and settings.get("prediction_type", "epsilon") == "epsilon":
        return PLAIN_SCHEDULE
    return ""


def _declaration_note(
    final: Mapping[str, Any], declared: Declaration, *, flag_wins: bool, plain: bool
) -> str:
    """Return the note on a file that declares its prediction, and on a flag that says otherwise."""
    name = NAMES[declared.prediction_type or final["prediction_type"]]
    note = f"the file says that the model predicts {name}"
    if declared.ends_in_noise and final["prediction_type"] == "v_prediction":
        note += ", on a schedule that ends in pure noise"
    note += f" ({', '.join(declared.names)})"
    if flag_wins and declared.prediction_type == "epsilon":
        note += "; the flag wins"
        if plain:
            note += f". {PLAIN_SCHEDULE}"
    return note
