"""The precision where none is given, and what is told of a device before the model is loaded."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.checks import check, device, make_plans
from coinage.checks.device import build_for, cuda_of, device_findings, unused_card_problems
from coinage.cli.main import main
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import TrainConfig
from coinage.demo.run import MODEL
from coinage.errors import ConfigError
from coinage.settings.build import build
from coinage.system.accelerator import Accelerator, Capability
from coinage.system.nvidia import Card
from tests.helpers import flags

BLACKWELL = Accelerator("cuda", "NVIDIA RTX 5090", (12, 0))
AMPERE = Accelerator("cuda", "NVIDIA RTX 3060", (8, 6))
TURING = Accelerator("cuda", "NVIDIA RTX 2060", (7, 5))
MAC = Accelerator("mps", "mps")


def asked(dataset: Path, out: Path, *more: str, script: str = "coinage") -> TrainConfig:
    return build(parse(script, flags(dataset, out, *more), "test"))[0]


def on(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "accelerator_here", lambda: accelerator)


def planned(config: TrainConfig) -> tuple[str, str]:
    """The precision of a checked run, and its notes."""
    (plan,) = make_plans([config])
    plan.release()
    return plan.config.model.precision, "\n".join(plan.notes)


@pytest.mark.parametrize(
    ("accelerator", "due"), [(BLACKWELL, "bf16"), (AMPERE, "bf16"), (TURING, "fp16")]
)
def test_a_gpu_computes_in_what_suits_it(
    accelerator: Accelerator,
    due: str,
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(accelerator, monkeypatch)
    precision, notes = planned(asked(moon_dataset, tmp_path))
    assert precision == due
    told = f"computing in {due}, which suits {accelerator.name}; --mixed_precision chooses another"
    assert notes.splitlines().count(told) == 1


@pytest.mark.parametrize("accelerator", [MAC, Accelerator("cpu", "cpu")])
def test_elsewhere_it_is_float32(
    accelerator: Accelerator, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(accelerator, monkeypatch)
    precision, notes = planned(asked(moon_dataset, tmp_path))
    assert precision == "no"
    assert "computing in" not in notes
    assert planned(asked(moon_dataset, tmp_path, "--fp8_base"))[0] == "bf16"


@pytest.mark.parametrize(
    ("more", "due"),
    [
        (("--mixed_precision=no",), "no"),
        (("--mixed_precision=fp16",), "fp16"),
        (("--full_fp16",), "fp16"),
        (("--full_bf16",), "bf16"),
        (("--mixed_precision=auto",), "bf16"),
    ],
)
def test_what_is_given_is_taken(
    more: tuple[str, ...],
    due: str,
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(AMPERE, monkeypatch)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # what accelerate sets anyway
    precision, notes = planned(asked(moon_dataset, tmp_path, *more))
    assert precision == due
    assert ("computing in" in notes) == ("auto" in more[0])


def test_the_scripts_compute_as_sd_scripts_and_say_what_it_costs(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(moon_dataset, tmp_path, script="sd")
    assert config.model.precision == "no"
    on(AMPERE, monkeypatch)
    precision, notes = planned(config)
    assert precision == "no"
    (told,) = notes.splitlines()
    assert told.startswith("computing in float32, the default of sd-scripts")
    assert "NVIDIA RTX 3060 unused: --mixed_precision bf16" in told
    asked_for = asked(moon_dataset, tmp_path, "--mixed_precision=bf16", script="sd")
    assert planned(asked_for) == ("bf16", "")
    automatic = asked(moon_dataset, tmp_path, "--mixed_precision=auto", script="sd")
    assert planned(automatic)[0] == "bf16"
    on(Accelerator("cpu", "cpu"), monkeypatch)
    assert planned(config) == ("no", "")


def test_a_run_that_goes_on_computes_as_before(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = flags(moon_dataset, tmp_path, "--max_train_steps=1", "--save_state")
    assert train_command("coinage", words) == 0
    on(AMPERE, monkeypatch)
    going_on = asked(moon_dataset, tmp_path, "--resume=latest")
    precision, notes = planned(going_on)
    assert precision == "no"
    assert "computing in float32, as the run did so far; --mixed_precision" in notes
    (plan,) = make_plans([going_on])
    plan.release()
    assert not [warning for warning in plan.warnings if "precision" in str(warning)]
    given = asked(moon_dataset, tmp_path, "--resume=latest", "--mixed_precision=bf16")
    assert planned(given)[0] == "bf16"


def test_a_command_with_mistakes_asks_no_device(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> Accelerator:
        raise AssertionError("it would import torch")

    monkeypatch.setattr(device, "accelerator_here", never)
    wrong = asked(moon_dataset, tmp_path, "--clip_skip=50")
    with pytest.raises(ConfigError, match="clip_skip"):
        make_plans([wrong])


@pytest.mark.parametrize(
    ("accelerator", "precision", "errors", "warnings"),
    [
        (AMPERE, "bf16", "", ""),
        (TURING, "fp16", "", ""),
        (TURING, "bf16", "", "NVIDIA RTX 2060 has no bf16 units"),
        (Accelerator("rocm", "AMD RX 6800", amd="gfx1030"), "bf16", "", "AMD RX 6800 has no bf16"),
        (MAC, "bf16", "", ""),
        (replace(BLACKWELL, kernels=("sm_80", "sm_90")), "bf16", "NVIDIA RTX 5090 (sm_120)", ""),
        (replace(BLACKWELL, kernels=("sm_80", "compute_90")), "bf16", "", ""),
        (replace(TURING, kernels=("sm_80",)), "bf16", "NVIDIA RTX 2060 (sm_75)", ""),
    ],
)
def test_a_card_and_what_it_is_to_do(
    accelerator: Accelerator, precision: str, errors: str, warnings: str
) -> None:
    found = device_findings(accelerator, precision)
    assert errors in "\n".join(map(str, found.errors))
    assert warnings in "\n".join(map(str, found.warnings))
    assert (bool(found.errors), bool(found.warnings)) == (bool(errors), bool(warnings))


def test_a_card_without_kernels_is_told_before_the_model_is_loaded(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(replace(BLACKWELL, kernels=("sm_80", "sm_90")), monkeypatch)
    (problem,) = check(asked(moon_dataset, tmp_path)).errors
    assert problem.where == f"torch {torch.__version__}, with sm_80, sm_90"
    assert problem.hint.endswith("--index-url https://download.pytorch.org/whl/cu128")


@pytest.mark.parametrize(
    ("card", "driver", "build"),
    [
        ((8, 6), "591.2", "cu130"),
        ((7, 5), "580.65.06", "cu130"),
        ((8, 9), "579.9", "cu126"),
        ((7, 0), "591.2", "cu126"),  # no build for CUDA 13 has kernels for it
        ((6, 1), "535.1", "cu126"),
        ((12, 0), "575.1", "cu128"),
        ((12, 0), "580.1", "cu130"),
        ((12, 0), "", "cu128"),
        ((8, 6), "", "cu126"),
        ((8, 6), "470.256.02", "cu118"),
        (None, "591.2", "cu126"),
        (None, "unknown", "cu126"),
    ],
)
def test_the_build_of_torch_for_a_card_and_its_driver(
    card: Capability | None, driver: str, build: str
) -> None:
    assert build_for(card, cuda_of(driver)) == build


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver"
)


@pytest.mark.parametrize(
    ("built_for", "card", "reason", "what", "hint"),
    [
        (None, None, "", "", ""),
        (None, Card("RTX 3060", "535.1", (8, 6)), "", "without CUDA", "whl/cu126"),
        (None, Card("GTX 1080", "535.1", (6, 1)), "", "without CUDA", "whl/cu126"),
        (None, Card(), "", "not the NVIDIA card", "whl/cu126"),
        (
            "13.0",
            Card("RTX 3060", "535.1", (8, 6)),
            TOO_OLD.format(12020),
            "driver 535.1, for CUDA 12.2, is too old for this torch, which is built for CUDA 13.0",
            "whl/cu126",
        ),
        ("12.8", Card("K80", "450.1"), TOO_OLD.format(11040), "for CUDA 11.4", "whl/cu118"),
        (
            "12.8",
            Card(failure="Driver/library version mismatch"),
            "Unexpected error from cudaGetDeviceCount()",
            "(Driver/library version mismatch)",
            "restart the computer",
        ),
        (
            "12.8",
            Card("RTX 3060", "535.1", (8, 6)),
            "Unexpected error from cudaGetDeviceCount()",
            "torch cannot use RTX 3060: the run uses the CPU (Unexpected error",
            "restart the computer",
        ),
    ],
)
def test_a_card_that_torch_does_not_use(
    built_for: str | None,
    card: Card | None,
    reason: str,
    what: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing() -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", failing)
    monkeypatch.setattr(device, "find_card", lambda: card)
    problems = unused_card_problems()
    assert [what in problem.what for problem in problems] == [True] * bool(card)
    assert [hint in problem.hint for problem in problems] == [True] * bool(card)
    assert [problem.where for problem in problems] == [f"torch {torch.__version__}"] * bool(card)


def test_no_card_is_looked_for_where_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "find_card", lambda: Card("RTX 3060", "535.1", (8, 6)))
    cpu = Accelerator("cpu", "cpu")
    assert len(device_findings(cpu, "no").warnings) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not device_findings(cpu, "no").warnings


def test_a_dry_run_warns_of_a_card_that_is_not_used(
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(device, "find_card", lambda: Card("RTX 3060", "535.1", (8, 6)))
    logging.getLogger("coinage").handlers.clear()
    assert train_command("coinage", flags(moon_dataset, tmp_path, "--dry_run")) == 0
    told = capsys.readouterr().err
    assert (
        "warning: this torch is built without CUDA: the run uses the CPU, and not RTX 3060" in told
    )
    assert "hint: pip install --force-reinstall torch --index-url https://download.pyt" in told


def test_drawing_warns_of_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(device, "find_card", lambda: Card("RTX 3060", "535.1", (8, 6)))
    words = ["generate", str(MODEL), "a red circle", "--width=64", "--height=64", "--steps=1"]
    assert main([*words, f"--output={tmp_path}"]) == 0
    assert "the run uses the CPU, and not RTX 3060" in capsys.readouterr().err


CPU = Accelerator("cpu", "cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_processor_without_bf16_is_told_of(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_computes_bf16", lambda: False)
    (warning,) = device_findings(CPU, precision).warnings
    assert "no instructions for bf16" in str(warning)
    assert "use --mixed_precision no" in str(warning)
    assert not device_findings(CPU, "no").warnings


def test_a_processor_with_bf16_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_computes_bf16", lambda: True)
    assert not device_findings(CPU, "bf16").warnings


def test_a_precision_that_a_processor_lacks_is_told_before_training(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_computes_bf16", lambda: False)
    (plan,) = make_plans([asked(moon_dataset, tmp_path, "--mixed_precision=bf16")])
    plan.release()
    assert any("no instructions for bf16" in str(warning) for warning in plan.warnings)
