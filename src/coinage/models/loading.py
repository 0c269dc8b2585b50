"""Load a model's parts from a diffusers folder, a hub id, or a single file in the original layout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.schedule import (
    DiffusionSchedule,
    NoiseSchedule,
    alphas_cumprod_from_betas,
    rescale_zero_terminal_snr,
)
from coinage.errors import CoinageError, Problem, reason_of
from coinage.models.base import Components
from coinage.models.detect import (
    FIRST_CONV,
    UNET,
    VAE,
    kind_of_checkpoint,
    kind_of_file,
    kind_of_folder,
    read_config,
    safetensors_metadata,
    wrong_kind,
)
from coinage.models.facts import FamilyFacts, TextEncoderFacts
from coinage.models.hub_files import local_path
from coinage.models.inpainting import paint_everything
from coinage.models.libraries import import_libraries
from coinage.models.own_precision import lower_inputs
from coinage.models.prediction import (
    Declaration,
    prediction_note,
    read_declaration,
    resolved_settings,
)
from coinage.models.pretrained import files_of, pretrained
from coinage.models.quiet import libraries_silenced
from coinage.models.tokenizer_files import find_tokenizer
from coinage.models.weight_files import read_tensors
from coinage.system.text_files import is_file, is_folder
from coinage.text.placeholder import CHUNK, FramingTokenizer, RowFormat, Tokenizer, clip_rows

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

log = logging.getLogger("coinage")
CONFIGS = Path(__file__).parent / "configs"  # settings of the released models, for single files
NEEDED_SETTINGS = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
NOISELESS_END = Problem(
    "--zero_terminal_snr needs a v-prediction model",
    hint="add --v_parameterization if the model does, or leave out --zero_terminal_snr",
)
# In what transformers and diffusers say of it, with advice to programmers
ABOUT_SHAPES = ("ignore_mismatched_sizes", "randomly initialized weights")
# Before diffusers 0.15
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's parts come from.

    Attributes:
        path: the folder, hub id or file.
        tensors: a single file's tensors, mapped and not copied; None for folders and hub ids.
        configs: folder of settings, laid out as a diffusers folder; the path itself unless it is a file.
        declared: what a single file declares about the model's prediction.
    """

    path: str
    tensors: Mapping[str, Tensor] | None
    configs: str
    declared: Declaration = field(default_factory=Declaration)

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        """Load the UNet in `dtype`."""
        from diffusers import UNet2DConditionModel

        more = {}
        if self.tensors is not None and FIRST_CONV in self.tensors:
            # The settings for single files are those of the ordinary models
            more["in_channels"] = self.tensors[FIRST_CONV].shape[1]
        return self._module(UNet2DConditionModel, "unet", dtype, **more)

    def vae(self, model: ModelConfig, dtype: torch.dtype) -> AutoencoderKL:
        """Load the VAE in `dtype`: the model's own, or that of `--vae`.

        Raises:
            CoinageError: `--vae` names something else than a VAE.
        """
        from diffusers import AutoencoderKL

        if model.vae is None:
            return self._module(AutoencoderKL, "vae", dtype)
        if is_file(model.vae):
            return _vae_file(model.vae, self.configs, dtype)
        return _vae_folder(model.vae, model.family, dtype)

    def text_encoder(self, facts: TextEncoderFacts, dtype: torch.dtype) -> Any:
        """Load a text encoder in `dtype`."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

        classes = {
            "clip": CLIPTextModel,
            "projected": CLIPTextModelWithProjection,
            "t5": T5EncoderModel,
        }
        cls: Any = classes[facts.kind]
        if self.tensors is None:
            return pretrained(cls, self.path, facts.folder, dtype=dtype)
        from diffusers.loaders import single_file_utils

        is_t5 = facts.kind == "t5"
        create: Any = (
            single_file_utils.create_diffusers_t5_model_from_checkpoint
            if is_t5
            else single_file_utils.create_diffusers_clip_model_from_ldm
        )
        encoder = create(
            cls,
            dict(self.tensors),
            subfolder=facts.folder,
            config=self.configs,
            torch_dtype=dtype,
            local_files_only=True,
        )
        if is_t5:  # its table has two names, and files may leave out the second
            encoder.set_input_embeddings(encoder.get_input_embeddings())
        return encoder

    def _module(self, cls: Any, name: str, dtype: torch.dtype, **settings: Any) -> Any:
        if self.tensors is None:
            return pretrained(cls, self.path, name, torch_dtype=dtype)
        return cls.from_single_file(
            dict(self.tensors),
            config=self.configs,
            subfolder=name,
            torch_dtype=dtype,
            local_files_only=True,
            **settings,
        )

    def has(self, facts: TextEncoderFacts) -> bool:
        """Return whether the model comes with a text encoder."""
        if self.tensors is not None:
            return any(name.startswith(facts.prefix) for name in self.tensors)
        return bool(files_of(self.path, facts.folder))

    def settings_of_scheduler(self) -> dict[str, Any]:
        """Return the model's own scheduler settings."""
        config = read_config(Path(self.configs) / "scheduler" / "scheduler_config.json")
        if not config:
            from diffusers import DDIMScheduler

            config = dict(DDIMScheduler.load_config(self.path, subfolder="scheduler"))
        return {key: value for key, value in config.items() if not key.startswith("_")}

    def scheduler_config(self, model: ModelConfig) -> Mapping[str, Any]:
        """Return the model's scheduler settings, with what its file and the flags say about its prediction.

        Raises:
            CoinageError: settings that training would get wrong.
        """
        config = self.settings_of_scheduler()
        unsupported = unsupported_settings(config)
        if unsupported:
            shown = ", ".join(f"{key} = {config.get(key)!r}" for key in unsupported)
            what = f"the model's scheduler settings are not supported yet: {shown}"
            raise CoinageError(what, f"{self.configs}/scheduler")
        note = prediction_note(config, self.declared, model, is_file=self.tensors is not None)
        if note:
            log.info("note: %s", note)
        return resolved_settings(config, self.declared, model)


