"""NVIDIA cards are found without torch, by what their driver says."""

import os
import stat
from pathlib import Path

import pytest

from coinage.system import nvidia
from coinage.system.nvidia import Card, card_numbers, find_card

OLD = """\
case "$1" in *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;; esac
echo 'Tesla K80, 450.51.05'
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")


def program(folder: Path, text: str) -> None:
    """Write a program that is called nvidia-smi."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("text", "due"),
    [
        (
            "echo 'NVIDIA GeForce RTX 3060, 535.183.01, 8.6'",
            Card("NVIDIA GeForce RTX 3060", "535.183.01", (8, 6)),
        ),
        (
            "printf 'NVIDIA H200, 570.1, 9.0\\nNVIDIA H200, 570.1, 9.0\\n'",
            Card("NVIDIA H200", "570.1", (9, 0)),
        ),
        (OLD, Card("Tesla K80", "450.51.05")),
        ("echo 'Some card, 1.0, [N/A]'", Card("Some card", "1.0")),
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
            Card(failure="Failed to initialize NVML: Driver/library version mismatch"),
        ),
        ("echo 'No devices were found'; exit 6", None),
        ("echo 'No devices were found'", None),
    ],
)
def test_what_nvidia_smi_says(
    text: str, due: Card | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_card() == due


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("printf '0\\n1\\n'", ["0", "1"]),
        ("echo 0", ["0"]),
        ("echo 'No devices were found'", []),
        ("echo 0; exit 18", []),
        ("exec sleep 60", []),
    ],
)
def test_the_numbers_of_the_cards(
    text: str, due: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if "sleep" in text:
        monkeypatch.setattr(nvidia, "SECONDS", 0.2)
    assert card_numbers() == due


def test_a_driver_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(nvidia, "SECONDS", 0.2)
    found = find_card()
    assert found is not None
    assert "did not answer" in found.failure


def test_without_the_program_the_driver_of_linux_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia, "OF_LINUX", tmp_path)
    assert find_card() is None
    about = tmp_path / "gpus" / "0000:01:00.0"
    about.mkdir(parents=True)
    (about / "information").write_text("Model: \t\t NVIDIA GeForce GTX 1080\nIRQ:   \t\t 37\n")
    assert find_card() == Card("NVIDIA GeForce GTX 1080")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    )
    assert find_card() == Card("NVIDIA GeForce GTX 1080", "535.183.01")
