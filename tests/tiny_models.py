"""Tiny real models of each family, as diffusers folders and as single files in the original layout."""

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from coinage.config import ModelConfig, WordConfig
from coinage.demo.run import MODEL
from coinage.embeddings.install import install_word
from coinage.models.families import FAMILIES, Components
from coinage.models.quiet import libraries_silenced

FAMILY_NAMES = ("sd1", "sd2", "sdxl")
T5_WIDTH = 128
CONTEXT = {"sd1": 32, "sd2": 32, "sdxl": 32 + 64}
VOCABULARY = 739


def clip_config(hidden: int, layers: int, act: str, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=2 * hidden,
        num_hidden_layers=layers, num_attention_heads=4,
        hidden_act=act, projection_dim=projection, bos_token_id=737, eos_token_id=738, pad_token_id=738,
    )  # fmt: skip


def unet_config(family: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 16,
        "sample_size": 8, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CONTEXT[family],
    }  # fmt: skip
    if family != "sd1":
        config["use_linear_projection"] = True
    if family == "sdxl":
        config |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64 + 6 * 8,
        }  # fmt: skip
    return config


def parts_of(family: str) -> dict[str, torch.nn.Module]:
    """The modules of a tiny model with random weights, the same each time."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32, 32), norm_num_groups=16, layers_per_block=1,
        sample_size=64, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.2,
    )  # fmt: skip
    parts: dict[str, torch.nn.Module] = {
        "unet": UNet2DConditionModel(**unet_config(family)),
        "vae": vae,
    }
    parts["text_encoder"] = CLIPTextModel(
        clip_config(32, 3, "gelu" if family == "sd2" else "quick_gelu", 32)
    )
    if family == "sdxl":
        parts["text_encoder_2"] = CLIPTextModelWithProjection(clip_config(64, 3, "gelu", 64))
    for module in parts.values():
        module.requires_grad_(False).eval()
    return parts


def with_inputs(
    parts: dict[str, torch.nn.Module], channels: int, scale: float = 0.0
) -> dict[str, torch.nn.Module]:
    """The parts of a model whose UNet reads more channels, as those that were made from it do.

    Its weights for them are 0 where training begins, or random in this scale.
    """
    plain: Any = parts["unet"]
    unet: Any = UNet2DConditionModel(**{**plain.config, "in_channels": channels})
    weights, first = plain.state_dict(), "conv_in.weight"
    more = torch.randn(len(weights[first]), channels - 4, 3, 3, generator=torch.manual_seed(5))
    weights[first] = torch.cat([weights[first], scale * more], dim=1)
    unet.load_state_dict(weights)
    return {**parts, "unet": unet.requires_grad_(False).eval()}


def sd3_parts(*, t5: bool = True) -> dict[str, torch.nn.Module]:
    """The modules of a tiny SD 3.5 with random weights, the same each time."""
    torch.manual_seed(0)
    parts: dict[str, torch.nn.Module] = {
        "transformer": SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2,
            attention_head_dim=8, num_attention_heads=4, joint_attention_dim=T5_WIDTH,
            caption_projection_dim=32, pooled_projection_dim=32 + 64, pos_embed_max_size=16,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        ),
        "vae": AutoencoderKL(
            block_out_channels=(16, 32, 32, 32), norm_num_groups=16, layers_per_block=1,
            sample_size=64, latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609,
            use_quant_conv=False, use_post_quant_conv=False,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "text_encoder": CLIPTextModelWithProjection(clip_config(32, 3, "quick_gelu", 32)),
        "text_encoder_2": CLIPTextModelWithProjection(clip_config(64, 3, "gelu", 64)),
    }  # fmt: skip
    if t5:
        parts["text_encoder_3"] = T5EncoderModel(
            T5Config(
                vocab_size=512, d_model=T5_WIDTH, d_kv=16, num_heads=4, d_ff=128, num_layers=2,
                feed_forward_proj="gated-gelu", dropout_rate=0.1,
            )
        )  # fmt: skip
    for module in parts.values():
        module.requires_grad_(False).eval()
    return parts


def flux_parts(*, guidance: bool = True) -> dict[str, torch.nn.Module]:
    """The modules of a tiny FLUX.1 with random weights, with or without a guidance embedding."""
    parts = sd3_parts()
    torch.manual_seed(0)
    t5, vae = parts["text_encoder_3"], parts["vae"]
    vae.register_to_config(scaling_factor=0.3611, shift_factor=0.1159)  # type: ignore[operator]
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=T5_WIDTH, pooled_projection_dim=32,
        guidance_embeds=guidance, axes_dims_rope=(4, 14, 14),
    )  # fmt: skip
    clip = CLIPTextModel(clip_config(32, 3, "quick_gelu", 32))
    made = {"transformer": transformer, "vae": vae, "text_encoder": clip, "text_encoder_2": t5}
    for module in made.values():
        module.requires_grad_(False).eval()
    return made


FLUX_INDEX = {
    "_class_name": "FluxPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def write_flux(folder: Path, *, guidance: bool = True) -> Path:
    """A diffusers folder of a tiny FLUX.1: dev, or without guidance embedding; nothing is shown."""
    with libraries_silenced():
        for name, module in flux_parts(guidance=guidance).items():
            module.save_pretrained(folder / name)  # type: ignore[operator]
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, **DYNAMIC)
        scheduler.save_pretrained(folder / "scheduler")
        shutil.copytree(MODEL / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
        t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    (folder / "model_index.json").write_text(json.dumps(FLUX_INDEX))
    return folder


def t5_tokenizer() -> T5TokenizerFast:
    """T5's kind of tokenizer with a few words; anything else is read letter by letter."""
    words = ("a", "photo", "of", "red", "circle", "square", "shape", "on", "in", "blue", "the")
    letters = [*map(chr, range(97, 123)), *",.-:()0123456789"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"\u2581{word}", -5.0) for word in words]
    vocabulary += [("\u2581", -8.0), *((letter, -12.0) for letter in letters)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=77)


