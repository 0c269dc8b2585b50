"""Models that are incomplete, broken, or come in other spellings."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from coinage.checks.model import model_problems
from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.generate import draw
from coinage.models.families import FAMILIES
from coinage.models.hub_files import detect_family
from coinage.models.tokenizer_files import find_tokenizer
from coinage.text.prompts import Prompt
from tests.tiny_models import FAMILY_NAMES, loaded, original_tensors, parts_of

TEXT = "text_encoder/model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"


def without(name: str, part: str) -> Callable[[Path], None]:
    """Take the first weight whose name holds `part` out of a file of the folder."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        del tensors[next(key for key in sorted(tensors) if part in key)]
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-50])

    return change


def fewer_layers(folder: Path) -> None:
    """Two weights of a layer that the settings do not tell of."""
    tensors = load_file(folder / UNET)
    more = {
        name.replace("down_blocks.0", "down_blocks.9"): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith("down_blocks.0.resnets.0.norm1")
    }
    save_file({**tensors, **more}, folder / UNET, metadata={"format": "pt"})


def with_a_lora(folder: Path) -> None:
    """A LoRA that older diffusers saved beside a UNet's weights."""
    tensors = load_file(folder / UNET)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight"
    tensors[name] = torch.zeros(4, 4)
    save_file(tensors, folder / UNET, metadata={"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a text encoder's weight": (
        without(TEXT, "layers.1"),
        "1 weights are missing from text_encoder, such as",
    ),
    "a UNet's weight": (
        without(UNET, "mid_block"),
        "1 weights are missing from unet, such as mid_block",
    ),
    "fewer layers in the settings": (
        fewer_layers,
        r"2 weights of unet are not in its settings, such as down_blocks\.\d",
    ),
    "a cut text encoder": (cut(TEXT), "cannot load the model's text encoder"),
    "a cut UNet": (cut(UNET), "cannot load the model's UNet"),
    "no UNet file": (lambda folder: (folder / UNET).unlink(), "cannot load the model's UNet"),
    "a broken vocabulary": (
        lambda folder: (folder / "tokenizer" / "vocab.json").write_text("{"),
        "cannot load the model's tokenizer",
    ),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_one_clear_error(name: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sd1", tmp_path / "model")
    change, message = BROKEN[name]
    change(tmp_path / "model")
    with pytest.raises(CoinageError, match=message):
        loaded("sd1", tmp_path / "model", models)


def test_what_a_model_may_have_beside_is_passed_over(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sd1", tmp_path / "model")
    with_a_lora(tmp_path / "model")
    settings = tmp_path / "model" / "text_encoder" / "config.json"
    fewer = json.loads(settings.read_text()) | {"num_hidden_layers": 1}
    settings.write_text(json.dumps(fewer))
    assert len(loaded("sd1", tmp_path / "model", models).text_encoders) == 1


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "diffusion_model.middle_block.0.in_layers.2.weight",
            "cannot load the model's UNet: weights are missing",
        ),
        (
            "first_stage_model.decoder.conv_out.weight",
            "cannot load the model's VAE: weights are missing",
        ),
        ("layers.1.mlp.fc1.weight", "1 weights of the text_encoder are missing"),
    ],
)
def test_files_with_a_weight_missing(part: str, message: str, models: Path, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in original_tensors("sd1").items() if part not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CoinageError, match=message):
        loaded("sd1", tmp_path / "model.safetensors", models)


def test_files_of_another_size_are_told(models: Path) -> None:
    """Without the tiny settings, the tiny file is read as if it were of the released size."""
    with pytest.raises(CoinageError, match=r"cannot load the model's|do not belong together"):
        loaded("sd1", models / "sd1.safetensors", models)


def test_an_empty_tokenizer_folder_is_passed_over(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sd1", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    (tmp_path / "model" / "tokenizer").mkdir()
    assert (
        find_tokenizer(str(tmp_path / "model"), cache=models / "tokenizers")
        == models / "tokenizers" / "any"
    )


def test_a_tokenizer_of_another_model_is_told(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sd1", tmp_path / "model")
    file = tmp_path / "model" / "tokenizer" / "vocab.json"
    vocabulary = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(vocabulary | {"zzz</w>": len(vocabulary)}), encoding="utf-8")
    with pytest.raises(
        CoinageError,
        match=r"the tokenizer has 740 entries and the text encoder 739: they do not belong together",
    ):
        loaded("sd1", tmp_path / "model", models)


def test_padding_does_not_depend_on_which_tokenizer_was_found(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sdxl", tmp_path / "model")
    for name in ("tokenizer", "tokenizer_2"):
        file = tmp_path / "model" / name / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "!"}))
    end = parts_of("sd1")["text_encoder"].config.eos_token_id  # type: ignore[union-attr]
    bang = json.loads((models / "sd1" / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))[
        "!"
    ]
    assert [row.pad for row in loaded("sdxl", tmp_path / "model", models).row_formats] == [
        end,
        bang,
    ]


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_told_before_they_are_loaded(
    family: str, legacy: bool, models: Path, tmp_path: Path
) -> None:
    torch.save(
        {"state_dict": original_tensors(family)},
        tmp_path / "model.ckpt",
        _use_new_zipfile_serialization=not legacy,
    )
    assert detect_family(str(tmp_path / "model.ckpt")) == family
    other = "sd1" if family == "sdxl" else "sdxl"
    (problem,) = model_problems(ModelConfig(source=str(tmp_path / "model.ckpt"), family=other))
    assert "and the command is for" in problem.what


