"""A word knows the model that it was trained on, and meets another one with a warning."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import coinage
from coinage.checks import make_plans
from coinage.cli.main import main
from coinage.config import ModelConfig
from coinage.embeddings.base_model import BaseModel, base_of_model, base_of_word, other_base
from coinage.embeddings.verify import verify_file
from coinage.embeddings.word import Word
from coinage.runs.digests import short_hash
from tests.helpers import captured, config_for, small_model, trained
from tests.tiny_models import original_tensors, write_folder

A, B = "0123abcd", "89abcdef"
V, EPSILON = "v_prediction", "epsilon"
OWN = {"ti.base_model": "noob.safetensors", "ti.base_model_hash": A}
HEADER = "modelspec.prediction_type"


@pytest.mark.parametrize(
    ("metadata", "model", "warning"),
    [
        ({}, BaseModel("other", B, V), ""),
        (OWN, BaseModel("renamed", A, V), ""),
        (OWN, BaseModel("noob", B), "trained on noob.safetensors (0123abcd), and this model is"),
        (OWN, BaseModel("Noob.ckpt"), ""),
        (OWN, BaseModel("sd.ckpt"), "noob.safetensors (0123abcd), and this model is sd.ckpt"),
        (OWN, BaseModel("noob.v2"), "and this model is noob.v2"),
        ({"ti.base_model": "noob.v2"}, BaseModel("noob.v2.safetensors", A), ""),
        (
            OWN | {HEADER: "v"},
            BaseModel("sdxl", B, EPSILON),
            (
                "zibu was trained on noob.safetensors (0123abcd), which predicts v, and "
                "sdxl (89abcdef) predicts the noise: here the word may do little"
            ),
        ),
        (OWN | {HEADER: "epsilon"}, BaseModel("n", A, V), "predicts the noise, and n (0123abcd) "),
        ({HEADER: "V"}, BaseModel("sdxl", B, EPSILON), "trained on a model, which predicts v"),
        ({HEADER: "epsilon"}, BaseModel("sdxl", B, EPSILON), ""),
        (OWN | {HEADER: "v"}, BaseModel("noob", A), ""),
        (OWN | {HEADER: "flow"}, BaseModel("noob", A, V), ""),
        # AUTOMATIC1111's newer hash cannot be compared, and a short file has none
        ({"ss_sd_model_hash": A + "01", "ss_sd_model_name": "noob"}, BaseModel("noob", B), ""),
        ({"ss_sd_model_hash": A, "ss_sd_model_name": "noob"}, BaseModel("sd", B), "this model is"),
        ({"ss_sd_model_hash": "e3b0c442"}, BaseModel("sd", B), ""),
        ({"ss_sd_model_name": ""}, BaseModel("sd", B), ""),
    ],
)
def test_a_word_and_a_model(metadata: dict[str, str], model: BaseModel, warning: str) -> None:
    said = other_base("zibu", metadata, model)
    assert warning in said
    assert bool(said) == bool(warning)
    assert "\n" not in said


def test_our_own_keys_come_first() -> None:
    both = OWN | {"ss_sd_model_name": "x", "ss_sd_model_hash": B, HEADER: "v"}
    assert base_of_word(both) == BaseModel("noob.safetensors", A, "v_prediction")
    assert str(base_of_word({"ss_sd_model_hash": B})) == B
    assert not base_of_word({HEADER: "v"})


@pytest.mark.usefixtures("small_configs")
def test_what_is_known_of_a_model_before_it_is_loaded(models: Path, tmp_path: Path) -> None:
    tensors = {name: t.contiguous() for name, t in original_tensors("sdxl").items()}
    marked = tmp_path / "noob.safetensors"
    save_file(tensors | {"v_pred": torch.zeros(0)}, marked)
    torch.save(tensors | {"v_pred": torch.zeros(0)}, tmp_path / "noob.ckpt")

    def of(source: Path, family: str = "sdxl") -> BaseModel:
        return base_of_model(ModelConfig(source=str(source), family=family))

    assert of(marked) == BaseModel("noob.safetensors", short_hash(str(marked)), V)
    assert of(tmp_path / "noob.ckpt").predicts == V
    assert of(models / "sdxl.safetensors").predicts == EPSILON
    assert of(models / "sd2.safetensors", "sd2").predicts is None
    assert of(write_folder(tmp_path / "v", "sd1", V), "sd1").predicts == V
    unet = models / "sd1" / "unet" / "diffusion_pytorch_model.safetensors"
    assert of(models / "sd1", "sd1").digits == short_hash(str(unet)) != ""
    assert of(tmp_path / "gone", "sd1") == BaseModel("gone", "", EPSILON)
    assert of(tmp_path / "gone", "sd3") == BaseModel("gone")  # flow matching: neither


@pytest.fixture(scope="module")
def word_file(moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word that was trained on the small model."""
    run, _ = trained(moon_dataset, tmp_path_factory.mktemp("word"))
    return run.config.output_file


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same family that predicts v."""
    return write_folder(tmp_path_factory.mktemp("v") / "noob", "sd1", V)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_file_names_its_model_and_inspect_shows_it(
    suffix: str, word_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"word.{suffix}"
    coinage.load_word(word_file).save(file)
    shown = captured(lambda: main(["inspect", str(file)])).stdout
    model, digits = small_model().name, short_hash(str(small_model()))
    assert len(digits) == 8
    predicts = ", which predicts the noise" if suffix == "safetensors" else ""
    assert f"trained on: {model} ({digits}){predicts}\n" in shown
    plain = json.loads(captured(lambda: main(["inspect", str(file), "--json"])).stdout)
    assert plain["base"]["name"] == model
    assert plain["base"]["hash"] == digits
    coinage.load_word(file).save(bare := tmp_path / "zibu.bin", to="diffusers")
    assert "trained on" not in captured(lambda: main(["inspect", str(bare)])).stdout


def test_each_command_tells_once(
    word_file: Path, other_model: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    word, model = str(word_file), str(other_model)
    pictures = ["--steps=1", "--width=64", "--height=64", f"--output={tmp_path}"]
    commands = (
        ["generate", model, "a zibu", "--embedding", word, *pictures],
        ["verify", word, "--model", model],
        ["evaluate", word, "--model", model, f"--output={tmp_path}"],
        ["inspect", word, "--model", model],
    )
    for command in commands:
        done = captured(lambda command=command: main(command))  # type: ignore[misc]
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).count("here the word may do little") == 1, command
        same = [str(small_model()) if one == model else one for one in command]
        told = captured(lambda same=same: main(same))  # type: ignore[misc]
        assert "was trained on" not in told.stdout + told.stderr
    config = config_for(moon_dataset, tmp_path, f"--weights={word}")
    (plan,) = make_plans([config])
    assert not any("was trained on" in warning.what for warning in plan.warnings)
    config = replace(config, model=replace(config.model, source=model))
    (plan,) = make_plans([config])
    (told_of,) = [warning for warning in plan.warnings if "was trained on" in warning.what]
    assert told_of.what.startswith(f"--weights: {word} was trained on")


def test_python_tells_too_and_a_word_without_a_header_is_silent(
    word_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "illustrious"
    shutil.copytree(small_model(), other)
    weights = next((other / "unet").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # as another training changes all of them
    data[0x100000] ^= 1
    weights.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="coinage"):
        model = coinage.load_model(other)
        model.install(word_file, "zibu")
        assert caplog.text.count("the word may look different here") == 1
        model.evaluate(word_file)
        assert caplog.text.count("the word may look different here") == 2
        verify_file(word_file, ModelConfig(source=str(other)))
        assert caplog.text.count("the word may look different here") == 3
        caplog.clear()
        model.install(Word({"emb_params": torch.ones(1, 32)}, "wug"))
    assert not caplog.text
