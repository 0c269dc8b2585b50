"""Trouble during a run: what can be mended is, what cannot is reported, and the word is kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import TrainConfig
from coinage.demo.worlds import MODELS
from coinage.embeddings.reading import read
from coinage.errors import TrainingError
from coinage.runs.states import latest_state
from coinage.settings.discover import complete
from coinage.training import gradients
from coinage.training.diagnosis import full_precision
from coinage.training.gradients import Ahead
from coinage.training.observers.watchdog import PATIENCE
from coinage.training.run import Run, StepInput
from tests.helpers import flags, rows_of, trained

HALF = ("--cache_latents", "--mixed_precision=bf16")
SDXL = f"--pretrained_model_name_or_path={MODELS / 'sdxl'}"


def config_for(dataset: Path, out: Path, *more: str) -> TrainConfig:
    return complete(parse("sdxl" if SDXL in more else "sd", flags(dataset, out, *more), "test"))[0]


def unet_layer(run: Run) -> nn.Module:
    return run.parts.denoiser.conv_out


def text_layer(run: Run) -> nn.Module:
    return next(
        layer for layer in run.parts.text_encoders[-1].modules() if isinstance(layer, nn.Linear)
    )


def overflow(layer: nn.Module, run: Run, at: int, *, everywhere: bool = False) -> None:
    """Have a layer give infinity in the step after `at`, where it computes in half precision, or in any."""

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return (
            output * torch.inf
            if run.step == at and (everywhere or output.dtype.itemsize == 2)
            else output
        )

    layer.register_forward_hook(hook)


def weights(run: Run) -> list[Tensor]:
    """All that is frozen, bit by bit."""
    trained_ = {id(rows) for rows in run.parts.rows()}
    frozen = [
        t
        for module in run.parts.modules()
        for t in (*module.parameters(), *module.buffers())
        if id(t) not in trained_
    ]
    return [
        tensor.detach().clone().contiguous().view(torch.uint8) for tensor in frozen if tensor.ndim
    ]


@pytest.mark.parametrize("place", ["the UNet", "the text encoder"])
@pytest.mark.parametrize(
    "more",
    [
        ("--gradient_accumulation_steps=2", "--num_vectors_per_token=2"),
        ("--fp8_base",),
        ("--full_bf16", "--gradient_checkpointing"),
        pytest.param((SDXL, "--optimizer_type=Lion"), marks=pytest.mark.slow),
    ],
)
def test_a_step_that_overflows_is_computed_again_in_float32(
    place: str,
    more: Sequence[str],
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer_of = unet_layer if place == "the UNet" else text_layer
    before: list[Tensor] = []

    def twice(run: Run) -> None:
        before.extend(weights(run))
        for at in (1, 2):
            overflow(layer_of(run), run, at)

    given = (*HALF, "--max_train_steps=4", *more)
    run, word = trained(
        moon_dataset,
        tmp_path,
        change=twice,
        config=config_for(moon_dataset, tmp_path / "a", *given),
    )
    assert (run.step, run.results.float32_steps) == (4, 2)
    assert caplog.text.count("such steps are computed again in float32") == 1
    assert f"step 2: {place} overflows in bfloat16" in caplog.text
    assert all(torch.equal(one, two) for one, two in zip(before, weights(run), strict=True))

    real = gradients.accumulate

    def precise(runs: Sequence[Run], inputs: Sequence[StepInput], *, ahead: Ahead | None) -> None:
        if runs[0].step not in (1, 2):
            return real(runs, inputs, ahead=ahead)
        with full_precision(runs[0].parts):
            return real(runs, inputs, precise=True)

    monkeypatch.setattr(gradients, "accumulate", precise)
    run, due = trained(
        moon_dataset, tmp_path, config=config_for(moon_dataset, tmp_path / "b", *given)
    )
    assert run.results.float32_steps == 0
    for key, rows in due.vectors.items():
        assert torch.equal(word.vectors[key], rows)


def test_a_kept_encoding_that_overflows_is_not_kept(moon_dataset: Path, tmp_path: Path) -> None:
    """Captions without the word are encoded once; what half precision made of them must not stay."""
    images = moon_dataset.parent / "images"
    (tmp_path / "10_zibu").mkdir()
    for number, file in enumerate(sorted(images.iterdir())):
        content = file.read_bytes()
        (tmp_path / "10_zibu" / file.name).write_bytes(
            content.replace(b"zibu", b"shape") if number % 4 == 1 else content
        )
    data = tmp_path / "dataset.toml"
    data.write_text(moon_dataset.read_text().replace(str(images), str(tmp_path / "10_zibu")))
    config = config_for(
        data,
        tmp_path / "out",
        *HALF,
        SDXL,
        "--max_train_steps=4",
        "--cache_text_encoder_outputs_to_disk",
    )

    def first(run: Run) -> None:
        overflow(text_layer(run), run, 0)

    run, _ = trained(data, tmp_path, change=first, config=config)
    assert run.results.float32_steps == 1


@pytest.mark.parametrize(
    ("place", "layer_of"), [("the UNet", unet_layer), ("the text encoder", text_layer)]
)
def test_where_float32_does_not_help(
    place: str, layer_of: Callable[[Run], nn.Module], moon_dataset: Path, tmp_path: Path
) -> None:
    learned = []

    def change(run: Run) -> None:
        overflow(layer_of(run), run, 2, everywhere=True)
        run.optimizer.register_step_post_hook(
            lambda *_: learned.append(run.parts.rows()[0].detach().clone())
        )

    with pytest.raises(
        TrainingError,
        match=rf"the loss of step 3 is (nan|inf): {place} gives numbers that are not finite",
    ):
        trained(moon_dataset, tmp_path, *HALF, change=change)
    assert torch.equal(rows_of(read(tmp_path / "zibu-step00000002.safetensors")), learned[1])
    assert (tmp_path / "zibu-step00000002-state" / "state.json").is_file()


def test_where_float32_does_not_fit(moon_dataset: Path, tmp_path: Path) -> None:
    """The overflow is told, not the lack of memory for what would have mended it."""

    def change(run: Run) -> None:
        overflow(unet_layer(run), run, 1)

        def full(_: nn.Module, __: object, output: Tensor) -> None:
            if output.dtype == torch.float32:
                raise torch.OutOfMemoryError("CUDA out of memory")

        unet_layer(run).register_forward_hook(full)

    with pytest.raises(
        TrainingError, match="the loss of step 2 is inf: the UNet gives numbers that are not finite"
    ):
        trained(moon_dataset, tmp_path, *HALF, change=change)


def raise_at(step: int, error: Exception) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        def hook(*_: object) -> None:
            if run.step == step:
                raise error

        unet_layer(run).register_forward_hook(hook)

    return change


def test_memory_that_runs_out_costs_nothing_that_was_learned(
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a user sees it."""
    words = ("--cache_latents", "--max_train_steps=6", "--sample_every_n_steps=0")
    _, whole = trained(moon_dataset, tmp_path / "whole", *words)
    from coinage.training import session

    real = session.prepare_all

    def prepare_all(*arguments: object, **more: object) -> list[Run]:
        runs: list[Run] = real(*arguments, **more)  # type: ignore[arg-type]
        raise_at(4, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))(
            runs[0]
        )
        return runs

    monkeypatch.setattr(session, "prepare_all", prepare_all)
    out = tmp_path / "out"
    assert train_command("sd", flags(moon_dataset, out, *words)) == 1
    told = capsys.readouterr().err
    assert "error: the GPU's memory is full\n  --> step 5\n" in told
    assert "--gradient_checkpointing" in told
    assert "Traceback" not in told
    monkeypatch.undo()
    state = latest_state(out, "zibu")
    assert state == out / "zibu-step00000004-state"
    assert (out / "zibu-step00000004.safetensors").is_file()
    assert train_command("sd", flags(moon_dataset, out, *words, "--resume=latest")) == 0
    assert torch.equal(rows_of(read(out / "zibu.safetensors")), rows_of(whole))