def test_texts_in_a_broken_pickle_tell_nothing(tmp_path: Path) -> None:
    for number, content in enumerate(
        (b"PK\x03\x04 no archive", b"\x80\x02X\xff\xff\xff\x7fabc", b"\x80\x02" + b"(" * 100)
    ):
        (tmp_path / f"{number}.ckpt").write_bytes(content)
        assert detect_family(str(tmp_path / f"{number}.ckpt")) is None


@pytest.mark.usefixtures("small_configs")
def test_a_model_without_vae_trains_with_another(models: Path, tmp_path: Path) -> None:
    tensors = {
        name: tensor
        for name, tensor in original_tensors("sd1").items()
        if "first_stage" not in name
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    assert "without VAE: add --vae" in model_problems(ModelConfig(source=str(file)))[0].what
    vae = str(models / "sd1")
    assert not model_problems(ModelConfig(source=str(file), vae=vae))
    assert torch.equal(
        loaded("sd1", file, models, vae=vae).vae.post_quant_conv.weight,
        parts_of("sd1")["vae"].post_quant_conv.weight,
    )  # type: ignore[union-attr]


def test_an_old_vae_file_has_other_names(models: Path, tmp_path: Path) -> None:
    vae = parts_of("sd1")["vae"]
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in vae.state_dict().items():
        found = [before for new, before in old.items() if f"attentions.0.{new}." in name]
        tensors[re.sub(r"to_(q|k|v|out\.0)", found[0], name) if found else name] = tensor
    assert any(".query." in name for name in tensors)
    save_file(tensors, tmp_path / "old.safetensors")
    found = loaded(
        "sd1", models / "sd1", models, vae=str(tmp_path / "old.safetensors")
    ).vae.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in vae.state_dict().items())


def test_a_vae_without_scaling_factor_has_its_familys(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sd1" / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    assert (
        loaded("sdxl", models / "sdxl", models, vae=str(tmp_path / "vae")).scaling_factor == 0.13025
    )
    assert (
        loaded("sd1", models / "sd1", models, vae=str(tmp_path / "vae")).scaling_factor == 0.18215
    )


def test_a_folder_with_half_precision_files_alone(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sdxl", tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    found, plain = (
        loaded("sdxl", folder, models) for folder in (tmp_path / "model", models / "sdxl")
    )
    assert torch.equal(found.denoiser.conv_in.weight, plain.denoiser.conv_in.weight)
    assert torch.equal(
        found.text_encoders[1].text_projection.weight, plain.text_encoders[1].text_projection.weight
    )


@pytest.mark.usefixtures("small_configs")
def test_the_other_spelling_of_the_projection(models: Path, tmp_path: Path) -> None:
    """Under `.weight` it lies as a linear layer has it."""
    tensors = original_tensors("sdxl")
    name = "conditioner.embedders.1.model.text_projection"
    tensors[f"{name}.weight"] = tensors.pop(name).T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    found, plain = (
        loaded("sdxl", file, models) for file in (tmp_path / "model.safetensors", models / "sdxl")
    )
    assert torch.equal(
        found.text_encoders[1].text_projection.weight, plain.text_encoders[1].text_projection.weight
    )


def test_a_vae_that_overflows_draws_in_float32(models: Path) -> None:
    prompt = Prompt(text="a red circle", width=64, height=64, steps=2, seed=1)
    parts = FAMILIES["sd1"].load(ModelConfig(source=str(models / "sd1")), torch.float32)
    parts.install([], [])
    with torch.no_grad():  # the same picture by way of numbers that fp16 cannot hold
        parts.vae.post_quant_conv.weight *= 1e5
        parts.vae.decoder.conv_in.weight /= 1e5
        parts.vae.post_quant_conv.bias *= 1e5
    (right,) = draw(FAMILIES["sd1"], parts, [prompt])
    parts.vae.to(torch.float16)
    (picture,) = draw(FAMILIES["sd1"], parts, [prompt])
    assert parts.vae.dtype == torch.float32, "it would overflow in each picture"
    assert picture.std() > 0
    assert np.abs(picture.astype(int) - right.astype(int)).max() <= 12, "fp16 weights"
    with torch.no_grad():
        parts.vae.decoder.conv_in.weight.fill_(float("nan"))
    with pytest.raises(CoinageError, match="the picture is not finite"):
        list(draw(FAMILIES["sd1"], parts, [prompt]))