def unsupported_settings(config: Mapping[str, Any]) -> list[str]:
    """Return the names of scheduler settings that are missing, or that training would get wrong."""
    names = [name for name in NEEDED_SETTINGS if name not in config]
    if config.get("trained_betas"):
        names.append("trained_betas")
    if config.get("beta_schedule") not in ("linear", "scaled_linear"):
        names.append("beta_schedule")
    if config.get("num_train_timesteps") != 1000:
        names.append("num_train_timesteps")
    if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        names.append("prediction_type")
    return list(dict.fromkeys(names))


@contextmanager
def reported_as(what: str, path: str, failed: str = "cannot load the model's") -> Iterator[None]:
    """Report whatever the libraries raise on broken files as one clear error.

    Raises:
        CoinageError: in place of any other exception.
    """
    try:
        yield
    except CoinageError:
        raise
    except Exception as error:
        reason = reason_of(error)
        if isinstance(error, NotImplementedError):  # diffusers on what a file left empty
            reason = "weights are missing from the file"
        if any(advice in reason for advice in ABOUT_SHAPES):
            reason = "its weights have other shapes than its settings say"
        hint = "check that the files are complete and belong together"
        raise CoinageError(f"{failed} {what}: {reason}", path, hint) from error


def _whole(module: Any, what: str, path: str) -> Any:
    """Return a module, all of whose weights were in the file.

    Raises:
        CoinageError: some were not.
    """
    missing = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if missing:
        which = f"such as {missing[0]}"
        text = f"{len(missing)} weights of the {what} are missing from the file, {which}"
        raise CoinageError(text, path, "download the model again")
    return module


def open_source(model: ModelConfig, family: str, dtype: torch.dtype) -> Source:
    """Open a model; a pickle runs nothing.

    A file's tensors are mapped, or converted to their dtype one by one.

    Raises:
        CoinageError: the file cannot be read, or holds another kind of model.
    """
    path, file = model.source, Path(model.source)
    if not is_file(file):
        return Source(path, None, path)
    wanted = {UNET: dtype, VAE: torch.float32 if model.full_precision_vae else dtype}
    tensors = read_tensors(file, wanted, mapped=model.map_weights)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    own_vae = model.vae is None
    in_safetensors = file.suffix.lower() == ".safetensors"
    kind = kind_of_file(file, own_vae=own_vae) if in_safetensors else None
    kind = kind or kind_of_checkpoint(shapes, own_vae=own_vae)
    if kind.family != family:
        problem = wrong_kind(kind, family, path)
        raise CoinageError(problem.what, path, problem.hint)
    header = safetensors_metadata(file) if in_safetensors else {}
    return Source(path, tensors, str(CONFIGS / family), read_declaration(tensors, header))


def _new_attention(name: str) -> str:
    """Return the name of a diffusers VAE's attention weight as it is today."""
    start, _, layer = name.rpartition(".")[0].rpartition(".")
    if layer in OLD_ATTENTION and "attentions" in start:
        return name.replace(layer, OLD_ATTENTION[layer])
    return name


