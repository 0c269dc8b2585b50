"""Parts of a model from wherever it is: a diffusers folder, a hub id, or a single file in the original layout."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.diffusion.schedule import (
    DiffusionSchedule,
    alphas_cumprod_from_betas,
    rescale_zero_terminal_snr,
)
from coinage.errors import CoinageError, Problem, reason_of
from coinage.models.base import Components
from coinage.models.detect import (
    HUB_ID,
    UNET,
    VAE,
    hub_folder,
    kind_of_checkpoint,
    reach_hub,
    read_config,
    safetensors_metadata,
    safetensors_places,
    wrong_kind,
)
from coinage.models.prediction import Told, prediction_note, told_by, with_told
from coinage.models.tokenizer_files import find_tokenizer
from coinage.system.text_files import is_file
from coinage.text.placeholder import CHUNK, Tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

log = logging.getLogger("coinage")
CONFIGS = Path(__file__).parent / "configs"  # settings of the released models, for single files
CHILDREN = ("embeddings.", "encoder.", "final_layer_norm.")
SD1_TEXT = "cond_stage_model.transformer."
PROJECTION = "conditioner.embedders.1.model.text_projection"
HALF = re.compile(r"\.fp16[.-]")  # in names of files, also of one that is one of several
# Before diffusers 0.15
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's parts come from.

    Attributes:
        path: the folder, hub id or file.
        tensors: a single file's tensors, mapped and not copied; None for folders and hub ids.
        configs: folder of settings, laid out as a diffusers folder; that of the path itself unless it is a file.
        told: what a single file says of the model's prediction.
    """

    path: str
    tensors: Mapping[str, Tensor] | None
    configs: str
    told: Told = field(default_factory=Told)

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        """The UNet in `dtype`."""
        from diffusers import UNet2DConditionModel

        return self._module(UNet2DConditionModel, "unet", dtype)

    def vae(self, model: ModelConfig, dtype: torch.dtype) -> AutoencoderKL:
        """The VAE in `dtype`: the model's own, or what `--vae` names.

        Raises:
            CoinageError: `--vae` names no VAE.
        """
        from diffusers import AutoencoderKL

        if model.vae is None:
            return self._module(AutoencoderKL, "vae", dtype)
        own = CONFIGS / model.family
        if is_file(model.vae):
            return _vae_file(model.vae, self.configs, dtype)
        for place in ("", "vae"):
            try:
                vae: AutoencoderKL = _pretrained(AutoencoderKL, model.vae, place, torch_dtype=dtype)
            except (OSError, ValueError) as error:
                reason = error
                continue
            # Diffusers takes that of SD 1.x
            if "scaling_factor" not in AutoencoderKL.load_config(model.vae, subfolder=place):
                vae.register_to_config(
                    scaling_factor=read_config(own / "vae" / "config.json")["scaling_factor"]
                )
            return vae
        hint = "give a VAE file, or a diffusers folder or hub id with a VAE at its root or in vae/"
        raise CoinageError("--vae: cannot load a VAE", model.vae, hint) from reason

    def text_encoder(self, name: str, dtype: torch.dtype) -> Any:
        """`text_encoder` as CLIPTextModel, `text_encoder_2` as CLIPTextModelWithProjection."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        cls = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
        if self.tensors is None:
            return _pretrained(cls, self.path, name, dtype=dtype)
        from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

        tensors = dict(self.tensors)
        return create_diffusers_clip_model_from_ldm(
            cls,
            tensors,
            subfolder=name,
            config=self.configs,
            torch_dtype=dtype,
            local_files_only=True,
        )

    def _module(self, cls: Any, name: str, dtype: torch.dtype) -> Any:
        if self.tensors is None:
            return _pretrained(cls, self.path, name, torch_dtype=dtype)
        tensors = dict(self.tensors)
        return cls.from_single_file(
            tensors, config=self.configs, subfolder=name, torch_dtype=dtype, local_files_only=True
        )

    def scheduler_config(self, model: ModelConfig) -> Mapping[str, Any]:
        """The model's scheduler settings, with what its file and the flags say of its prediction.

        Raises:
            CoinageError: settings that training would get wrong.
        """
        config = read_config(Path(self.configs) / "scheduler" / "scheduler_config.json")
        if not config:
            from diffusers import DDIMScheduler

            config = dict(DDIMScheduler.load_config(self.path, subfolder="scheduler"))
        config = {k: v for k, v in config.items() if not k.startswith("_")}
        missing = [
            k
            for k in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
            if k not in config
        ]
        odd = ["trained_betas"] if config.get("trained_betas") else []
        odd += (
            ["beta_schedule"]
            if config.get("beta_schedule") not in ("linear", "scaled_linear")
            else []
        )
        odd += ["num_train_timesteps"] if config.get("num_train_timesteps") != 1000 else []
        odd += (
            ["prediction_type"]
            if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction")
            else []
        )
        if missing or odd:
            shown = ", ".join(f"{k} = {config.get(k)!r}" for k in dict.fromkeys([*missing, *odd]))
            raise CoinageError(
                f"the model's scheduler settings are not supported yet: {shown}",
                f"{self.configs}/scheduler",
            )
        if note := prediction_note(config, self.told, model, is_file=self.tensors is not None):
            log.info("note: %s", note)
        return with_told(config, self.told, model)


def _pretrained(cls: Any, path: str, folder: str, **more: Any) -> Any:
    """A part of a diffusers folder or hub id; its fp16 variant where that alone is there, first where fp16 is wanted.

    Raises:
        CoinageError: weights are missing from the file.
        OSError: it is not there.
    """
    reason: OSError | ValueError | None = None
    for variant in _variants(_files_of(path, folder), half=torch.float16 in more.values()):
        try:
            part, info = cls.from_pretrained(
                path, subfolder=folder, variant=variant, output_loading_info=True, **more
            )
        except (OSError, ValueError) as error:
            reason = error if variant is None or reason is None else reason
            continue
        missing = [name for name in info["missing_keys"] if not name.endswith("position_ids")]
        if missing:
            what = f"{len(missing)} weights are missing from {folder or 'the VAE'}, such as {min(missing)}"
            raise CoinageError(what, path, "download the model again")
        return part
    raise reason or OSError(f"nothing to load in {folder}")


def _variants(files: Sequence[str], *, half: bool) -> Sequence[str | None]:
    """The variants of a part's weights that are there, the wanted one first; the usual one where none is seen.

    Asking for one that is not there makes diffusers tell of it, and of pickles, on each run.
    """
    weights = [name for name in files if name.endswith((".safetensors", ".bin"))]
    there = {"fp16" if HALF.search(name) else None for name in weights}
    return [
        variant for variant in (("fp16", None) if half else (None, "fp16")) if variant in there
    ] or [None]


def _files_of(path: str, folder: str) -> list[str]:
    """Names of a part's files: in a folder, on the hub, or, where that is out of reach, in the hub's local cache."""
    place = Path(path)
    if not place.is_dir() and HUB_ID.fullmatch(path):
        from huggingface_hub import HfApi, constants

        try:
            if not constants.HF_HUB_OFFLINE:
                reach_hub()
                names = map(PurePosixPath, HfApi().list_repo_files(path))
                return [name.name for name in names if str(name.parent) == (folder or ".")]
        except Exception:  # noqa: BLE001 - whatever the network or a bad id raises means the same
            log.debug("the hub does not list %s", path)
        place = hub_folder(path) or place
    return [file.name for file in (place / folder).glob("*")]


@contextmanager
def telling(what: str, path: str, failed: str = "cannot load the model's") -> Iterator[None]:
    """Tell whatever the libraries raise on broken files as one clear error.

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
        raise CoinageError(
            f"{failed} {what}: {reason}", path, "see that the files are whole and belong together"
        ) from error


