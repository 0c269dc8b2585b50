"""Single files of FLUX.1 give the same model as the folder; others say what they are and what is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coinage.checks.model import model_problems
from coinage.config import ModelConfig
from coinage.diffusion.flow import FlowSchedule
from coinage.errors import CoinageError
from coinage.models.detect import kind_of_file
from coinage.models.families import FAMILIES
from coinage.models.flux_layout import converted, settings_of
from coinage.models.hub_files import detect_family
from coinage.models.sizes import model_sizes
from coinage.models.text_encoder_sizes import text_encoder_sizes
from coinage.models.vocabulary import read_vocabularies
from tests.tiny_models import T5_WIDTH, flux_parts, loaded, original_flux, t5_tokenizer, tool

FAMILY = FAMILIES["flux"]
UNET, T5 = "model.diffusion_model.", "text_encoders.t5xxl.transformer."
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def caches(flux: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tokenizers; the tiny model's settings stand for the released ones."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "flux").symlink_to(flux)
    monkeypatch.setattr("coinage.models.loading.CONFIGS", tmp_path / "configs")
    tokenizers = tmp_path / "models" / "tokenizers"
    tokenizers.mkdir(parents=True)
    (tokenizers / "any").symlink_to(models / "tokenizers" / "any")
    t5_tokenizer().save_pretrained(tokenizers / "t5")
    return tmp_path / "models"


def saved(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path)
    return path


def without(*starts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(starts)}


@pytest.mark.parametrize(
    ("prefix", "vae", "scale"),
    [
        (UNET, "vae.", "scale"),
        (UNET, "first_stage_model.", "scale"),
        ("", "vae.", "weight"),
    ],
)
def test_it_is_the_model_of_the_folder(
    prefix: str, vae: str, scale: str, flux: Path, caches: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.safetensors", original_flux(prefix=prefix, vae=vae, scale=scale))
    assert detect_family(str(path)) == "flux"
    one, other = loaded("flux", path, caches), loaded("flux", flux, caches)
    for ours, theirs in zip(one.modules(), other.modules(), strict=True):
        state, wanted = ours.state_dict(), theirs.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.items())
    assert one.keys == other.keys
    assert one.schedule == other.schedule
    cond, wanted_cond = (
        FAMILY.encode(parts, ["a photo of zibu"], torch.zeros(1, 6)) for parts in (one, other)
    )
    assert torch.equal(cond.encoder_hidden_states, wanted_cond.encoder_hidden_states)
    assert cond.pooled is not None
    assert wanted_cond.pooled is not None
    assert torch.equal(cond.pooled, wanted_cond.pooled)
    latents, times = torch.randn(1, 16, 8, 8), torch.tensor([0.5])
    with torch.no_grad():
        found = [FAMILY.predict(parts, latents, times, cond) for parts in (one, other)]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_a_file_without_guidance_has_schnells_schedule(
    flux_without_guidance: Path, caches: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.safetensors", original_flux(guidance=False))
    parts = loaded("flux", path, caches)
    assert not parts.denoiser.config.guidance_embeds
    assert parts.schedule == FlowSchedule(shift=1.0)
    wanted = loaded("flux", flux_without_guidance, caches).denoiser.state_dict()
    state = parts.denoiser.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in wanted.items())


def test_a_pickle_is_read_as_well(caches: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": original_flux(prefix="")}, path)
    assert detect_family(str(path)) == "flux"
    assert loaded("flux", path, caches).keys == ("clip_l", "t5xxl")


def test_its_header_shows_sizes_and_words(caches: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", original_flux(prefix=""))
    model = ModelConfig(source=str(path), family="flux", tokenizer_cache=caches / "tokenizers")
    assert [size.width for size in text_encoder_sizes(model)] == [32, T5_WIDTH]
    sizes, parts = model_sizes(model), flux_parts()
    assert sizes.from_model
    assert sizes.unet == sum(p.numel() for p in parts["transformer"].parameters())
    assert sizes.vae == sum(p.numel() for p in parts["vae"].parameters())
    assert list(read_vocabularies(model)) == ["clip_l", "t5xxl"]


def test_the_settings_of_the_released_model_show_in_its_shapes() -> None:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        released = FluxTransformer2DModel(num_layers=1, num_single_layers=2, guidance_embeds=True)
    original = tool("original_flux").original_transformer(released, "scale")
    found = settings_of({name: tuple(tensor.shape) for name, tensor in original.items()})
    wanted = {name: released.config[name] for name in found} | {"out_channels": 64}
    assert found == wanted
    shapes = {name: tensor.shape for name, tensor in converted(original).items()}
    assert shapes == {name: tensor.shape for name, tensor in released.state_dict().items()}


def eight_bits(start: str) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        chosen = {n: t.to(torch.float8_e4m3fn) for n, t in tensors.items() if n.startswith(start)}
        return tensors | chosen

    return change


def with_scales(tensors: Tensors) -> Tensors:
    return eight_bits(UNET)(tensors) | {f"{UNET}img_in.scale_weight": torch.ones(1)}


def for_filling(tensors: Tensors) -> Tensors:
    return tensors | {f"{UNET}img_in.weight": torch.zeros(64, 384)}


ALONE = without("text_encoders.", "vae.")
FOLDER = "give a file with them, or the diffusers folder, such as black-forest-labs/FLUX.1-dev"
OTHER = "give a FLUX.1 model"


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        (ALONE, "without its text encoders clip_l and t5xxl and its VAE", FOLDER),
        (
            lambda tensors: {n.removeprefix(UNET): t for n, t in ALONE(tensors).items()},
            "a FLUX.1 model without its text encoders clip_l and t5xxl and its VAE",
            FOLDER,
        ),
        (without("text_encoders."), "without its text encoders clip_l and t5xxl", FOLDER),
        (without("text_encoders.t5xxl."), "without its text encoder t5xxl", FOLDER),
        (without("text_encoders.clip_l."), "without its text encoder clip_l", FOLDER),
        (without("vae."), "a model without VAE: add --vae", ""),
        (eight_bits(T5), "T5 text encoder is in fp8: give one with T5 in fp16", "diffusers folder"),
        (with_scales, "a quantised model: give it in fp16 or bf16", ""),
        (for_filling, "it has 384 input channels, not 64", OTHER),
        (
            lambda tensors: tensors | {f"{UNET}distilled_guidance_layer.a": torch.ones(1)},
            "a Chroma model",
            OTHER,
        ),
        (
            lambda tensors: tensors | {f"{UNET}double_stream_modulation_img.a": torch.ones(1)},
            "a FLUX.2 model",
            OTHER,
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_what_to_do(
    change: Callable[[Tensors], Tensors], what: str, hint: str, caches: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.safetensors", change(original_flux()))
    (problem,) = model_problems(ModelConfig(source=str(path), family="flux"))
    assert what in problem.what
    assert hint in problem.hint
    assert bool(hint) == bool(problem.hint)
    if "T5 in fp16" in what:
        assert "without T5" not in problem.what  # which cannot be done without here
    with pytest.raises(CoinageError) as caught:
        loaded("flux", path, caches)
    assert what in str(caught.value)


def test_another_vae_takes_the_place_of_a_missing_one(caches: Path, tmp_path: Path) -> None:
    whole = original_flux()
    path = saved(tmp_path / "a.safetensors", without("vae.")(whole))
    vaes = {
        "alone": {n.removeprefix("vae."): t for n, t in whole.items() if n.startswith("vae.")},
        "in_a_model": whole,
    }
    for name, tensors in vaes.items():
        vae = saved(tmp_path / f"{name}.safetensors", tensors)
        config = ModelConfig(source=str(path), family="flux", vae=str(vae))
        assert model_problems(config) == []
        parts = loaded("flux", path, caches, vae=str(vae))
        assert parts.scaling_factor == 0.3611
        state = parts.vae.state_dict()
        for key, tensor in flux_parts()["vae"].state_dict().items():
            assert torch.equal(state[key], tensor)


def test_a_transformer_in_fp8_is_read_in_the_working_precision(
    caches: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.safetensors", eight_bits(UNET)(original_flux()))
    weight = loaded("flux", path, caches).denoiser.x_embedder.weight
    exact = flux_parts()["transformer"].state_dict()["x_embedder.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, exact.to(torch.float8_e4m3fn).float())


def test_missing_weights_are_told(caches: Path, tmp_path: Path) -> None:
    gone = without(f"{UNET}txt_in.")(original_flux())
    with pytest.raises(CoinageError, match="the transformer lacks weights") as caught:
        loaded("flux", saved(tmp_path / "a.safetensors", gone), caches)
    assert "txt_in" in str(caught.value)
    gone = without(f"{UNET}single_blocks.0.linear2.")(original_flux())
    with pytest.raises(CoinageError, match="weights of the transformer are missing"):
        loaded("flux", saved(tmp_path / "b.safetensors", gone), caches)


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flux1-dev-Q4_0.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CoinageError, match="a GGUF file: quantised models cannot be trained on"):
        kind_of_file(path)


def test_other_commands_say_which_one_it_takes(flux: Path) -> None:
    (problem,) = model_problems(ModelConfig(source=str(flux), family="sdxl"))
    assert "this is a FLUX.1 model, and the command is for Stable Diffusion XL" in problem.what
    assert problem.hint == "use coinage train"
