"""Every family from a folder and from a single file: the same outputs, and a run to the end."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import ModelConfig
from coinage.embeddings.reading import read
from coinage.errors import CoinageError, ConfigError
from coinage.generate import draw, make_scheduler
from coinage.models.families import FAMILIES, Components
from coinage.settings.discover import complete
from coinage.text.prompts import Prompt
from tests.cli.test_bad_input import SCRIPT
from tests.helpers import captured, flags, trained
from tests.tiny_models import FAMILY_NAMES as NAMES
from tests.tiny_models import loaded, original_tensors, parts_of, write_folder

SIZES = torch.tensor([[64, 64, 0, 3, 64, 64]] * 2)
CAPTIONS = ["a red zibu on a blue background", "zibu"]


@torch.no_grad()
def outputs(family: str, parts: Components) -> dict[str, torch.Tensor]:
    cond = FAMILIES[family].encode(parts, CAPTIONS, SIZES)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = {
        "states": cond.encoder_hidden_states,
        "prediction": FAMILIES[family].predict(parts, noise, torch.tensor([10, 900]), cond),
        "decoded": parts.vae.decode(noise).sample,
        "encoded": parts.vae.encode(
            torch.nn.functional.interpolate(noise[:, :3], scale_factor=8)
        ).latent_dist.mean,
    }
    return found | ({} if cond.pooled is None else {"pooled": cond.pooled})


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("family", NAMES)
def test_a_single_file_is_the_folder(family: str, suffix: str, models: Path) -> None:
    folder = outputs(family, loaded(family, models / family, models))
    file = outputs(family, loaded(family, models / f"{family}.{suffix}", models))
    assert folder.keys() == file.keys()
    for name, tensor in folder.items():
        assert tensor.std() > 0
        torch.testing.assert_close(file[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("family", NAMES)
def test_weights_come_in_the_dtype_that_is_asked_for(family: str, models: Path) -> None:
    """Whether they are mapped or not, and only the UNet and the VAE."""
    config = ModelConfig(
        source=str(models / f"{family}.safetensors"),
        family=family,
        tokenizer_cache=models / "tokenizers",
    )
    mapped, unmapped = (
        FAMILIES[family].load(replace(config, map_weights=m), torch.bfloat16) for m in (True, False)
    )
    for one, two in zip(mapped.modules(), unmapped.modules(), strict=True):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)
    assert {p.dtype for p in (*mapped.denoiser.parameters(), *mapped.vae.parameters())} == {
        torch.bfloat16
    }
    assert {p.dtype for encoder in mapped.text_encoders for p in encoder.parameters()} == {
        torch.float32
    }
    vae = FAMILIES[family].load(replace(config, full_precision_vae=True), torch.bfloat16).vae
    assert next(vae.parameters()).dtype == torch.float32


@pytest.mark.usefixtures("small_configs")
def test_weights_may_be_read_at_once(
    models: Path, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a mapped file is slow, such as on a network drive: the file is opened by nobody else then."""
    words = family_flags("sdxl", models / "sdxl.safetensors", moon_dataset, tmp_path, models)
    _, mapped = trained(moon_dataset, tmp_path, config=complete(parse("sdxl", words, "test"))[0])
    monkeypatch.delattr("safetensors.safe_open")
    _, read_at_once = trained(
        moon_dataset,
        tmp_path,
        config=complete(
            parse("sdxl", [*words, "--disable_mmap_load_safetensors", "--save_model_as=pt"], "test")
        )[0],
    )
    for key, rows in mapped.vectors.items():
        assert torch.equal(read_at_once.vectors[key], rows)


@torch.no_grad()
def test_sdxl_reads_second_to_last_layers_and_pools_at_the_end_of_text(models: Path) -> None:
    """Against the library's encoders, run on ids written out by hand."""
    parts = loaded("sdxl", models / "sdxl", models)
    cond = FAMILIES["sdxl"].encode(parts, CAPTIONS, SIZES)
    rows = [encoder.rows(CAPTIONS[0])[0] for encoder in parts.word_encoders]
    end = rows[1].index(738)
    assert max(rows[1]) > 738, "the new word's ids are larger than the end of text"
    assert rows[0][end + 1 :] == [738] * (76 - end)
    assert rows[1][end + 1 :] == [parts.row_formats[1].pad] * (76 - end)
    states = []
    for encoder, row in zip(parts.text_encoders, rows, strict=True):
        output = encoder(torch.tensor([row]), output_hidden_states=True)
        states.append(output.hidden_states[-2])
    torch.testing.assert_close(cond.encoder_hidden_states[:1], torch.cat(states, dim=-1))
    projected = output.last_hidden_state[0, end] @ parts.text_encoders[1].text_projection.weight.T
    torch.testing.assert_close(cond.pooled[0], projected)  # type: ignore[index]
    assert torch.equal(cond.time_ids, SIZES)  # type: ignore[arg-type]


