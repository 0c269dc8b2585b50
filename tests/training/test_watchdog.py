"""Faults that would make a run useless are caught within its first steps, and what was learned is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.embeddings.reading import read
from coinage.errors import TrainingError
from coinage.families.stable_diffusion import StableDiffusion
from coinage.training import loop
from coinage.training.setup import Run
from coinage.training.watchdog import PATIENCE
from tests.helpers import rows_of, trained

LONG = f"--max_train_steps={PATIENCE + 5}"


def blind_attention(run: Run) -> None:
    """A UNet that does not read the text."""
    for name, parameter in run.parts.denoiser.named_parameters():
        if ".attn2.to_v." in name:
            parameter.zero_()


def test_a_unet_that_ignores_the_text_stops_the_run(moon_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"no gradient has reached the word in {PATIENCE} steps"):
        trained(moon_dataset, tmp_path, LONG, "--cache_latents", change=blind_attention)
    assert (tmp_path / f"zibu-step{PATIENCE:08d}.safetensors").is_file(), "and what there is, is kept"


def test_a_text_encoder_without_gradient_stops_the_run(moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = StableDiffusion.encode

    def detached(*arguments: object, **more: object) -> object:
        with torch.no_grad():
            return encode(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(StableDiffusion, "encode", detached)
    with pytest.raises(TrainingError, match="no gradient has reached the word"):
        trained(moon_dataset, tmp_path, LONG, "--cache_latents")


def test_a_word_that_no_caption_holds_stops_the_run(moon_dataset: Path, tmp_path: Path) -> None:
    """Where the checks of captions were fooled."""

    def forget(run: Run) -> None:
        run.samples = [replace(sample, caption=sample.caption.replace("zibu", "shape")) for sample in run.samples]

    with pytest.raises(TrainingError, match="no gradient has reached the word"):
        trained(moon_dataset, tmp_path, LONG, "--cache_latents", change=forget)


def test_one_vector_that_is_cut_off_is_named(moon_dataset: Path, tmp_path: Path) -> None:
    def second_is_dead(run: Run) -> None:
        run.parts.rows()[0].register_hook(lambda gradient: gradient * torch.tensor([[1.0], [0.0]]))

    with pytest.raises(TrainingError, match="vector 2 of emb_params"):
        trained(moon_dataset, tmp_path, LONG, "--cache_latents", "--num_vectors_per_token=2", change=second_is_dead)


def test_it_may_only_warn_and_short_runs_end(moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, _ = trained(moon_dataset, tmp_path / "a", LONG, "--cache_latents", "--on_problem=warn", change=blind_attention)
    assert run.step == PATIENCE + 5
    trained(moon_dataset, tmp_path / "b", "--max_train_steps=2", "--cache_latents", change=blind_attention)
    assert caplog.text.count("no gradient has reached the word") == 2
    assert (tmp_path / "b" / "zibu.safetensors").is_file()


FAULTS: dict[str, Callable[[Run], None]] = {
    "the text encoder": lambda run: run.parts.text_encoders[0].get_submodule("final_layer_norm").weight.fill_(float("nan")),
    "the UNet": lambda run: run.parts.denoiser.conv_out.weight.fill_(float("nan")),
    "the word's own vectors": lambda run: run.parts.rows()[0].data.fill_(float("nan")),
}


@pytest.mark.parametrize("where", FAULTS)
def test_where_numbers_stop_being_finite_is_told_and_what_was_learned_is_kept(
    where: str, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.update
    learned = []

    def update(run: Run) -> None:
        real(run)
        if run.step == 2:
            learned.append(run.parts.rows()[0].detach().clone())
            with torch.no_grad():
                FAULTS[where](run)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(TrainingError, match=f"the loss of step 3 is nan: {where} gives numbers that are not finite"):
        trained(moon_dataset, tmp_path, "--cache_latents")
    if where != "the word's own vectors":
        assert torch.equal(rows_of(read(tmp_path / "zibu-step00000002.safetensors")), learned[0])
        assert (tmp_path / "zibu-step00000002-state" / "state.json").is_file()


@pytest.mark.parametrize("more", [(), ("--num_vectors_per_token=3",), ("--gradient_accumulation_steps=2",), ("--optimizer_type=Lion",)])
def test_a_healthy_run_raises_no_alarm(more: tuple[str, ...], moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(moon_dataset, tmp_path, LONG, "--cache_latents", *more)
    assert "no gradient" not in caplog.text
