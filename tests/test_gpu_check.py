"""`make gpu-check` without a GPU: its parts run, and what they say is kept."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_packages_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gpu_check

    assert not gpu_check.missing()
    monkeypatch.setattr(gpu_check, "missing", lambda: ["diffusers", "accelerate"])
    assert gpu_check.main([]) == 2
    assert "this Python has no diffusers, accelerate" in capsys.readouterr().out


def test_a_part_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gpu_check

    words = ["-c", "import time; print('begun'); time.sleep(60)"]
    code = gpu_check.shown(words, tmp_path / "log.txt", gpu_check.environment(), 2)
    assert code == 124
    assert "begun" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_matrix_follows_the_tests(tmp_path: Path) -> None:
    """Without a GPU the tests are skipped."""
    words = ["--results", str(tmp_path), "--minutes=7", "--", "--device=cpu", "--demo", "--list"]
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "needs a GPU" in (tmp_path / "tests.txt").read_text(encoding="utf-8")
    assert "demo 64 b1 bf16 plain" in done.stdout
    assert "demo 64 b4 fp16 torch_compile" in (tmp_path / "matrix.txt").read_text(encoding="utf-8")