def test_long_captions_of_sdxl_pool_in_their_first_part(models: Path) -> None:
    short, long = (
        loaded("sdxl", models / "sdxl", models, max_token_length=length) for length in (75, 225)
    )
    with torch.no_grad():
        one, three = (FAMILIES["sdxl"].encode(parts, CAPTIONS, SIZES) for parts in (short, long))
    assert three.encoder_hidden_states.shape[1] == 227
    torch.testing.assert_close(one.pooled, three.pooled)


@pytest.mark.parametrize("family", NAMES)
def test_only_the_rows_get_a_gradient(family: str, models: Path) -> None:
    parts = loaded(family, models / family, models)
    cond = FAMILIES[family].encode(parts, CAPTIONS, SIZES)
    FAMILIES[family].predict(
        parts, torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), cond
    ).square().sum().backward()
    assert all(
        rows.grad is not None and rows.grad.abs().sum(dim=1).min() > 0 for rows in parts.rows()
    )
    named = [
        name
        for module in parts.modules()
        for name, p in module.named_parameters()
        if p.grad is not None
    ]
    assert len(named) == len(parts.rows()) == len(FAMILIES[family].facts.keys)


@pytest.mark.parametrize("family", NAMES)
def test_previews(family: str, models: Path) -> None:
    parts = loaded(family, models / family, models)
    prompts = [Prompt(text="zibu", negative="red", width=64, height=72, steps=2, seed=3)] * 2
    images = list(draw(FAMILIES[family], parts, prompts, batch_size=2))
    assert [image.shape for image in images] == [(72, 64, 3)] * 2
    assert (images[0] == images[1]).all()


def family_flags(
    family: str, source: Path, dataset: Path, out: Path, models: Path, *more: str
) -> list[str]:
    words = flags(
        dataset,
        out,
        f"--pretrained_model_name_or_path={source}",
        "--init_word=circle",
        "--num_vectors_per_token=2",
        *more,
    )
    return [
        *words,
        *(["--v2"] if family == "sd2" else []),
        f"--tokenizer_cache_dir={models / 'tokenizers'}",
    ]


