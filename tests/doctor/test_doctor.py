"""Faults of machines, each put in on purpose: the doctor names it and the line that mends it."""

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from coinage.cli.main import main
from coinage.doctor import examination, hardware, places, software, trial
from coinage.doctor.anonymous import anonymous
from coinage.doctor.examination import Result, examine
from coinage.errors import Findings, Problem
from coinage.system.accelerator import Accelerator
from tests.system.test_nvidia import program

ROOT = Path(__file__).parents[2]
Patch = pytest.MonkeyPatch
GB = 2**30
CARD = "echo 'NVIDIA GeForce RTX 3060, 535.183.01, 8.6'"


def with_card(folder: Path, patch: Patch, cuda: str | None = None, error: str = "") -> None:
    """A machine with a card, of which nvidia-smi tells, and a torch that does not use it."""
    program(folder, CARD)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    patch.setattr(torch.version, "cuda", cuda)

    def init() -> None:
        raise RuntimeError(error)

    patch.setattr(torch.cuda, "init", init)


@pytest.fixture(autouse=True)
def _healthy(tmp_path: Path, monkeypatch: Patch) -> None:
    """A machine with a tokenizer, on which the imports are quick."""
    monkeypatch.setattr(software, "IMPORTED", ("safetensors",))
    monkeypatch.setattr(software, "IMPORTED_IF_THERE", ())
    hub = tmp_path / "hub"
    model = hub / "models--openai--clip-vit-large-patch14"
    for name in ("refs/main", "snapshots/x/vocab.json", "snapshots/x/merges.txt"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    (tmp_path / "machine").mkdir()


def wrong_torch(folder: Path, patch: Patch) -> None:
    with_card(folder, patch)


def old_driver(folder: Path, patch: Patch) -> None:
    reason = "The NVIDIA driver on your system is too old (found version 11040)."
    with_card(folder, patch, "12.8", reason)


def broken_driver(folder: Path, patch: Patch) -> None:
    with_card(folder, patch, "12.8", "CUDA unknown error")


def hidden_card(folder: Path, patch: Patch) -> None:
    with_card(folder, patch)
    patch.setenv("CUDA_VISIBLE_DEVICES", "")


def no_kernels(_: Path, patch: Patch) -> None:
    card = Accelerator("cuda", "NVIDIA RTX 5090", (12, 0), kernels=("sm_80", "sm_90"))
    patch.setattr(hardware, "accelerator_here", lambda: card)


def package_with(folder: Path, patch: Patch, name: str, version: str) -> None:
    """A package of a version that is found before the installed one."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    patch.syspath_prepend(str(folder))


def old_package(folder: Path, patch: Patch) -> None:
    package_with(folder, patch, "transformers", "4.30.0")


def broken_package(folder: Path, patch: Patch) -> None:
    (folder / "diffusers").mkdir()
    patch.setattr(software, "IMPORTED", ("diffusers",))
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    (folder / "diffusers" / "__init__.py").write_text(code)
    patch.setenv("PYTHONPATH", str(folder))


def package_gone(_: Path, patch: Patch) -> None:
    patch.setattr(software, "_requirements", lambda: [software.Requirement("no-such-package>=2")])


def no_page(_: Path, patch: Patch) -> None:
    found = software._is_there
    patch.setattr(software, "_is_there", lambda name: name != "starlette" and found(name))


def not_writable(folder: Path, patch: Patch) -> None:
    (folder / "file").write_text("")
    patch.setattr(places, "folders", lambda: {"hub cache": folder / "file"})


def disk_with(folder: Path, patch: Patch, free: int) -> None:
    patch.setattr(places, "folders", lambda: {"this folder": folder})
    patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def full_disk(folder: Path, patch: Patch) -> None:
    disk_with(folder, patch, 2**20)


def nearly_full_disk(folder: Path, patch: Patch) -> None:
    disk_with(folder, patch, 2**29)


def no_locks(_: Path, patch: Patch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    patch.setattr("fcntl.flock", refuse)


def no_tokenizer(folder: Path, patch: Patch) -> None:
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))


def torn_model(folder: Path, patch: Patch) -> None:
    shutil.copytree(places.MODELS / "sd1", folder / "models" / "sd1")
    shutil.rmtree(folder / "models" / "sd1" / "unet")
    patch.setattr(places, "MODELS", folder / "models")


def little_memory(folder: Path, patch: Patch) -> None:
    (folder / "meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 2000000 kB\n")
    patch.setattr(hardware, "MEMORY", folder / "meminfo")


def small_container(folder: Path, patch: Patch) -> None:
    (folder / "memory.max").write_text("3000000000\n")
    (folder / "memory.current").write_text("1000000000\n")
    patch.setattr(hardware, "LIMIT", folder / "memory.max")


def on_cpu_by_accelerate(folder: Path, patch: Patch) -> None:
    (folder / "accelerate").mkdir()
    (folder / "accelerate" / "default_config.yaml").write_text("use_cpu: true\n")
    patch.setenv("HF_HOME", str(folder))


def old_console(_: Path, patch: Patch) -> None:
    patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))


def old_python(_: Path, patch: Patch) -> None:
    patch.setattr(software, "OLDEST", (4, 0))


def failing_training(_: Path, patch: Patch) -> None:
    patch.setattr(trial, "devices", lambda: {"CPU": {"ACCELERATE_TORCH_DEVICE": "cuda:7"}})


Fault = Callable[[Path, Patch], None]
FAULTS: list[tuple[Fault, examination.Look, str, str, str]] = [
    (wrong_torch, hardware.look_at_device, "warning", "built without CUDA", "--index-url https"),
    (old_driver, hardware.look_at_device, "warning", "too old for this torch", "update the driver"),
    (broken_driver, hardware.look_at_device, "warning", "torch cannot use NVIDIA", "restart"),
    (hidden_card, hardware.look_at_device, "warning", "off NVIDIA GeForce RTX 3060", "unset CUDA_V"),
    (no_kernels, hardware.look_at_device, "error", "without kernels for NVIDIA RTX", "whl/cu128"),
    (little_memory, hardware.look_at_memory, "warning", "only 1.9 GB of memory", "close other"),
    (small_container, hardware.look_at_memory, "warning", "only 1.9 GB of memory", "swap file"),
    (old_package, software.look_at_packages, "error", "transformers 4.30.0", 'pip install "transf'),
    (broken_package, software.look_at_packages, "error", "diffusers cannot", "uninstall torchvision"),
    (package_gone, software.look_at_packages, "error", "no-such-package is not", "pip install"),
    (no_page, software.look_at_packages, "warning", "coinage ui is not installed", "coinage-ti[ui]"),
    (old_python, software.look_at_python, "error", "is too old", "install Python 3.11"),
    (old_console, software.look_at_python, "warning", "the console writes cp1252", "PYTHONUTF8"),
    (on_cpu_by_accelerate, software.look_at_settings, "warning", "set to use the CPU", "use_cpu"),
    (not_writable, places.look_at_folders, "error", "hub cache: cannot write", "choose another"),
    (full_disk, places.look_at_folders, "error", "the disk is full", "delete"),
    (nearly_full_disk, places.look_at_folders, "warning", "only 512.0 MB are free", "set HF_HOME"),
    (no_locks, places.look_at_folders, "warning", "has no locks", "a disk of this computer"),
    (no_tokenizer, places.look_at_models, "warning", "no CLIP tokenizer", "pip install open_clip"),
    (torn_model, places.look_at_models, "error", "are not complete", "--force-reinstall coinage-ti"),
    (failing_training, trial.train_everywhere, "error", "training on CPU failed", "report this"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "look", "state", "what", "hint"), FAULTS, ids=[row[0].__name__ for row in FAULTS]
)
def test_a_fault_is_named_with_what_mends_it(
    fault: Fault,
    look: examination.Look,
    state: str,
    what: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    if look != trial.train_everywhere:  # the next test shows that it works
        before = [str(problem) for result in look() for problem in _problems(result)]
        assert not any(what in text for text in before), "it is not there without the fault"
    fault(tmp_path / "machine", monkeypatch)
    results = look()
    (told,) = [p for result in results for p in _problems(result) if what in p.what]
    assert hint in told.hint
    assert state in [result.state for result in results]


def _problems(result: Result) -> list[Problem]:
    return [*result.findings.errors, *result.findings.warnings]


def test_the_whole_doctor_trains_on_this_machine(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path / "machine")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "training on CPU: 2 steps and a word saved in" in told
    assert "this machine can train" in told
    for private in (str(tmp_path), str(Path.home()), sys.prefix):
        assert private not in told
    assert not list((tmp_path / "machine").iterdir())


def test_an_error_ends_with_1_and_is_in_the_json(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(software, "OLDEST", (4, 0))
    assert main(["doctor", "--quick", "--json"]) == 1
    shown = capsys.readouterr()
    results = json.loads(shown.out)
    assert "training" not in shown.out
    (python,) = [result for result in results if result["subject"] == "Python"]
    assert python["state"] == "error"
    assert python["problems"][0]["hint"] == "install Python 3.11 or newer"
    assert "1 thing must be mended" in shown.err


def test_a_look_that_fails_is_an_error_and_the_others_go_on() -> None:
    def fails() -> list[Result]:
        raise KeyError("x")

    fine = Result("fine", "yes", Findings())
    first, second = examine([("broken", fails), ("fine", lambda: [fine])])
    assert (first.subject, first.state) == ("broken", "error")
    assert "KeyError" in first.findings.errors[0].what
    assert second == fine


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("{home}/models/x.safetensors", "~/models/x.safetensors"),
        ("in {cwd}/out and {cwd}", "in ./out and ."),
        ("{user}'s file, superb{user}x", "USER's file, superb{user}x"),
        ("/usr/lib/python", "/usr/lib/python"),
    ],
)
def test_paths_and_names_are_taken_out(
    text: str, due: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    home, here = tmp_path / "home" / "anna", tmp_path / "work"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "annasmith")
    names = {"home": home, "cwd": here, "user": "annasmith"}
    assert anonymous(text.format(**names)) == due.format(**names)


def test_a_mac_is_told_with_its_system_and_memory(monkeypatch: Patch) -> None:
    monkeypatch.setattr(hardware, "accelerator_here", lambda: Accelerator("mps", "mps"))
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.3", ("", "", ""), "arm64"))
    (result,) = hardware.look_at_device()
    assert result.state == "ok"
    assert result.found.startswith("the GPU of a Mac (mps) on macOS 15.3, ")
    assert re.search(
        r" [\d.]+ [GT]B of memory shared with the processor, float32; torch \d", result.found
    )