def test_an_error_of_our_own_is_not_hidden_and_costs_nothing(
    moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"^a fault of ours$"):
        trained(
            moon_dataset,
            tmp_path,
            "--cache_latents",
            "--max_train_steps=4",
            change=raise_at(2, RuntimeError("a fault of ours")),
        )
    assert rows_of(read(tmp_path / "zibu-step00000002.safetensors")).isfinite().all()
    assert latest_state(tmp_path, "zibu") is not None


PARTS: dict[str, Callable[[Run], Tensor]] = {
    "the UNet": lambda run: run.parts.denoiser.conv_in.weight,
    "text encoder 1": lambda run: (
        run.parts.text_encoders[0].get_submodule("final_layer_norm").weight
    ),
    "the VAE": lambda run: run.parts.vae.decoder.conv_in.weight,
}


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_weight_that_changes_is_told_at_the_end(
    part: str, moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(run: Run) -> None:
        def hook(*_: object) -> None:
            if run.step == 1:
                PARTS[part](run).data.flatten()[0] += 1e-3

        run.optimizer.register_step_post_hook(hook)

    given = ("--cache_latents", "--max_train_steps=3")
    told = f"the weights of {part} changed during training"
    with pytest.raises(TrainingError, match=told):
        trained(moon_dataset, tmp_path / "a", *given, change=change)
    assert (tmp_path / "a" / "zibu.safetensors").is_file(), "the word is saved first"
    assert told not in caplog.text
    run, _ = trained(moon_dataset, tmp_path / "b", *given, "--on_problem=warn", change=change)
    assert run.step == 3
    assert caplog.text.count(told) == 1


def scaled(*skipped: int) -> Callable[[Run], None]:
    """A scaler of the loss at work, and a gradient that overflows in these steps; in all without any."""

    def change(run: Run) -> None:
        run.scaler = torch.amp.GradScaler("cpu", enabled=True)
        run.parts.rows()[0].register_hook(
            lambda gradient: (
                gradient * torch.inf if not skipped or run.step + 1 in skipped else gradient
            )
        )

    return change


def test_a_gradient_that_always_overflows_ends_the_run(moon_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=f"the gradient has overflowed in all of the first {PATIENCE} steps"
    ) as caught:
        trained(
            moon_dataset,
            tmp_path,
            "--cache_latents",
            f"--max_train_steps={PATIENCE + 5}",
            change=scaled(),
        )
    assert "--mixed_precision bf16" in caught.value.problems[0].hint


def test_a_gradient_that_overflows_now_and_then(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As at the start of every run in fp16: no warning, and skipped steps do not count against the word."""
    given = ("--cache_latents", f"--max_train_steps={PATIENCE + 5}", "--on_problem=stop")
    trained(moon_dataset, tmp_path / "a", *given, change=scaled(1, 2, 3, 12))
    trained(moon_dataset, tmp_path / "b", *given, change=scaled(*range(1, PATIENCE // 2 + 1)))
    assert not [
        record
        for record in caplog.records
        if record.levelname == "WARNING" and record.name == "coinage"
    ]
    trained(moon_dataset, tmp_path / "c", *given, change=scaled(*range(1, PATIENCE)))
    assert caplog.text.count(f"{PATIENCE - 1} of {PATIENCE + 5} updates were skipped") == 1