@pytest.mark.usefixtures("small_configs")
def test_a_folder_of_tokenizers_serves_single_files(
    models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    words = flags(
        moon_dataset,
        tmp_path,
        f"--pretrained_model_name_or_path={models / 'sd1.safetensors'}",
        "--init_word=circle",
    )
    with pytest.raises(ConfigError, match="no CLIP tokenizer found"):
        make_plans([complete(parse("sd", words, "test"))[0]])[0]
    make_plans(
        [
            complete(
                parse("sd", [*words, f"--tokenizer_cache_dir={models / 'tokenizers'}"], "test")
            )[0]
        ]
    )[0]


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("family", NAMES)
def test_a_run_to_the_end(
    family: str, kind: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    source = models / (family if kind == "folder" else f"{family}.safetensors")
    script = "sdxl" if family == "sdxl" else "sd"
    words = family_flags(
        family, source, moon_dataset, tmp_path, models, "--cache_latents", "--learning_rate=1e-2"
    )
    config, _ = complete(parse(script, words, "test"))
    assert config.model.family == family
    model, word = trained(moon_dataset, tmp_path, config=config)
    keys = FAMILIES[family].facts.keys
    assert tuple(word.vectors) == keys
    saved = read(tmp_path / "zibu.safetensors")
    assert {key: tuple(v.shape) for key, v in saved.vectors.items()} == {
        key: (2, rows.shape[1]) for key, rows in zip(keys, model.parts.rows(), strict=True)
    }
    for key, embedding in zip(keys, model.parts.embeddings, strict=True):
        start = embedding.table[
            model.parts.tokenizers[0].encode("circle", add_special_tokens=False)[0]
        ]
        assert (saved.vectors[key] - start).norm(dim=1).min() > 0.001, (
            "every row of every encoder has moved"
        )
    again = [*words, f"--weights={tmp_path / 'zibu.safetensors'}", "--learning_rate=0"]
    _, same = trained(
        moon_dataset, tmp_path / "again", config=complete(parse(script, again, "test"))[0]
    )
    assert all(torch.equal(same.vectors[key], saved.vectors[key]) for key in keys)


@pytest.mark.usefixtures("small_configs")
def test_sd2_files_do_not_tell_what_they_predict(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="coinage"):
        loaded("sd2", models / "sd2.safetensors", models, prediction_type="v_prediction")
        assert "--v_parameterization" not in caplog.text
        loaded("sd2", models / "sd2.safetensors", models)
        assert "--v_parameterization" in caplog.text


def test_a_hub_id_in_the_cache_tells_its_family(
    models: Path, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "0123"
    shutil.copytree(models / "sdxl", snapshot)
    (tmp_path / "hub" / "models--some--model" / "refs").mkdir()
    (tmp_path / "hub" / "models--some--model" / "refs" / "main").write_text("0123")
    words = flags(moon_dataset, tmp_path / "o", "--pretrained_model_name_or_path=some/model")
    with pytest.raises(
        ConfigError,
        match="this is a Stable Diffusion XL model, and the command is for Stable Diffusion 1",
    ):
        make_plans([complete(parse("sd", words, "test"))[0]])[0]
    assert complete(parse("coinage", words, "test"))[0].model.family == "sdxl"


def test_a_schedule_may_end_in_pure_noise(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = loaded(
        "sd2", models / "sd2", models, zero_terminal_snr=True, prediction_type="v_prediction"
    )
    assert parts.schedule.snr(torch.tensor([999])).item() == 0
    assert "--v_parameterization" not in caplog.text
    for name in ("ddim", "euler", "dpmsolver++"):
        scheduler = make_scheduler(name, parts.scheduler_config)
        scheduler.set_timesteps(10)
        assert scheduler.config.rescale_betas_zero_snr
        assert int(scheduler.timesteps[0]) == 999
    (image,) = draw(
        FAMILIES["sd2"], parts, [Prompt(text="zibu", width=64, height=64, steps=2, seed=1)]
    )
    assert image.std() > 0
    loaded("sd2", models / "sd2", models, zero_terminal_snr=True)
    assert "--v_parameterization" in caplog.text


@pytest.mark.filterwarnings("ignore:.*torchvision.*")
def test_diffusers_draws_the_same_picture_with_an_sdxl_word(
    models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    words = family_flags(
        "sdxl", models / "sdxl", moon_dataset, tmp_path, models, "--learning_rate=0.3"
    )
    run, _ = trained(moon_dataset, tmp_path, config=complete(parse("sdxl", words, "test"))[0])
    prompt = Prompt(
        text="a red zibu", negative="blue", width=64, height=64, steps=3, seed=5, scale=4
    )
    (ours,) = draw(run.family, run.parts, [prompt])
    tokenizers = [
        CLIPTokenizer.from_pretrained(models / "sdxl" / name)
        for name in ("tokenizer", "tokenizer_2")
    ]
    tokenizers[1].pad_token = "!"  # as the released model's
    pipe = StableDiffusionXLPipeline(
        vae=run.parts.vae, unet=run.parts.denoiser,
        scheduler=make_scheduler("ddim", run.parts.scheduler_config),
        tokenizer=tokenizers[0], tokenizer_2=tokenizers[1],
        text_encoder=parts_of("sdxl")["text_encoder"],
        text_encoder_2=parts_of("sdxl")["text_encoder_2"],
        add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    halves = load_file(tmp_path / "zibu.safetensors")
    pipe.load_textual_inversion(
        halves["clip_l"], token="zibu", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    pipe.load_textual_inversion(
        halves["clip_g"], token="zibu", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )
    pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
    theirs = pipe(
        "a red zibu", negative_prompt="blue", width=64, height=64, num_inference_steps=3, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(5), output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs((theirs * 255).round().astype(int) - ours.astype(int)).max() <= 2
    assert ours.std() > 1


def test_sd2_predicts_what_its_settings_or_flags_say(models: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "v", "sd2", "v_prediction")
    assert loaded("sd2", folder, models).schedule.prediction_type == "v_prediction"
    assert loaded("sd2", models / "sd2", models).schedule.prediction_type == "epsilon"
    assert (
        loaded(
            "sd2", models / "sd2", models, prediction_type="v_prediction"
        ).schedule.prediction_type
        == "v_prediction"
    )


@pytest.mark.parametrize("family", NAMES)
def test_coinage_train_tells_the_family(
    family: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    for source in (models / family, models / f"{family}.safetensors"):
        words = flags(moon_dataset, tmp_path, f"--pretrained_model_name_or_path={source}")
        assert complete(parse("coinage", words, "test"))[0].model.family == family


# VAEs


@pytest.mark.usefixtures("small_configs")
def test_a_vae_comes_in_every_form(models: Path, tmp_path: Path) -> None:
    vae: Any = parts_of("sd1")["vae"]
    prefix = "first_stage_model."
    original = {
        name.removeprefix(prefix): t
        for name, t in original_tensors("sd1").items()
        if name.startswith(prefix)
    }
    vae.save_pretrained(tmp_path / "root")
    vae.save_pretrained(tmp_path / "model" / "vae")
    save_file(original, tmp_path / "bare.safetensors")
    torch.save({"state_dict": original}, tmp_path / "bare.pt")
    save_file(vae.state_dict(), tmp_path / "diffusers.safetensors")
    torch.save(vae.state_dict(), tmp_path / "diffusers.bin")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for form in (
        "root",
        "model",
        "bare.safetensors",
        "bare.pt",
        "diffusers.safetensors",
        "diffusers.bin",
        models / "sd2.safetensors",
    ):
        for source in (models / "sd1", models / "sd1.safetensors"):
            parts = loaded("sd1", source, models, vae=str(tmp_path / form))
            torch.testing.assert_close(
                parts.vae.decode(noise).sample, vae.decode(noise).sample, rtol=0, atol=1e-5
            )
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CoinageError, match="--vae: the file does not contain a VAE"):
        loaded("sd1", models / "sd1", models, vae=str(tmp_path / "other.safetensors"))


# What is no model, or another


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path(sys.prefix) / "coinage-hostile",)


def tampered(
    models: Path,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> Path:
    save_file(change(original_tensors("sd1")), tmp_path / "odd.safetensors")
    return tmp_path / "odd.safetensors"


WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "editing": (
        lambda t: t | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 8, 3, 3)},
        "8 input channels",
    ),
    "refiner": (
        lambda t: {
            k.replace("cond_stage_model.", "conditioner.embedders.0.model."): v
            for k, v in t.items()
        },
        "an SDXL refiner",
    ),
    "LoRA": (
        lambda _: {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(2, 2)},
        "a LoRA, not a model",
    ),
    "UNet alone": (
        lambda t: {k: v for k, v in t.items() if "diffusion_model" in k or "first_stage" in k},
        "a UNet without text encoder",
    ),
    "no UNet": (
        lambda t: {k: v for k, v in t.items() if "diffusion_model" not in k},
        "it has no UNet",
    ),
}


def run_without_torch(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script where importing torch ends it: what it says, it says within a second or so."""
    (folder / "light").mkdir()
    (folder / "light" / "torch.py").write_text("raise SystemExit('torch was imported')")
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, "PYTHONPATH": str(folder / "light")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", WRONG)
def test_special_files_are_told(
    name: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    change, message = WRONG[name]
    file = tampered(models, tmp_path, change)
    words = family_flags("sd1", file, moon_dataset, tmp_path / "out", models)
    done = run_without_torch(words, tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize(
    "name", ["web page", "web page.ckpt", "truncated", "no header", "sdxl", "sd2 folder"]
)
def test_files_that_are_something_else(
    name: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    whole = (models / "sd1.safetensors").read_bytes()
    if name == "sd2 folder":
        file, message = (
            models / "sd2",
            "this is a Stable Diffusion 2.x model, and the command is for Stable Diffusion 1.x",
        )
    elif name == "sdxl":
        file, message = (
            models / "sdxl.safetensors",
            "this is a Stable Diffusion XL model, and the command is for Stable Diffusion 1.x",
        )
    elif name.startswith("web page"):
        file = tmp_path / ("page.ckpt" if name.endswith("ckpt") else "page.safetensors")
        file.write_text("<!DOCTYPE html><html>")
        message = "this is a web page"
    else:
        file.write_bytes(whole[:-100] if name == "truncated" else b"\xff" * 100)
        message = "the file is truncated" if name == "truncated" else "not a safetensors file"
    words = family_flags("sd1", file, moon_dataset, tmp_path / "out", models)
    done = run_without_torch(words, tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1


def test_a_hostile_pickle_runs_nothing(models: Path, moon_dataset: Path, tmp_path: Path) -> None:
    target = Path(sys.prefix) / "coinage-hostile"
    for name, content in (
        ("bare.ckpt", pickle.dumps({"state_dict": Hostile()})),
        ("cut.ckpt", (models / "sd1.ckpt").read_bytes()[:-5000]),
    ):
        (tmp_path / name).write_bytes(content)
        words = family_flags("sd1", tmp_path / name, moon_dataset, tmp_path / "out", models)
        done = captured(lambda words=words: train_command("sd", words))
        assert done.returncode == 1, done.stderr
        assert "cannot read the model" in done.stderr
        assert "Traceback" not in done.stderr
    assert not target.exists()


def test_the_wrong_family_in_a_pickle_is_told(models: Path) -> None:
    with pytest.raises(
        CoinageError,
        match="this is a Stable Diffusion XL model, and the command is for Stable Diffusion 1",
    ):
        loaded("sd1", models / "sdxl.ckpt", models)


def test_without_any_tokenizer_the_ways_out_are_told(
    models: Path, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("coinage.models.tokenizer_files._from_open_clip", lambda: None)
    words = flags(
        moon_dataset,
        tmp_path / "o",
        f"--pretrained_model_name_or_path={models / 'sd1.safetensors'}",
    )
    with pytest.raises(
        ConfigError,
        match=r"no CLIP tokenizer found[\s\S]*--tokenizer_cache_dir[\s\S]*pip install open_clip_torch",
    ):
        make_plans([complete(parse("sd", words, "test"))[0]])[0]
