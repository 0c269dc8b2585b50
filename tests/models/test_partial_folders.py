"""Folders of which a part is missing or too coarse: one clear error each, before anything is loaded."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coinage.checks.model import model_problems
from coinage.config import ModelConfig
from coinage.errors import CoinageError, Problem
from coinage.models.hub_files import detect_family
from tests.tiny_models import loaded

Change = Callable[[Path], None]
T5 = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}
AGAIN = "download the model again"


def fp8(folder: str, parts: int = 1) -> Change:
    """Weights in fp8, in one file or several."""

    def change(model: Path) -> None:
        file = model / folder / "model.safetensors"
        tensors = {
            name: tensor.to(torch.float8_e4m3fn) if tensor.ndim > 1 else tensor
            for name, tensor in load_file(file).items()
        }
        file.unlink()
        if parts == 1:
            save_file(tensors, file)
            return
        names, table = sorted(tensors), {}
        for number in range(parts):
            path = file.with_name(f"model-{number + 1:05d}-of-{parts:05d}.safetensors")
            share = names[number::parts]
            save_file({name: tensors[name] for name in share}, path)
            table |= dict.fromkeys(share, path.name)
        file.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))

    return change


def settings(part: str, **more: Any) -> Change:
    def change(model: Path) -> None:
        file = model / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | more))

    return change


def without(pattern: str, gguf: str = "") -> Change:
    """Files are missing; one in GGUF may stand in their place."""

    def change(model: Path) -> None:
        files = list(model.glob(pattern))
        assert files
        for file in files:
            file.unlink()
        if gguf:
            (model / gguf).write_bytes(b"GGUF" + bytes(100))

    return change


def half_a_download(folder: str) -> Change:
    def change(model: Path) -> None:
        table = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        index = model / folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": table}))
        (model / folder / "model.safetensors").rename(model / folder / table["a"])

    return change


def problems_of(folder: Path, change: Change, tmp_path: Path) -> tuple[Path, list[Problem]]:
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    change(path)
    family = detect_family(str(path)) or "sd1"
    return path, model_problems(ModelConfig(source=str(path), family=family))


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        (fp8, "T5 text encoder is in fp8", "the diffusers folder has it"),
        (lambda t5: fp8(t5, parts=2), "T5 text encoder is in fp8", "the diffusers folder has it"),
        (
            lambda t5: settings(t5, quantization_config={"load_in_8bit": True}),
            "a quantised model: give it in fp16 or bf16",
            "the diffusers folder has it",
        ),
        (
            lambda _: settings("transformer", quantization_config={"load_in_4bit": True}),
            "a quantised model: give it in fp16 or bf16",
            "the diffusers folder has it",
        ),
        (
            lambda t5: without(f"{t5}/*.safetensors", f"{t5}/t5-q4.gguf"),
            "has its weights in GGUF",
            "take them in fp16 or bf16",
        ),
        (
            lambda _: without("transformer/*.safetensors", "transformer/q8.gguf"),
            "transformer has its weights in GGUF",
            "take them in fp16 or bf16",
        ),
        (
            lambda t5: settings(t5, model_type="umt5"),
            "is umt5, not T5",
            "the diffusers folder has it",
        ),
        (lambda t5: without(f"{t5}/*.safetensors"), "has no weights", AGAIN),
        (lambda _: without("transformer/*.safetensors"), "transformer has no weights", AGAIN),
        (lambda _: without("vae/*.safetensors"), "vae has no weights", AGAIN),
        (lambda t5: without(f"{t5}/config.json"), "has no config.json", AGAIN),
        (half_a_download, "model-00002-of-00002.safetensors is missing", AGAIN),
        (lambda _: settings("transformer", num_layers=10**9), "`num_layers` is 1000000000", AGAIN),
        (
            lambda _: settings("transformer", num_layers="two"),
            "`num_layers` is not a number",
            AGAIN,
        ),
        (
            lambda _: settings("transformer", in_channels=384),
            "it has 384 input channels, not",
            "give a",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_and_what_to_do(
    family: str,
    change: Callable[[str], Change],
    what: str,
    hint: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder = request.getfixturevalue(family)
    _, problems = problems_of(folder, change(T5[family]), tmp_path)
    (problem,) = problems
    assert what in problem.what
    assert hint in problem.hint


def test_all_parts_that_lack_something_are_told_at_once(flux: Path, tmp_path: Path) -> None:
    def change(model: Path) -> None:
        without("*/*.safetensors")(model)

    _, problems = problems_of(flux, change, tmp_path)
    parts = [Path(problem.where).name for problem in problems]
    assert parts == ["text_encoder", "text_encoder_2", "transformer", "vae"]


@pytest.mark.parametrize("folder", ["sd1", "sdxl"])
def test_other_families_are_checked_alike(folder: str, models: Path, tmp_path: Path) -> None:
    _, (problem,) = problems_of(models / folder, without("unet/*.safetensors"), tmp_path)
    assert "unet has no weights" in problem.what


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize(
    ("file", "name", "value", "what"),
    [
        ("vae/config.json", "scaling_factor", None, "`scaling_factor` is None"),
        ("vae/config.json", "scaling_factor", 0, "`scaling_factor` is 0"),
        ("vae/config.json", "shift_factor", 1e400, "`shift_factor` is inf"),
        (
            "scheduler/scheduler_config.json",
            "num_train_timesteps",
            500,
            "not those of flow matching",
        ),
        (
            "transformer/config.json",
            "attention_head_dim",
            None,
            "cannot load the model's transformer",
        ),
        (
            "transformer/config.json",
            "pooled_projection_dim",
            7,
            "transformer: its weights have other shapes than its settings say",
        ),
        (
            "text_encoder_2/config.json",
            "vocab_size",
            100,
            "text encoder: its weights have other shapes than its settings say",
        ),
    ],
)
def test_odd_settings_are_one_clear_error(
    family: str,
    file: str,
    name: str,
    value: object,
    what: str,
    request: pytest.FixtureRequest,
    models: Path,
    tmp_path: Path,
) -> None:
    def change(model: Path) -> None:
        content = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps(content | {name: value}))

    path, problems = problems_of(request.getfixturevalue(family), change, tmp_path)
    assert problems == []
    with pytest.raises(CoinageError, match=what):
        loaded(family, path, models)


@pytest.mark.parametrize(
    ("family", "what"),
    [
        (
            "sd3",
            "transformer: its weights have other shapes",
        ),  # its last layer has a shape of its own
        ("flux", "weights of transformer are not in its settings"),
    ],
)
def test_layers_that_the_settings_leave_out_are_told(
    family: str, what: str, request: pytest.FixtureRequest, models: Path, tmp_path: Path
) -> None:
    file = request.getfixturevalue(family) / "transformer" / "config.json"
    layers = json.loads(file.read_text())["num_layers"]
    change = settings("transformer", num_layers=layers - 1)
    path, problems = problems_of(file.parents[1], change, tmp_path)
    assert problems == []
    with pytest.raises(CoinageError, match=what):
        loaded(family, path, models)


@pytest.mark.parametrize("axes", [[4, 4], [2, 2, 2], [4, 13, 15], []])
def test_places_must_fill_the_heads(
    axes: list[int], flux: Path, models: Path, tmp_path: Path
) -> None:
    path, _ = problems_of(flux, settings("transformer", axes_dims_rope=axes), tmp_path)
    with pytest.raises(CoinageError, match=re.escape(f"`axes_dims_rope` is {axes}")):
        loaded("flux", path, models)


def test_t5_in_fp8_is_refused_without_the_checks(sd3: Path, models: Path, tmp_path: Path) -> None:
    path, _ = problems_of(sd3, fp8("text_encoder_3"), tmp_path)
    with pytest.raises(CoinageError, match="T5 text encoder is in fp8"):
        loaded("sd3", path, models)
