"""What a device can do, from what torch tells of it."""

import pytest
import torch

from coinage.system.accelerator import Accelerator, cpu_is_asked_for, has_kernels, look_at

# The architectures of torch's own builds
CUDA_12_6 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CUDA_13_0 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


def of_nvidia(major: int, minor: int, *kernels: str) -> Accelerator:
    return Accelerator("cuda", "a card", (major, minor), kernels=kernels)


@pytest.mark.parametrize(
    ("accelerator", "due"),
    [
        (of_nvidia(6, 1), "fp16"),
        (of_nvidia(7, 0), "fp16"),
        (of_nvidia(7, 5), "fp16"),
        (of_nvidia(8, 0), "bf16"),
        (of_nvidia(8, 9), "bf16"),
        (of_nvidia(9, 0), "bf16"),
        (of_nvidia(12, 0), "bf16"),
        (Accelerator("rocm", "a card", amd="gfx906:sramecc+"), "fp16"),
        (Accelerator("rocm", "a card", amd="gfx1030"), "fp16"),
        (Accelerator("rocm", "a card", amd="gfx90a:sramecc+:xnack-"), "bf16"),
        (Accelerator("rocm", "a card", amd="gfx942"), "bf16"),
        (Accelerator("rocm", "a card", amd="gfx1100"), "bf16"),
        (Accelerator("xpu", "xpu"), "bf16"),
        (Accelerator("mps", "mps"), "no"),
        (Accelerator("cpu", "cpu"), "no"),
    ],
)
def test_the_best_precision_of_a_device(accelerator: Accelerator, due: str) -> None:
    assert accelerator.best_precision == due


@pytest.mark.parametrize(
    ("capability", "kernels", "due"),
    [
        ((8, 6), CUDA_12_6, True),
        ((8, 9), CUDA_12_6, True),  # by those of 8.6
        ((6, 1), CUDA_12_6, True),
        ((6, 1), CUDA_13_0, False),
        ((7, 0), CUDA_13_0, False),  # 7.5 is the later one
        ((12, 0), CUDA_12_6, False),
        ((12, 0), CUDA_13_0, True),
        ((12, 1), CUDA_13_0, True),
        ((13, 0), CUDA_13_0, True),  # the driver compiles compute_120
        ((10, 3), ("sm_90", "compute_90"), True),
        ((8, 0), ("sm_90", "compute_90"), False),
        ((9, 0), ("sm_90a",), True),
        ((12, 0), ("sm_90a", "compute_90a"), False),
        ((10, 3), ("sm_100f",), True),
        ((12, 0), ("sm_100f",), False),
        ((8, 6), ("something else",), True),
    ],
)
def test_kernels_of_a_build_on_a_card(
    capability: tuple[int, int], kernels: tuple[str, ...], *, due: bool
) -> None:
    assert has_kernels(capability, kernels) == due
    assert of_nvidia(*capability, *kernels).has_kernels == due


def test_a_build_that_names_no_kernels_may_have_them() -> None:
    assert of_nvidia(8, 6).has_kernels
    assert Accelerator("rocm", "a card", kernels=("gfx1030",)).has_kernels


def test_a_cpu_is_looked_at() -> None:
    assert look_at(torch.device("cpu")) == Accelerator("cpu", "cpu")


def test_a_card_that_cannot_be_asked_is_told_of_by_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "get_device_properties", failing)
    assert look_at(torch.device("cuda:0")) == Accelerator("cuda", "cuda")


@pytest.mark.parametrize(
    ("name", "value", "due"),
    [
        ("ACCELERATE_USE_CPU", "true", True),
        ("ACCELERATE_USE_CPU", "no", False),
        ("ACCELERATE_TORCH_DEVICE", "cpu", True),
        ("ACCELERATE_TORCH_DEVICE", "cuda:1", False),
        ("CUDA_VISIBLE_DEVICES", "", True),
        ("CUDA_VISIBLE_DEVICES", "-1", True),
        ("CUDA_VISIBLE_DEVICES", "1", False),
    ],
)
def test_the_environment_may_ask_for_the_cpu(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, *, due: bool
) -> None:
    for other in ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    assert cpu_is_asked_for() == due
