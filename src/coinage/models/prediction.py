"""What a model predicts, and on which schedule: told by a single file itself, by settings, or by flags.

Files without settings tell it in two ways: empty tensors named `v_pred` and `ztsnr`, which tools that draw go by, and
`modelspec.prediction_type` in a safetensors header.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from coinage.config import ModelConfig, PredictionType

V_PRED, ZTSNR = "v_pred", "ztsnr"
HEADER = "modelspec.prediction_type"
SPELLINGS: dict[str, PredictionType] = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "epsilon": "epsilon",
}
HALF = "--v_parameterization alone: the schedule does not end in pure noise; add --zero_terminal_snr if the model was trained so"
NAMES: dict[PredictionType, str] = {"epsilon": "the noise", "v_prediction": "v"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a single file says of itself.

    Attributes:
        prediction_type: what the model predicts; None where the file does not say.
        ends_in_noise: whether it was trained on a schedule that ends in pure noise, if it predicts v.
        by: the names that say so.
    """

    prediction_type: PredictionType | None = None
    ends_in_noise: bool = False
    by: tuple[str, ...] = ()


def told_by(names: Collection[str], header: Mapping[str, str]) -> Told:
    """Return what the names of a file's tensors and its header say; the tensors win, as in the tools that draw."""
    spoken = SPELLINGS.get(header.get(HEADER, "").strip().lower())
    kind = "v_prediction" if V_PRED in names else spoken
    by = [V_PRED] if V_PRED in names else [HEADER] if spoken else []
    return Told(kind, ZTSNR in names, (*by, *([ZTSNR] if ZTSNR in names else [])))


def with_told(settings: Mapping[str, Any], told: Told, model: ModelConfig) -> dict[str, Any]:
    """Return a model's scheduler settings with what its file says, and what the flags say, which win."""
    kind = (
        model.prediction_type or told.prediction_type or settings.get("prediction_type", "epsilon")
    )
    ends_in_noise = model.zero_terminal_snr or (told.ends_in_noise and kind == "v_prediction")
    return {**settings, "prediction_type": kind} | (
        {"rescale_betas_zero_snr": True} if ends_in_noise else {}
    )


def prediction_note(
    settings: Mapping[str, Any], told: Told, model: ModelConfig, *, is_file: bool
) -> str:
    """Return the line to say about a model's prediction, "" where it is as its settings say.

    Args:
        settings: the model's scheduler settings before `with_told`.
        told: what its file says.
        model: the flags.
        is_file: whether it is a single file, which has no settings of its own.
    """
    final = with_told(settings, told, model)
    if told.by == (ZTSNR,) and final["prediction_type"] == "epsilon":
        return f"the file names a schedule that ends in pure noise ({ZTSNR}): add --v_parameterization if the model predicts v"
    plain = model.prediction_type == "v_prediction" and not final.get("rescale_betas_zero_snr")
    if told.by:
        wins = (
            "; the flag wins"
            if told.prediction_type == "epsilon" and model.prediction_type == "v_prediction"
            else ""
        )
        ends = (
            ", on a schedule that ends in pure noise"
            if told.ends_in_noise and final["prediction_type"] == "v_prediction"
            else ""
        )
        kind = told.prediction_type or final["prediction_type"]
        half = f". {HALF}" if wins and plain else ""
        return f"the file says that the model predicts {NAMES[kind]}{ends} ({', '.join(told.by)}){wins}{half}"
    if model.family == "sd2" and is_file:  # 2.x models for 768 px predict v, on the plain schedule
        asked = model.prediction_type is not None
        return (
            ""
            if asked
            else "a file does not tell what a 2.x model predicts: noise is taken; the 768 px models need --v_parameterization"
        )
    return HALF if plain and settings.get("prediction_type", "epsilon") == "epsilon" else ""
