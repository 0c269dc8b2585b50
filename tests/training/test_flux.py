"""A word is learned for FLUX.1 from one command: steps, previews, files, states."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from coinage.cli.main import main
from coinage.cli.train import train_command
from coinage.config import ModelConfig
from coinage.embeddings.word import Word
from coinage.models.vocabulary import read_vocabularies
from tests.tiny_models import T5_WIDTH


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--pretrained_model_name_or_path={model}", f"--dataset_config={data}",
        f"--output_dir={out}", "--token_string=zibu", "--init_word=circle", "--seed=1",
        "--max_train_steps=3", "--mixed_precision=no", "--sample_every_n_steps=0", *more,
    ]  # fmt: skip


def vectors(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


@pytest.fixture(scope="module", params=["embedded", "unguided"])
def model(request: pytest.FixtureRequest, flux: Path, flux_without_guidance: Path) -> Path:
    """A model with a guidance embedding, and one without."""
    return flux if request.param == "embedded" else flux_without_guidance


@pytest.fixture(scope="module")
def run(model: Path, moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with states, latents on disk and a preview."""
    out = tmp_path_factory.mktemp("run")
    prompts = out / "prompts.txt"
    prompts.write_text("a photo of zibu --w 64 --h 64 --s 2")
    words = command(
        model, moon_dataset, out, "--save_every_n_steps=2", "--save_state", "--cache_latents_to_disk",
        f"--cache_dir={out / 'cache'}", f"--sample_prompts={prompts}", "--sample_every_n_steps=3",
    )  # fmt: skip
    assert train_command("coinage", words) == 0
    return out


def test_the_word_has_vectors_for_both_text_encoders(run: Path) -> None:
    learned = vectors(run / "zibu.safetensors")
    shapes = {key: tuple(rows.shape) for key, rows in learned.items()}
    assert shapes == {"clip_l": (1, 32), "t5xxl": (1, T5_WIDTH)}
    before = vectors(run / "zibu-step00000002.safetensors")
    for key, rows in learned.items():
        assert not torch.equal(rows, before[key])
    word = Word.load(run / "zibu.safetensors")
    assert word.metadata["modelspec.architecture"] == "flux-1/textual-inversion"
    assert word.metadata["ss_base_model_version"] == "flux1"
    assert "modelspec.prediction_type" not in word.metadata
    assert list((run / "sample").glob("*.png"))


def test_a_resumed_run_writes_the_same_word(run: Path, model: Path, moon_dataset: Path) -> None:
    out = run / "again"
    state = run / "zibu-step00000002-state"
    cached = ("--cache_latents_to_disk", f"--cache_dir={run / 'cache'}")
    words = command(model, moon_dataset, out, f"--resume={state}", *cached)
    assert train_command("coinage", words) == 0
    again, whole = vectors(out / "zibu.safetensors"), vectors(run / "zibu.safetensors")
    assert all(torch.equal(again[key], rows) for key, rows in whole.items())


def test_the_commands_take_the_word(
    run: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(run / "zibu.safetensors")
    assert main(["verify", file, "--model", str(model)]) == 0
    told = capsys.readouterr().out
    assert "ComfyUI: put it into models/embeddings/; write embedding:zibu" in told
    assert "text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)" in told
    assert main(["inspect", file, "--model", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [encoder["key"] for encoder in found["encoders"]] == ["clip_l", "t5xxl"]
    assert found["family_name"] == "FLUX.1"
    pictures = run / "pictures"
    size = ("--steps", "2", "--width", "64", "--height", "64", f"--output={pictures}")
    assert main(["generate", str(model), "a zibu", "--embedding", file, *size]) == 0
    assert list(pictures.glob("*.png"))


def test_a_negative_prompt_that_is_not_read_is_told_once(
    model: Path, moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "a zibu --n blurry --w 64 --h 64 --s 1\ntwo zibu --n dark --w 64 --h 64 --s 1"
    )
    words = command(
        model, moon_dataset, tmp_path, f"--sample_prompts={prompts}", "--sample_at_first"
    )
    assert train_command("coinage", words) == 0
    told = "negative prompts of previews have no effect: this model reads the guidance scale"
    err = capsys.readouterr().err
    assert err.count(told) == (model.name == "dev")
    assert err.count("no effect: this model") == (model.name == "dev")


@pytest.mark.parametrize(
    "flags",
    [
        ("--gradient_checkpointing", "--optimizer_type=AdamW", "--learning_rate=1e-3"),
        ("--mixed_precision=bf16", "--low_memory"),
        ("--mixed_precision=bf16", "--fp8_base", "--train_batch_size=2"),
        ("--init_word=auto",),
    ],
)
def test_flags_that_change_how_it_is_computed(
    flags: tuple[str, ...], flux: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    assert train_command("coinage", command(flux, moon_dataset, tmp_path, *flags)) == 0
    learned = vectors(tmp_path / "zibu.safetensors")
    assert all(torch.isfinite(rows).all() and rows.any() for rows in learned.values())


@pytest.mark.parametrize(("choice", "learns"), [("clip", "clip_l"), ("t5", "t5xxl")])
def test_a_word_learns_in_one_of_them_alone(
    choice: str, learns: str, flux: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    words = command(flux, moon_dataset, tmp_path, f"--train_encoders={choice}")
    assert train_command("coinage", words) == 0
    vocabularies = read_vocabularies(ModelConfig(source=str(flux), family="flux"))
    for key, rows in vectors(tmp_path / "zibu.safetensors").items():
        words_of = vocabularies[key]
        (index,) = words_of.tokenizer.encode("circle", add_special_tokens=False)
        assert torch.equal(rows[0], words_of.table[index]) == (key != learns)


def test_flags_of_diffusion_say_once_that_they_have_no_effect(
    flux: Path, moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--min_snr_gamma=5", "--clip_skip=2", "--dry_run")
    assert train_command("coinage", command(flux, moon_dataset, tmp_path, *flags)) == 0
    told = "".join(capsys.readouterr())
    assert told.count("--min_snr_gamma has no effect: FLUX.1 is trained by flow matching") == 1