def write_sd3(folder: Path, *, t5: bool = True) -> Path:
    """A diffusers folder of a tiny SD 3.5, with or without T5; nothing is shown."""
    with libraries_silenced():
        for name, module in sd3_parts(t5=t5).items():
            module.save_pretrained(folder / name)  # type: ignore[operator]
        FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
        for name in ("tokenizer", "tokenizer_2"):
            shutil.copytree(MODEL / "tokenizer", folder / name, dirs_exist_ok=True)
        if t5:
            t5_tokenizer().save_pretrained(folder / "tokenizer_3")
    index = {"_class_name": "StableDiffusion3Pipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_folder(
    folder: Path,
    family: str,
    prediction_type: str = "epsilon",
    parts: dict[str, torch.nn.Module] | None = None,
) -> Path:
    """A diffusers folder; nothing is shown, as a test may be watching the terminal."""
    with libraries_silenced():
        for name, module in (parts or parts_of(family)).items():
            module.save_pretrained(folder / name)  # type: ignore[operator]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDIMScheduler(**betas, prediction_type=prediction_type).save_pretrained(folder / "scheduler")
    for name in ("tokenizer", "tokenizer_2") if family == "sdxl" else ("tokenizer",):
        shutil.copytree(MODEL / "tokenizer", folder / name, dirs_exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def write_clip(folder: Path, positions: int = 77) -> Path:
    """A CLIP with random weights, in transformers' folder; it reads the demo's vocabulary."""
    sides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = {
        **sides, "num_attention_heads": 4, "vocab_size": VOCABULARY, "bos_token_id": 737,
        "eos_token_id": 738, "pad_token_id": 738, "max_position_embeddings": positions,
    }  # fmt: skip
    vision = {**sides, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    with libraries_silenced():
        CLIPModel(config).save_pretrained(folder)
    shutil.copytree(MODEL / "tokenizer", folder, dirs_exist_ok=True)
    write_preparation(folder, "CLIPImageProcessor", 32)
    return folder


def write_dino(folder: Path) -> Path:
    """A DINOv2 with random weights, in transformers' folder."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14
    )
    with libraries_silenced():
        Dinov2Model(config).save_pretrained(folder)
    write_preparation(folder, "BitImageProcessor", 28)
    return folder


def write_preparation(folder: Path, kind: str, side: int) -> None:
    """How pictures are made ready, as the released CLIP and DINOv2 say it."""
    settings = {
        "image_processor_type": kind, "do_resize": True, "size": {"shortest_edge": 32}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def tool(name: str) -> Any:
    """A module of the tools, which name tensors as single files do."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def original_tensors(
    family: str, parts: dict[str, torch.nn.Module] | None = None
) -> dict[str, torch.Tensor]:
    """The same model under the original layout's names."""
    tensors: dict[str, torch.Tensor] = tool("original_layout").original_tensors(
        family, parts or parts_of(family)
    )
    return tensors


def original_sd3(*, t5: bool = True) -> dict[str, torch.Tensor]:
    """A tiny SD 3.5 under the original layout's names."""
    tensors: dict[str, torch.Tensor] = tool("original_sd3").sd3_tensors(sd3_parts(t5=t5))
    return tensors


def original_flux(*, guidance: bool = True, **names: str) -> dict[str, torch.Tensor]:
    """A tiny FLUX.1 under the names of single files; `names` are those of `flux_tensors`."""
    parts = flux_parts(guidance=guidance)
    tensors: dict[str, torch.Tensor] = tool("original_flux").flux_tensors(parts, **names)
    return tensors


def loaded(family: str, source: Path, models: Path, **more: Any) -> Components:
    config = ModelConfig(
        source=str(source), family=family, tokenizer_cache=models / "tokenizers", **more
    )
    parts = FAMILIES[family].load(config, torch.float32)
    install_word(
        parts,
        WordConfig(token="zibu", num_vectors=2, init_word="circle"),
        parts.keys,
    )
    return parts