def _vae_file(path: str, configs: str, dtype: torch.dtype) -> AutoencoderKL:
    """Load a VAE file: in the original layout (with or without prefix, alone or in a model) or diffusers'."""
    from diffusers import AutoencoderKL

    tensors = read_tensors(Path(path))
    if any(name.startswith(VAE) for name in tensors):
        tensors = {name: value for name, value in tensors.items() if name.startswith(VAE)}
    tensors = {_new_attention(name): value for name, value in tensors.items()}
    if not any(name.removeprefix(VAE).startswith("decoder.conv_in") for name in tensors):
        hint = "give a VAE file, a diffusers folder or a hub id"
        raise CoinageError("--vae: the file does not contain a VAE", path, hint)
    try:
        vae: AutoencoderKL = AutoencoderKL.from_single_file(
            tensors, config=configs, subfolder="vae", torch_dtype=dtype, local_files_only=True
        )
    except (ValueError, RuntimeError, KeyError) as error:
        what = f"--vae: the VAE does not fit the model: {reason_of(error)}"
        raise CoinageError(what, path) from error
    return vae


def _vae_folder(source: str, family: str, dtype: torch.dtype) -> AutoencoderKL:
    """Load the VAE of a diffusers folder or hub id: at its root, or in `vae`.

    Raises:
        CoinageError: there is none.
    """
    from diffusers import AutoencoderKL

    reason: Exception | None = None
    for place in ("", "vae"):
        try:
            vae: AutoencoderKL = pretrained(AutoencoderKL, source, place, torch_dtype=dtype)
        except (OSError, ValueError) as error:
            reason = error
            continue
        # Diffusers would take that of SD 1.x
        if "scaling_factor" not in AutoencoderKL.load_config(source, subfolder=place):
            settings = read_config(CONFIGS / family / "vae" / "config.json")
            vae.register_to_config(scaling_factor=settings["scaling_factor"])
        return vae
    hint = "give a VAE file, or a diffusers folder or hub id with a VAE at its root or in vae/"
    raise CoinageError("--vae: cannot load a VAE", source, hint) from reason


def make_schedule(config: Mapping[str, Any]) -> DiffusionSchedule:
    """Return the noise schedule of a scheduler's settings, ending in pure noise where they say so."""
    alphas_cumprod = alphas_cumprod_from_betas(
        config["beta_start"],
        config["beta_end"],
        config["num_train_timesteps"],
        config["beta_schedule"],
    )
    prediction_type = config["prediction_type"]
    if config.get("rescale_betas_zero_snr"):
        alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
        if prediction_type == "epsilon":
            log.warning("%s", NOISELESS_END)
    return DiffusionSchedule(alphas_cumprod, prediction_type)


@dataclass(frozen=True, slots=True)
class Build:
    """How a family's denoiser and schedule are made.

    Attributes:
        denoiser: loads it in a dtype.
        schedule: returns the schedule, and the scheduler settings that samplers are made from.
    """

    denoiser: Callable[[Source, torch.dtype], Any]
    schedule: Callable[[Source, ModelConfig], tuple[NoiseSchedule, Mapping[str, Any]]]


def _diffusion(source: Source, model: ModelConfig) -> tuple[NoiseSchedule, Mapping[str, Any]]:
    config = source.scheduler_config(model)
    return make_schedule(config), config


DIFFUSION = Build(lambda source, dtype: source.unet(dtype), _diffusion)


def load_parts(
    model: ModelConfig, dtype: torch.dtype, facts: FamilyFacts, build: Build = DIFFUSION
) -> Components:
    """Load the parts of a model, frozen: denoiser and VAE in `dtype`, text encoders in float32.

    Nothing is printed, and the settings of the libraries stay as they are.

    Args:
        model: where it is, and how it is read; with `low_precision_text` the text encoders are in
            `dtype` too.
        dtype: of denoiser and VAE.
        facts: of its family; optional text encoders that the model lacks are left out.
        build: makes denoiser and schedule.

    Raises:
        CoinageError: the file cannot be read, or its settings are not supported.
    """
    with libraries_silenced():
        import_libraries()
        return _load_parts(model, dtype, facts, build)


