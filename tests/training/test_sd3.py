"""A word is learned for Stable Diffusion 3 from one command: steps, previews, files, states."""

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
        "--max_train_steps=4", "--mixed_precision=no", "--sample_every_n_steps=0", *more,
    ]  # fmt: skip


def init_rows(model: Path) -> dict[str, torch.Tensor]:
    """The embedding of the init word in each text encoder."""
    found = read_vocabularies(ModelConfig(source=str(model), family="sd3"))
    rows = {}
    for key, words in found.items():
        (index,) = words.tokenizer.encode("circle", add_special_tokens=False)
        rows[key] = words.table[index]
    return rows


def vectors(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


@pytest.fixture(scope="module")
def run(sd3: Path, moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with states, latents on disk and a preview."""
    out = tmp_path_factory.mktemp("run")
    prompts = out / "prompts.txt"
    prompts.write_text("a photo of zibu --w 64 --h 64 --s 2")
    words = command(
        sd3, moon_dataset, out, "--save_every_n_steps=2", "--save_state", "--cache_latents_to_disk",
        f"--cache_dir={out / 'cache'}", f"--sample_prompts={prompts}", "--sample_every_n_steps=4",
    )  # fmt: skip
    assert train_command("coinage", words) == 0
    return out


def test_the_word_has_vectors_for_all_text_encoders(run: Path) -> None:
    learned = vectors(run / "zibu.safetensors")
    shapes = {key: tuple(rows.shape) for key, rows in learned.items()}
    assert shapes == {"clip_l": (1, 32), "clip_g": (1, 64), "t5xxl": (1, T5_WIDTH)}
    before = vectors(run / "zibu-step00000002.safetensors")
    for key, rows in learned.items():
        assert not torch.equal(rows, before[key])
    word = Word.load(run / "zibu.safetensors")
    assert word.metadata["modelspec.architecture"] == "stable-diffusion-3/textual-inversion"
    assert "modelspec.prediction_type" not in word.metadata
    assert list((run / "sample").glob("*.png"))


def test_a_resumed_run_writes_the_same_word(run: Path, sd3: Path, moon_dataset: Path) -> None:
    out = run / "again"
    state = run / "zibu-step00000002-state"
    cached = ("--cache_latents_to_disk", f"--cache_dir={run / 'cache'}")
    words = command(sd3, moon_dataset, out, f"--resume={state}", *cached)
    assert train_command("coinage", words) == 0
    again, whole = vectors(out / "zibu.safetensors"), vectors(run / "zibu.safetensors")
    assert all(torch.equal(again[key], rows) for key, rows in whole.items())


def test_the_commands_take_the_word(
    run: Path, sd3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(run / "zibu.safetensors")
    assert main(["verify", file, "--model", str(sd3)]) == 0
    assert "ComfyUI" in capsys.readouterr().out
    assert main(["inspect", file, "--model", str(sd3), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [encoder["key"] for encoder in found["encoders"]] == ["clip_l", "clip_g", "t5xxl"]
    pictures = run / "pictures"
    drawn = [
        "generate",
        str(sd3),
        "a zibu",
        "--embedding",
        file,
        "--steps",
        "2",
        f"--output={pictures}",
    ]
    assert main(drawn) == 0
    assert list(pictures.glob("*.png"))


def test_a_model_without_t5_gives_a_word_for_clip(
    sd3_without_t5: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    words = command(sd3_without_t5, moon_dataset, tmp_path, "--max_train_steps=1")
    assert train_command("coinage", words) == 0
    learned = Word.load(tmp_path / "zibu.safetensors")
    assert sorted(learned.vectors) == ["clip_g", "clip_l"]


@pytest.mark.parametrize(
    ("choice", "learn"),
    [("l", ["clip_l"]), ("g", ["clip_g"]), ("clip", ["clip_g", "clip_l"]), ("t5", ["t5xxl"])],
)
def test_a_word_learns_in_the_chosen_text_encoders_alone(
    choice: str, learn: list[str], sd3: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    more = (f"--train_encoders={choice}", "--max_train_steps=2")
    assert train_command("coinage", command(sd3, moon_dataset, tmp_path, *more)) == 0
    word, start = Word.load(tmp_path / "zibu.safetensors"), init_rows(sd3)
    moved = [key for key, rows in word.vectors.items() if not torch.equal(rows, start[key][None])]
    assert sorted(moved) == learn
    assert sorted(word.metadata["ti.trained_encoders"].split(", ")) == learn


def test_t5_alone_needs_t5(
    sd3_without_t5: Path,
    moon_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command(sd3_without_t5, moon_dataset, tmp_path, "--train_encoders=t5")
    assert train_command("coinage", words) == 2
    assert "the model has no such text encoder" in capsys.readouterr().err


def test_a_start_is_found_among_words_that_all_text_encoders_know(
    sd3: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    more = ("--init_word=auto", "--max_train_steps=1")
    assert train_command("coinage", command(sd3, moon_dataset, tmp_path, *more)) == 0
    found = Word.load(tmp_path / "zibu.safetensors").metadata["ti.init_word"]
    assert found in ("photo", "red", "circle", "square", "shape", "blue", "on", "in", "the", "of")


def test_flags_of_diffusion_say_once_that_they_have_no_effect(
    sd3: Path, moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--min_snr_gamma=5", "--noise_offset=0.1", "--v_parameterization", "--dry_run")
    assert train_command("coinage", command(sd3, moon_dataset, tmp_path, *flags)) == 0
    told = "".join(capsys.readouterr())
    what = "--v_parameterization, --noise_offset, --min_snr_gamma have no effect"
    assert told.count(what) == 1


def test_adamw_moves_t5s_rows_by_as_large_an_angle(
    sd3: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    more = ("--optimizer_type=AdamW", "--learning_rate=1e-3", "--gradient_checkpointing")
    assert train_command("coinage", command(sd3, moon_dataset, tmp_path, *more)) == 0
    degrees = []
    for key, rows in vectors(tmp_path / "zibu.safetensors").items():
        start = init_rows(sd3)[key]
        degrees.append(float(torch.cosine_similarity(rows, start[None]).acos().rad2deg()))
    assert min(degrees) > 0.05
    assert max(degrees) < 5 * min(degrees)


@pytest.mark.parametrize("choice", ["both", "clip", "t5"])
def test_adamw_is_judged_and_resumed_by_each_text_encoders_own_rate(
    choice: str,
    sd3: Path,
    moon_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = (
        "--optimizer_type=AdamW", "--learning_rate=5e-3", f"--train_encoders={choice}",
        "--max_train_steps=24", "--save_state", "--save_every_n_steps=22",
    )  # fmt: skip
    assert train_command("coinage", command(sd3, moon_dataset, tmp_path, *more)) == 0
    state = tmp_path / "zibu-step00000022-state"
    again = (*more, f"--resume={state}")
    assert train_command("coinage", command(sd3, moon_dataset, tmp_path / "b", *again)) == 0
    whole, resumed = (vectors(at / "zibu.safetensors") for at in (tmp_path, tmp_path / "b"))
    assert all(torch.equal(resumed[key], rows) for key, rows in whole.items())
    assert "warning" not in capsys.readouterr().err
