"""The estimate of activations agrees with what is measured, and what is measured with real tensors."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from coinage.demo.worlds import MODELS

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def error_of(
    family: str,
    dtype: torch.dtype,
    side: int,
    batch: int,
    checkpointed: bool = False,
    eight_bits: bool = False,
) -> float:
    from memory import Built, components, estimated, train_step
    from random_models import RELEASED

    model = Built(family, RELEASED / family, dtype, checkpointed, eight_bits)
    return (
        estimated(model, side, batch) / train_step(components(model), model, side, batch).peak - 1
    )


def test_the_estimate_is_what_is_measured() -> None:
    assert abs(error_of("sd1", torch.bfloat16, 512, 2)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("family", "side", "batch"),
    [("sd1", 512, 4), ("sd2", 768, 1), ("sd2", 512, 3), ("sdxl", 1024, 2)],
)
def test_the_estimate_is_what_is_measured_everywhere(
    family: str, side: int, batch: int, dtype: torch.dtype, checkpointed: bool
) -> None:
    assert abs(error_of(family, dtype, side, batch, checkpointed)) < 0.02
    if dtype == torch.bfloat16:
        assert abs(error_of(family, dtype, side, batch, checkpointed, eight_bits=True)) < 0.1


@pytest.mark.slow
def test_the_vaes_constants_are_what_is_measured() -> None:
    from coinage.checks.footprint import DECODING, ENCODING
    from memory import vae_work
    from random_models import RELEASED, meta_part

    for family in ("sd1", "sdxl"):
        for dtype, times in ((torch.float32, 2), (torch.bfloat16, 1)):
            encoding, decoding = vae_work(meta_part(RELEASED / family, "vae", dtype), dtype, 768, 2)
            assert encoding == pytest.approx(times * ENCODING * 768**2 * 2, rel=0.02)
            assert decoding == pytest.approx(times * DECODING * 768**2 * 2, rel=0.02)


def worst_of(family: str, names: slice) -> float:
    """The largest error of the estimates of all phases, of some of a family's cases."""
    from memory_phases import cases, counted, estimated

    errors = [0.0]
    for run in cases(family)[names]:
        found, told = counted(run), estimated(run)
        assert found.keys() == told.keys(), "every phase is counted"
        errors += [abs(told[name].total / found[name].total - 1) for name in found]
    return max(errors)


def test_each_phase_takes_what_is_told() -> None:
    """SD 1.5 with all that saves memory."""
    assert worst_of("sd1", slice(3, 4)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_each_phase_of_every_run_takes_what_is_told(family: str) -> None:
    assert worst_of(family, slice(None)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "number", "most"), [("sd1", 3, 3), ("sdxl", 3, 6), ("sdxl", 4, 4)]
)
def test_it_fits_in_little_memory(family: str, number: int, most: int) -> None:
    """SD 1.5 in 3 GB, SDXL in 6 GB, and in 4 GB where the UNet's weights are streamed."""
    from coinage.checks.footprint import CONTEXT, GB, WORKSPACE
    from memory_phases import cases, counted

    for phase in counted(cases(family)[number]).values():
        assert phase.total + CONTEXT + WORKSPACE < most * GB, phase.when


def test_sizes_without_numbers_are_those_of_real_tensors() -> None:
    """What autograd keeps of a real forward pass in float32 is what the tracker counts."""
    from memory import Built, components, predict, train_step

    model = Built("sd1", MODELS / "sd1", torch.float32)
    parts = components(model)
    counted = train_step(parts, model, 64, 2).kept
    torch.manual_seed(0)
    for module in (*parts.text_encoders, parts.denoiser):
        module.to_empty(device="cpu")
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = (
                torch.arange(tensor.shape[-1]).expand_as(tensor)
                if not tensor.is_floating_point()
                else torch.randn_like(tensor) / 50
            )
    weights = {
        p.untyped_storage().data_ptr()
        for module in (*parts.text_encoders, parts.denoiser)
        for p in module.parameters()
    }
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prediction = predict(parts, "sd1", 64, 2, "cpu")
        F.mse_loss(prediction, torch.zeros_like(prediction))
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(counted, rel=0.05)