def _load_parts(
    model: ModelConfig, dtype: torch.dtype, facts: FamilyFacts, build: Build
) -> Components:
    path = model.source
    source = open_source(model, facts.name, dtype)
    with reported_as("scheduler settings", path):
        schedule, config = build.schedule(source, model)
    present = [one for one in facts.text_encoders if not one.optional or source.has(one)]
    with reported_as("tokenizer", path):
        tokenizers = [_tokenizer(model, encoder_facts) for encoder_facts in present]
    with reported_as("text encoder", path):
        text_dtype = dtype if model.low_precision_text else torch.float32
        text_encoders = []
        for encoder_facts in present:
            encoder = source.text_encoder(encoder_facts, text_dtype)
            if encoder_facts.kind == "t5" and source.tensors is None:
                _refuse_few_bits(path)  # of a hub id the files are here by now
            text_encoders.append(_whole(encoder, encoder_facts.folder, path))
    for tokenizer, encoder in zip(tokenizers, text_encoders, strict=True):
        _check_vocabulary(tokenizer, encoder.config.vocab_size, path)
    with reported_as("VAE", path):
        vae_dtype = torch.float32 if model.full_precision_vae else dtype
        vae = _whole(source.vae(model, vae_dtype), "VAE", model.vae or path)
        _check_vae(vae, facts, model)
    what = "transformer" if facts.transformer else "UNet"
    with reported_as(what, path):
        denoiser = _whole(build.denoiser(source, dtype), what, path)
        lower_inputs(denoiser)
        paint_everything(denoiser, vae)
    row_formats = []
    for tokenizer, encoder_facts in zip(tokenizers, present, strict=True):
        row_formats.append(_row_format(tokenizer, encoder_facts))
    return Components(
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(text_encoders),
        row_formats=tuple(row_formats),
        vae=vae,
        denoiser=denoiser,
        schedule=schedule,
        scheduler_config=config,
        keys=tuple(encoder_facts.key for encoder_facts in present),
        clip_skip=model.clip_skip,
        chunks=min(model.max_token_length // CHUNK, facts.most_chunks),
    ).frozen()


def _check_vae(vae: AutoencoderKL, facts: FamilyFacts, model: ModelConfig) -> None:
    """Check the latents of a VAE: their channels, and the numbers that they are moved and multiplied by.

    Raises:
        CoinageError: they are another family's, or make no sense.
    """
    path, channels = model.vae or model.source, vae.config.latent_channels
    if channels != facts.latent_channels:
        what = f"the VAE's latents have {channels} channels, and the model takes {facts.latent_channels}"
        flag = "--vae: " if model.vae else ""
        raise CoinageError(f"{flag}{what}", path, f"give a VAE of {facts.display_name}")
    factor, shift = vae.config.scaling_factor, vae.config.get("shift_factor")
    for name, value, least in (("scaling_factor", factor, 0), ("shift_factor", shift or 0, -inf)):
        if not (isinstance(value, int | float) and least < value < inf):
            what = f"the VAE's settings cannot be used: `{name}` is {value!r}"
            raise CoinageError(what, path, "download the model again")


def _refuse_few_bits(path: str) -> None:
    """Refuse a folder or hub id whose weights are too coarse to train on.

    Raises:
        CoinageError: they are.
    """
    folder = local_path(path)
    kind = kind_of_folder(folder) if is_folder(folder) else None
    if kind and kind.family is None:
        raise CoinageError(f"this is {kind.why_not}", path, kind.hint or "")


def _tokenizer(model: ModelConfig, encoder: TextEncoderFacts) -> FramingTokenizer:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    folder = find_tokenizer(
        model.source, encoder.tokenizer_folder, model.tokenizer_cache, encoder.kind
    )
    if encoder.kind == "t5":  # of the hub's cache this one file may be all that is there
        made: Any = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
        )
        return cast(FramingTokenizer, made)
    return cast(FramingTokenizer, CLIPTokenizer.from_pretrained(folder))


def _check_vocabulary(tokenizer: Tokenizer, rows: int, path: str) -> None:
    """Check that a text encoder has a row for each token.

    Raises:
        CoinageError: the tokenizer is another model's.
    """
    if len(tokenizer) > rows:
        what = f"the tokenizer has {len(tokenizer)} entries and the text encoder {rows}"
        hint = "give the model's own tokenizer"
        raise CoinageError(f"{what}: they do not belong together", path, hint)


def _row_format(tokenizer: FramingTokenizer, encoder: TextEncoderFacts) -> RowFormat:
    """Return how a text encoder takes ids.

    CLIP's padding is the family's, whatever the tokenizer's files say: those of another model may
    stand in, with the same vocabulary. OpenCLIP pads with id 0, which is `!`.
    """
    if encoder.kind == "t5":
        end = (tokenizer.eos_token_id,)
        return RowFormat((), end, tokenizer.pad_token_id, encoder.room)
    if encoder.open_clip:
        return clip_rows(tokenizer, tokenizer.get_vocab().get("!", tokenizer.pad_token_id))
    return clip_rows(tokenizer, tokenizer.eos_token_id)
