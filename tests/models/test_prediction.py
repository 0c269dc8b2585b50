"""What a model predicts, by its file's names and header, a folder's settings, and flags, which win."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coinage.checks.model import model_problems
from coinage.config import ModelConfig
from coinage.models.detect import kind_of_file
from coinage.models.prediction import (
    Declaration,
    prediction_note,
    read_declaration,
    resolved_settings,
)
from tests.helpers import prepared
from tests.tiny_models import loaded, original_tensors

EMPTY = torch.zeros(0)
PLAIN_END = 0.0046600
V: dict[str, Any] = {"prediction_type": "v_prediction"}
ZERO: dict[str, Any] = {"zero_terminal_snr": True}
HEADER = "modelspec.prediction_type"


@pytest.mark.parametrize(
    ("names", "header", "flags", "predicts", "ends_in_noise", "note"),
    [
        ([], {}, {}, "epsilon", False, ""),
        (["v_pred"], {}, {}, "v_prediction", False, "the model predicts v (v_pred)"),
        (
            ["v_pred", "ztsnr"],
            {},
            {},
            "v_prediction",
            True,
            "predicts v, on a schedule that ends in pure noise (v_pred, ztsnr)",
        ),
        (
            ["ztsnr"],
            {},
            {},
            "epsilon",
            False,
            "pure noise (ztsnr): add --v_parameterization if the model predicts v",
        ),
        (
            ["ztsnr"],
            {},
            V,
            "v_prediction",
            True,
            "predicts v, on a schedule that ends in pure noise (ztsnr)",
        ),
        ([], {HEADER: "v"}, {}, "v_prediction", False, f"predicts v ({HEADER})"),
        ([], {HEADER: " V "}, ZERO, "v_prediction", True, f"predicts v ({HEADER})"),
        (["ztsnr"], {HEADER: "v"}, {}, "v_prediction", True, f"({HEADER}, ztsnr)"),
        ([], {HEADER: "epsilon"}, {}, "epsilon", False, f"predicts the noise ({HEADER})"),
        (
            [],
            {HEADER: "epsilon"},
            V,
            "v_prediction",
            False,
            f"predicts the noise ({HEADER}); the flag wins. --v_parameterization alone",
        ),
        (
            [],
            {HEADER: "epsilon"},
            V | ZERO,
            "v_prediction",
            True,
            f"predicts the noise ({HEADER}); the flag wins",
        ),
        (["v_pred"], {HEADER: "epsilon"}, {}, "v_prediction", False, "predicts v (v_pred)"),
        ([], {HEADER: "flow"}, {}, "epsilon", False, ""),
        (
            [],
            {},
            V,
            "v_prediction",
            False,
            "add --zero_terminal_snr if the model was trained that way",
        ),
        ([], {}, V | ZERO, "v_prediction", True, ""),
    ],
)
def test_what_a_file_says(
    names: list[str],
    header: dict[str, str],
    flags: dict[str, Any],
    predicts: str,
    ends_in_noise: bool,
    note: str,
) -> None:
    told, model = (
        read_declaration(names, header),
        ModelConfig(source="a.safetensors", family="sdxl", **flags),
    )
    settings = resolved_settings({"prediction_type": "epsilon"}, told, model)
    assert (settings["prediction_type"], bool(settings.get("rescale_betas_zero_snr"))) == (
        predicts,
        ends_in_noise,
    )
    said = prediction_note({"prediction_type": "epsilon"}, told, model, is_file=True)
    assert note in said
    assert bool(said) == bool(note)


@pytest.mark.parametrize(
    ("family", "settings", "flags", "is_file", "note"),
    [
        (
            "sd2",
            {"prediction_type": "epsilon"},
            {},
            True,
            "the 768 px models need --v_parameterization",
        ),
        ("sd2", {"prediction_type": "epsilon"}, V, True, ""),
        ("sd2", {"prediction_type": "epsilon"}, V, False, "add --zero_terminal_snr"),
        ("sd2", {}, V, False, "add --zero_terminal_snr"),
        ("sd2", {"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, V, False, ""),
        ("sd2", {"prediction_type": "v_prediction"}, {}, False, ""),
        ("sd2", {"prediction_type": "v_prediction"}, V, False, ""),
        ("sd2", {"prediction_type": "epsilon"}, {}, False, ""),
        ("sd1", {"prediction_type": "epsilon"}, {}, True, ""),
    ],
)
def test_a_flag_that_is_only_half_of_it_is_told(
    family: Any, settings: dict[str, Any], flags: dict[str, Any], is_file: bool, note: str
) -> None:
    said = prediction_note(
        settings, Declaration(), ModelConfig(source="a", family=family, **flags), is_file=is_file
    )
    assert note in said
    assert bool(said) == bool(note)


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_single_file_tells_by_empty_tensors(
    suffix: str, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"noob.{suffix}"
    content = {name: tensor.contiguous() for name, tensor in original_tensors("sdxl").items()} | {
        "v_pred": EMPTY,
        "ztsnr": EMPTY.clone(),
    }
    if suffix == "ckpt":
        torch.save({"state_dict": content}, path)
    else:
        save_file(content, path, {HEADER: "epsilon"})
    with caplog.at_level(logging.INFO, logger="coinage"):
        parts = loaded("sdxl", path, models)
    assert parts.schedule.prediction_type == "v_prediction"
    assert parts.schedule.snr(torch.tensor([999])).item() == 0
    assert parts.scheduler_config["rescale_betas_zero_snr"]
    assert caplog.text.count("note: the file says") == 1


@pytest.mark.usefixtures("small_configs")
def test_a_2x_file_tells_by_its_header(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "768.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in original_tensors("sd2").items()},
        path,
        {HEADER: "v"},
    )
    with caplog.at_level(logging.INFO, logger="coinage"):
        parts = loaded("sd2", path, models)
    assert parts.schedule.prediction_type == "v_prediction"
    last = parts.schedule.snr(torch.tensor([999])).item()
    assert last / (1 + last) == pytest.approx(PLAIN_END, rel=1e-3)
    assert "--v_parameterization" not in caplog.text


@pytest.mark.parametrize("name", ["edm_vpred.sigma_max", "edm_mean"])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_an_edm_model_is_refused_before_it_is_loaded(
    name: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"edm.{suffix}"
    content = {key: tensor.contiguous() for key, tensor in original_tensors("sdxl").items()} | {
        name: torch.zeros(1)
    }
    torch.save(content, path) if suffix == "ckpt" else save_file(content, path)
    kind = kind_of_file(path)
    assert kind is not None
    assert kind.family is None
    (problem,) = model_problems(ModelConfig(source=str(path), family="sdxl"))
    assert "an EDM model, whose noise schedule is different" in problem.what


@pytest.mark.parametrize(
    ("flags", "notes"),
    [
        (
            ("--v_parameterization", "--zero_terminal_snr", "--min_snr_gamma=5"),
            ["--min_snr_gamma: weights follow the schedule that ends in"],
        ),
        (("--v_parameterization", "--zero_terminal_snr"), []),
        (
            ("--v_parameterization", "--min_snr_gamma=5"),
            ["--v_parameterization alone: the schedule does not end in pure noise"],
        ),
        (("--min_snr_gamma=5",), []),
    ],
)
def test_a_run_tells_once(
    flags: tuple[str, ...],
    notes: list[str],
    moon_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="coinage"):
        prepared(moon_dataset, tmp_path, *flags)
    told = [
        record.getMessage().removeprefix("note: ")
        for record in caplog.records
        if "noise" in record.getMessage()
    ]
    assert len(told) == len(notes)
    assert all(found.startswith(due) for found, due in zip(told, notes, strict=True))
