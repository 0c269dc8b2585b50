"""The check of the model before the first step, and that checking changes nothing."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.config import TrainConfig
from coinage.demo.worlds import MODELS
from coinage.models.attention import plain_attention
from coinage.models.text_cache import encode
from coinage.settings.discover import complete
from coinage.training.model_check import (
    gradient,
    image_with_word,
    left_over,
    wrong_prediction,
)
from coinage.training.run import Run
from coinage.training.setup import prepare
from tests.helpers import TAUGHT, flags, prepared, rows_of, trained

FAMILIES = {"sd1": (), "sd2": ("--v2",), "sdxl": ()}


def config_for(family: str, dataset: Path, out: Path, *more: str) -> TrainConfig:
    given = flags(
        dataset, out, f"--pretrained_model_name_or_path={MODELS / family}", *FAMILIES[family], *more
    )
    return complete(parse("coinage", given, "test"))[0]


@torch.no_grad()
def predicted(run: Run) -> torch.Tensor:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with run.autocast():
        cond = encode(
            run.family,
            run.parts,
            ["a zibu", "a red circle"],
            torch.tensor([[64, 64, 0, 0, 64, 64]] * 2),
        )
        return run.family.predict(run.parts, noisy, torch.tensor([300, 800]), cond).float()


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_attention_predicts_the_same(family: str, moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(family, moon_dataset, tmp_path, "--gradient_checkpointing")
    run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
    fused = predicted(run)
    used = dict(run.parts.denoiser.attn_processors)
    with plain_attention(run.parts):
        plain = predicted(run)
        assert {type(each).__name__ for each in run.parts.denoiser.attn_processors.values()} == {
            "AttnProcessor"
        }
        assert {encoder.config._attn_implementation for encoder in run.parts.text_encoders} == {
            "eager"
        }
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)
    assert run.parts.denoiser.attn_processors == used
    assert {encoder.config._attn_implementation for encoder in run.parts.text_encoders} == {"sdpa"}
    assert torch.equal(predicted(run), fused), "and it is as before"


# torch's compiler looks at it
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "more", [(), ("--mixed_precision=bf16",), ("--torch_compile", "--dynamo_backend=eager")]
)
def test_looking_changes_no_number(
    more: tuple[str, ...],
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = ("--cache_latents", "--max_train_steps=2", *more)
    with caplog.at_level("INFO"):  # the compiler has much to say below
        _, looked = trained(moon_dataset, tmp_path / "a", *given)
        monkeypatch.setattr("coinage.training.session.check_model", lambda _: None)
        _, blind = trained(moon_dataset, tmp_path / "b", *given)
    assert torch.equal(rows_of(looked), rows_of(blind))


def test_a_model_that_says_worse_than_nothing(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(run: Run) -> None:
        run.parts.denoiser.conv_out.weight.data *= 3

    run, _ = trained(
        moon_dataset, tmp_path, TAUGHT, "--cache_latents", "--max_train_steps=1", change=spoil
    )
    assert run.step == 1, "it is a warning"
    assert re.search(
        r"at high noise the model's error is \d\.\d times that of predicting nothing",
        caplog.text,
    )
    assert "coinage generate" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_the_word_nor_a_pale_image_is_held_against_the_model(
    family: str, moon_dataset: Path, tmp_path: Path
) -> None:
    """A resumed word may mean anything; a v of little power is easily missed by more than that."""
    config = config_for(family, moon_dataset, tmp_path, "--num_vectors_per_token=8")
    run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
    batch = image_with_word(run)
    assert batch
    before = left_over(run, batch)
    assert wrong_prediction(run, before) is None
    for rows in run.parts.rows():
        rows.data = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    assert left_over(run, batch) == before
    for share in (0.3, 0.01):
        assert (
            wrong_prediction(run, left_over(run, replace(batch, moments=batch.moments * share)))
            is None
        )


def test_a_model_that_says_nothing_is_not_taken_for_one_of_the_other_kind(
    moon_dataset: Path, tmp_path: Path
) -> None:
    """Such as one with small random weights; of a nearly empty image v is nearly nothing, too."""
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    batch = image_with_word(run)
    assert batch
    run.parts.denoiser.conv_out.weight.data *= 1e-3
    for share in (1.0, 0.01):
        assert (
            wrong_prediction(run, left_over(run, replace(batch, moments=batch.moments * share)))
            is None
        )


def test_it_looks_at_the_first_image_that_has_the_word(moon_dataset: Path, tmp_path: Path) -> None:
    """Whatever the first updates hold; in a resumed run too."""
    run = prepared(moon_dataset, tmp_path)
    last = len(run.samples) - 1
    run.samples = [
        sample if i == last else replace(sample, caption="a circle")
        for i, sample in enumerate(run.samples)
    ]
    batch = image_with_word(run)
    assert batch
    assert batch.captions == [run.samples[last].caption]
    assert gradient(run, batch).norm() > 0
    run.samples = run.samples[:last]
    assert image_with_word(run) is None