def _whole(module: Any, what: str, path: str) -> Any:
    """The module, all of whose weights were in the file.

    Raises:
        CoinageError: they were not.
    """
    missing = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if missing:
        text = (
            f"{len(missing)} weights of the {what} are missing from the file, such as {missing[0]}"
        )
        raise CoinageError(text, path, "download the model again")
    return module


def open_source(model: ModelConfig, family: str, dtype: torch.dtype) -> Source:
    """A model's source. A file's tensors are mapped, or brought to their dtype one by one; a pickle runs nothing.

    Raises:
        CoinageError: the file cannot be read, or holds another kind of model.
    """
    path, file = model.source, Path(model.source)
    if not is_file(file):
        return Source(path, None, path)
    wanted = {UNET: dtype, VAE: torch.float32 if model.full_precision_vae else dtype}
    tensors = read_tensors(file, wanted, mapped=model.map_weights)
    kind = kind_of_checkpoint(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}, own_vae=model.vae is None
    )
    if kind.family != family:
        problem = wrong_kind(kind, family, path)
        raise CoinageError(problem.what, path, problem.hint)
    header = safetensors_metadata(file) if file.suffix.lower() == ".safetensors" else {}
    return Source(path, tensors, str(CONFIGS / family), told_by(tensors, header))


def read_tensors(
    path: Path, wanted: Mapping[str, torch.dtype] | None = None, *, mapped: bool = True
) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a pickle, by name; a table nested under `state_dict` is taken out.

    Args:
        path: the file.
        wanted: the dtype of tensors by the start of their names. In a safetensors file, one of another dtype is read and
            brought to it alone, so that the file is never in memory twice; all others are mapped.
        mapped: off: read all of it into memory, which can be faster from a network drive.

    Raises:
        CoinageError: the file is broken, or a pickle that holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = (
                _in_dtypes(path, load_file(path), wanted or {})
                if mapped
                else load(path.read_bytes())
            )
        else:  # old pickles are no zip files, which alone can be mapped
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (OSError, SafetensorError) as error:
        raise CoinageError(
            f"cannot read the model: {reason_of(error)}", str(path), "download the file again"
        ) from None
    except Exception as error:  # noqa: BLE001 - a broken or hostile pickle can raise anything
        raise CoinageError(
            f"cannot read the model: {reason_of(error)}", str(path), "use a .safetensors file"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CoinageError(
            "cannot read the model: the file holds no table of tensors",
            str(path),
            "use a .safetensors file",
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    # Spelt so, it is stored as a linear layer's
    projection = tensors.pop(f"{PROJECTION}.weight", None)
    if projection is not None:
        tensors[PROJECTION] = projection.T.contiguous()
    return {
        _renamed(name): value
        for name, value in tensors.items()
        if not name.endswith("position_ids")
    }


def _in_dtypes(
    path: Path, mapped: Mapping[str, Tensor], wanted: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """Mapped tensors, those of another dtype than wanted replaced by converted copies of their own."""
    places = safetensors_places(path)
    found = {}
    with path.open("rb") as file:
        for name, tensor in mapped.items():
            dtype = next(
                (dtype for start, dtype in wanted.items() if name.startswith(start)), tensor.dtype
            )
            if dtype == tensor.dtype or not tensor.is_floating_point() or not tensor.numel():
                found[name] = tensor
                continue
            shape, start, end = places[name]
            file.seek(start)  # reading through the map would keep every page of the file in memory
            found[name] = (
                torch.frombuffer(bytearray(file.read(end - start)), dtype=tensor.dtype)
                .reshape(shape)
                .to(dtype)
            )
    return found


def _renamed(name: str) -> str:
    """The name of a text encoder's tensor with the level that old files leave out."""
    rest = name.removeprefix(SD1_TEXT)
    return f"{SD1_TEXT}text_model.{rest}" if rest != name and rest.startswith(CHILDREN) else name


def _new_attention(name: str) -> str:
    """The name of a diffusers VAE's attention weight as it is today."""
    start, _, layer = name.rpartition(".")[0].rpartition(".")
    return (
        name.replace(layer, OLD_ATTENTION[layer])
        if layer in OLD_ATTENTION and "attentions" in start
        else name
    )


def _vae_file(path: str, configs: str, dtype: torch.dtype) -> AutoencoderKL:
    """A VAE file, in the original layout (with or without its prefix, alone or within a model) or in diffusers'."""
    from diffusers import AutoencoderKL

    tensors = read_tensors(Path(path))
    if any(name.startswith(VAE) for name in tensors):
        tensors = {name: value for name, value in tensors.items() if name.startswith(VAE)}
    tensors = {_new_attention(name): value for name, value in tensors.items()}
    if not any(name.removeprefix(VAE).startswith("decoder.conv_in") for name in tensors):
        raise CoinageError(
            "--vae: the file holds no VAE", path, "give a VAE file, a diffusers folder or a hub id"
        )
    settings: dict[str, Any] = {
        "config": configs,
        "subfolder": "vae",
        "torch_dtype": dtype,
        "local_files_only": True,
    }
    try:
        return cast("AutoencoderKL", AutoencoderKL.from_single_file(tensors, **settings))
    except (ValueError, RuntimeError, KeyError) as error:
        raise CoinageError(
            f"--vae: the VAE does not fit the model: {reason_of(error)}", path
        ) from error


def make_schedule(config: Mapping[str, Any]) -> DiffusionSchedule:
    """The noise schedule of a scheduler's settings, ending in pure noise where they say so."""
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
            what = "a schedule that ends in pure noise (--zero_terminal_snr) needs a model that predicts v"
            log.warning(
                "%s",
                Problem(
                    what,
                    hint="add --v_parameterization if the model does, or leave out --zero_terminal_snr",
                ),
            )
    return DiffusionSchedule(alphas_cumprod, prediction_type)


def load_parts(
    model: ModelConfig, dtype: torch.dtype, family: str, open_clip: Sequence[bool]
) -> Components:
    """The parts of a model, frozen: UNet and VAE in `dtype`, text encoders in float32 unless `low_precision_text`.

    Args:
        model: where it is, and how it is read.
        dtype: of UNet and VAE.
        family: sd1, sd2 or sdxl.
        open_clip: for each text encoder, whether it is OpenCLIP's, which pads with `!`.

    Raises:
        CoinageError: the file cannot be read, or its settings are not supported.
    """
    path = model.source
    source = open_source(model, family, dtype)
    with telling("scheduler settings", path):
        config = source.scheduler_config(model)
        schedule = make_schedule(config)
    suffixes = ("", "_2")[: len(open_clip)]
    with telling("tokenizer", path):
        tokenizers = tuple(_tokenizer(model, f"tokenizer{suffix}") for suffix in suffixes)
    with telling("text encoder", path):
        names = [f"text_encoder{suffix}" for suffix in suffixes]
        text_dtype = dtype if model.low_precision_text else torch.float32
        text_encoders = tuple(
            _whole(source.text_encoder(name, text_dtype), name, path) for name in names
        )
    for tokenizer, encoder in zip(tokenizers, text_encoders, strict=True):
        if len(tokenizer) > encoder.config.vocab_size:
            what = f"the tokenizer has {len(tokenizer)} entries and the text encoder {encoder.config.vocab_size}"
            raise CoinageError(
                f"{what}: they do not belong together", path, "give the model's own tokenizer"
            )
    with telling("VAE", path):
        vae = _whole(
            source.vae(model, torch.float32 if model.full_precision_vae else dtype),
            "VAE",
            model.vae or path,
        )
    with telling("UNet", path):
        denoiser = _whole(source.unet(dtype), "UNet", path)
    return Components(
        tokenizers=tokenizers,
        text_encoders=text_encoders,
        vae=vae,
        denoiser=denoiser,
        schedule=schedule,
        scheduler_config=config,
        clip_skip=model.clip_skip,
        chunks=model.max_token_length // CHUNK,
        # Whatever the tokenizer's files say: those of another model may stand in, with the same vocabulary.
        pad_ids=tuple(
            _open_clip_pad(t) if is_open else t.eos_token_id
            for t, is_open in zip(tokenizers, open_clip, strict=True)
        ),
    ).frozen()


def _tokenizer(model: ModelConfig, name: str) -> Tokenizer:
    from transformers import CLIPTokenizer

    return cast(
        Tokenizer,
        CLIPTokenizer.from_pretrained(find_tokenizer(model.source, name, model.tokenizer_cache)),
    )


def _open_clip_pad(tokenizer: Tokenizer) -> int:
    """What OpenCLIP's text encoders are padded with: id 0, which is `!`."""
    return tokenizer.get_vocab().get("!", tokenizer.pad_token_id)
