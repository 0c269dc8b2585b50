"""Detect what a model file or folder holds, from names and shapes alone.

Imports no torch, and asks no network.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from coinage.errors import CoinageError, Problem
from coinage.models.facts import DEFAULT, FACTS, SD1, SD2, SDXL, FamilyFacts
from coinage.system.text_files import MEGABYTE, is_file, is_there, read_json

LONGEST_NAME = 300  # characters of a tensor's name
# Of a safetensors file; SDXL's has half a megabyte. A long header of many small values takes far more
# memory
MOST_HEADER = 16 * MEGABYTE
MOST_PICKLE = 100 * MEGABYTE  # whose texts are looked through
MOST_SETTINGS = MEGABYTE  # of one part of a model, which has a few kB
# Whose modules are all made before a weight is looked at
LAYERS, MOST_LAYERS = ("num_layers", "num_single_layers", "num_hidden_layers"), 1000
LARGEST = 2**63  # no size or place in a file is larger
UNET, VAE = "model.diffusion_model.", "first_stage_model."
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
SETTINGS = (*(f"{part}/config.json" for part in PARTS), "scheduler/scheduler_config.json")
CONFIGS = Path(__file__).parent / "configs"  # settings of the released models
UNREADABLE, AGAIN = "the model's settings cannot be read", "download the model again"
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
INPUT_CHANNELS = (4, 9)  # of a UNet: noisy latents, or a mask and a masked picture beside them
SPECIAL = {  # by the input channels of its UNet
    5: "a depth model",
    7: "an upscaler",
    8: "a model that edits pictures (InstructPix2Pix)",
}
LONE_UNET = "a diffusers UNet alone: give its folder with model_index.json"
LONE_TRANSFORMER = "a transformer alone: give the folder with model_index.json"
EDM = "an EDM model, whose noise schedule is different (its file has edm_ tensors)"
REFINER = "an SDXL refiner, which cannot be trained on"
NO_TEXT = "a {} model without its {}"
WHOLE = "give a file with them, or the diffusers folder"
NO_VAE = "a model without VAE: add --vae"
OTHER_INPUTS = "a {} that reads something else beside a picture: it has {} input channels, not {}"
# In names of weights that are kept in few bits with factors of their own
QUANTISED = (".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", "scaled_fp8")
IN_FEW_BITS = "a quantised model: give it in fp16 or bf16"
ANY_MODEL = "Stable Diffusion or FLUX.1"
SAY_WHAT_TO_DO = (LONE_UNET, LONE_TRANSFORMER, IN_FEW_BITS)
# Of relatives whose transformers have the same names, in part
RELATIVES = {
    "distilled_guidance_layer.": "a Chroma model, which cannot be trained on",
    "double_stream_modulation_img.": "a FLUX.2 model, which cannot be trained on",
}
EIGHT_BITS = "a model whose T5 text encoder is in fp8: give one with T5 in fp16"
OR_WITHOUT = ", or without T5"
# Shape, start and end in bytes of each tensor of a file
Places = dict[str, tuple[tuple[int, ...], int, int]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Family of a model, or why it cannot be trained on.

    Attributes:
        family: None if it cannot be trained on.
        why_not: the reason.
        hint: what to do about it; "" if the reason says it, None if nothing is known.
    """

    family: str | None
    why_not: str = ""
    hint: str | None = None


def known_name(name: str) -> str:
    """Return the name of a single file's tensor with the usual prefix of its part.

    Files of some families may have denoisers without a prefix, and another prefix for the VAE.
    """
    for facts in FACTS.values():
        if facts.bare_names and name.startswith(facts.bare_names):
            return f"{UNET}{name}"
        if facts.vae_prefix and name.startswith(facts.vae_prefix):
            return f"{VAE}{name.removeprefix(facts.vae_prefix)}"
    return name


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file, from its header.

    Raises:
        CoinageError: not a safetensors file, or a truncated one.
    """
    return {name: shape for name, (shape, _, _) in safetensors_places(path).items()}


def safetensors_places(path: Path) -> Places:
    """Return shape, start and end in bytes of every tensor in a safetensors file, from its header.

    Raises:
        CoinageError: not a safetensors file, or a truncated one.
    """
    hint = "download the file again"
    size = path.stat().st_size
    header, body = _header(path, size)
    places: Places = {}
    try:
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = map(_size, entry["data_offsets"][:2])
                places[name] = tuple(map(_size, entry["shape"])), body + start, body + end
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        raise CoinageError(
            "not a safetensors file: its header cannot be read", str(path), hint
        ) from None
    last = max((place[2] for place in places.values()), default=body)
    if last != size:
        raise CoinageError(f"the file is truncated: {size} of {last} bytes", str(path), hint)
    return places


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the texts in a safetensors file's header beside its tensors; {} if there are none.

    Raises:
        CoinageError: not a safetensors file, or a truncated one.
    """
    metadata = _header(path, path.stat().st_size)[0].get("__metadata__")
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header, and where its tensors begin, in bytes."""
    hint = "download the file again"
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if start[:1] == b"<":
            raise _web_page(path)
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise CoinageError("not a safetensors file, or a truncated one", str(path), hint)
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise CoinageError("not a safetensors file: its header cannot be read", str(path), hint)
    return header, 8 + length


def _web_page(path: Path) -> CoinageError:
    """Return the error that a download has brought a page."""
    hint = "download the file itself, not its page"
    return CoinageError("this is a web page, not a model", str(path), hint)


def _size(value: Any) -> int:
    """Return a whole number of a header.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not 0 <= value < LARGEST:
        raise ValueError("no size")
    return value


def wrong_kind(kind: Kind, wanted: str, source: str) -> Problem:
    """Return the error that a model is of another kind than the command trains, with the right command."""
    wanted_name = FACTS[wanted].display_name
    if kind.family is None:
        asked = ANY_MODEL if wanted == DEFAULT.name else wanted_name
        hint = f"give a {asked} model" if kind.hint is None else kind.hint
        return Problem(f"this is {kind.why_not}", source, hint)
    facts = FACTS[kind.family]
    what = f"this is a {facts.display_name} model, and the command is for {wanted_name}"
    hint = f"use {facts.script_hint}, or coinage train, which detects the family"
    if facts.transformer:
        hint = "use coinage train"
    return Problem(what, source, hint)


def kind_of_file(path: Path, *, own_vae: bool = True) -> Kind | None:
    """Return what a single file holds; None for a pickle that does not show it before it is loaded.

    Raises:
        CoinageError: neither a safetensors file nor a pickle, or a broken one.
    """
    if path.suffix.lower() == ".safetensors":
        places = safetensors_places(path)
        kind = kind_of_checkpoint(_known_shapes(places), own_vae=own_vae)
        facts = FACTS.get(kind.family or "")
        starts = tuple(encoder.prefix for encoder in facts.t5s) if facts else ()
        return _in_eight_bits(facts) if facts and in_eight_bits(places, starts) else kind
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"<":
        raise _web_page(path)
    if start == b"GGUF":
        hint = "give the model in fp16 or bf16, as a .safetensors file or a diffusers folder"
        raise CoinageError("a GGUF file: quantised models cannot be trained on", str(path), hint)
    if not start.startswith((b"PK", b"\x80")):  # a zip archive, or a bare pickle
        raise CoinageError("not a model file", str(path), "give a .safetensors or .ckpt file")
    names = set(map(known_name, pickled_names(path)))
    # The texts do not show shapes: a UNet with other input channels is noticed when it is loaded
    shapes = dict.fromkeys(names, (0, INPUT_CHANNELS[0]))
    return kind_of_checkpoint(shapes, own_vae=own_vae) if _has(shapes, UNET) else None


def _known_shapes(places: Places) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a model's safetensors file, by their known names."""
    return {known_name(name): shape for name, (shape, _, _) in places.items()}


def tensor_names(path: Path) -> Collection[str]:
    """Return the known names of a file's tensors, of pickles without reading them as such.

    Raises:
        CoinageError: a safetensors file that cannot be read.
    """
    if path.suffix.lower() == ".safetensors":
        return _known_shapes(safetensors_places(path))
    return set(map(known_name, pickled_names(path)))


def _in_eight_bits(facts: FamilyFacts) -> Kind:
    """Return why a model with T5 in 8 bits cannot be trained on."""
    may_lack = any(encoder.optional for encoder in facts.t5s)
    return Kind(None, f"{EIGHT_BITS}{OR_WITHOUT if may_lack else ''}", _has_it(facts))


def _has_it(facts: FamilyFacts) -> str:
    """Return where a whole model of a family is, in full precision."""
    return f"the diffusers folder has it, such as {facts.hub_id} on the hub" if facts.hub_id else ""


def in_eight_bits(places: Places, starts: tuple[str, ...] = ("",)) -> bool:
    """Return whether a number of a weight in a safetensors file takes one byte.

    Args:
        places: of the file's tensors.
        starts: of the names that count.
    """
    return any(
        name.startswith(starts) and len(shape) > 1 and end - start == math.prod(shape)
        for name, (shape, start, end) in places.items()
    )


def pickled_names(path: Path) -> set[str]:
    """Return all short texts in a pickle, names of tensors among them; empty when it cannot be read.

    The pickle is not run.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                if archive.getinfo(member).file_size > MOST_PICKLE:
                    return set()
                return _texts(io.BytesIO(archive.read(member)), 1)
        # Before 2020: a magic number, a version, the system, then the table, in one pickle each
        with path.open("rb") as file:
            return _texts(file, 4)
    except (OSError, ValueError, StopIteration, RuntimeError, zipfile.BadZipFile, zlib.error):
        return set()


def _texts(stream: IO[bytes], pickles: int) -> set[str]:
    """Return the short texts of so many pickles that lie one behind the other."""
    texts: set[str] = set()
    for _ in range(pickles):
        for _, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str) and len(argument) < LONGEST_NAME:
                texts.add(argument)
    return texts


def kind_of_checkpoint(shapes: Mapping[str, tuple[int, ...]], *, own_vae: bool = True) -> Kind:
    """Return what a single file in an original layout holds; without `own_vae` it may lack a VAE.

    Args:
        shapes: by their known names.
        own_vae: off: another VAE is given.
    """
    reason = _unusable(shapes)
    if reason:
        return Kind(None, reason, "" if reason in SAY_WHAT_TO_DO else None)
    lacks_vae = own_vae and not _has(shapes, VAE)
    for facts in reversed(list(FACTS.values())):
        if _has(shapes, facts.file_prefix):
            return _whole(facts, shapes, lacks_vae=lacks_vae)
    return Kind(None, NO_VAE, "") if lacks_vae else Kind(None, "a UNet without text encoder")


def _whole(facts: FamilyFacts, shapes: Mapping[str, tuple[int, ...]], *, lacks_vae: bool) -> Kind:
    """Return a family's kind, or which parts its file lacks."""
    needed = [encoder for encoder in facts.text_encoders if not encoder.optional]
    missing = [encoder.key for encoder in needed if not _has(shapes, encoder.prefix)]
    if missing and facts.transformer:
        kind = "text encoder" if len(missing) == 1 else "text encoders"
        parts = f"{kind} {' and '.join(missing)}{' and its VAE' if lacks_vae else ''}"
        hint = f"{WHOLE}, such as {facts.hub_id} on the hub"
        return Kind(None, NO_TEXT.format(facts.display_name, parts), hint)
    outputs, channels = shapes.get(f"{UNET}{facts.input_layer}", (0, 0))
    if outputs and channels != facts.input_channels:  # of a pickle no shapes are known
        return _other_inputs(facts, channels)
    return Kind(None, NO_VAE, "") if lacks_vae else Kind(facts.name)


def _other_inputs(facts: FamilyFacts, channels: int) -> Kind:
    """Return what a model is whose transformer reads something else beside latents."""
    kind = f"{facts.display_name} model"
    reason = OTHER_INPUTS.format(kind, channels, facts.input_channels)
    return Kind(None, reason, f"give a {kind}")


def _unusable(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return why a single file cannot be trained on, "" if nothing speaks against it."""
    channels = shapes.get(FIRST_CONV, (0, INPUT_CHANNELS[0]))[1]
    is_lora = _has(shapes, "lora_") or any(".lora." in name for name in shapes)
    is_refiner = _has(shapes, "conditioner.") and not _has(shapes, SDXL.file_prefix)
    reasons = (
        (is_lora, "a LoRA, not a model"),
        (_has(shapes, "down_blocks.", "unet.down_blocks."), LONE_UNET),
        (any(name.endswith(QUANTISED) for name in shapes), IN_FEW_BITS),
        *((_has(shapes, name, f"{UNET}{name}"), what) for name, what in RELATIVES.items()),
        (_has(shapes, "joint_blocks.", "transformer_blocks."), LONE_TRANSFORMER),
        (not _has(shapes, UNET), "not a Stable Diffusion model: it has no UNet"),
        (channels not in INPUT_CHANNELS, _special(channels)),
        (_has(shapes, "edm_"), EDM),
        (is_refiner, REFINER),
    )
    return next((reason for applies, reason in reasons if applies), "")


def _special(channels: int) -> str:
    """Return what a model is whose UNet reads something else beside latents."""
    kind = SPECIAL.get(channels, "a special model")
    return f"{kind}: its UNet has {channels} input channels; 4 are usual, 9 for inpainting"


def _has(shapes: Mapping[str, tuple[int, ...]], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in shapes)


def kind_of_folder(folder: Path) -> Kind:
    """Return what a diffusers folder holds.

    Raises:
        CoinageError: the settings of a part cannot be read, or its weights.
    """
    kind = _kind_by_settings(folder)
    if kind.family is None:
        return kind
    facts = FACTS[kind.family]
    return _other_t5(folder, facts) or _in_few_bits(folder, facts) or kind


def _other_t5(folder: Path, facts: FamilyFacts) -> Kind | None:
    """Return why a folder's T5 is none, such as UMT5, whose weights partly fit; None if it is one."""
    for encoder in facts.t5s:
        kind = read_config(folder / encoder.folder / "config.json").get("model_type", "t5")
        if kind != "t5":
            return Kind(None, f"its {encoder.folder} is {kind}, not T5", _has_it(facts))
    return None


def _in_few_bits(folder: Path, facts: FamilyFacts) -> Kind | None:
    """Return why a folder's weights are too coarse to train on; None if they are not."""
    encoders = [encoder.folder for encoder in facts.text_encoders]
    for part in (*encoders, facts.denoiser, "vae"):
        if read_config(folder / part / "config.json").get("quantization_config"):
            return Kind(None, IN_FEW_BITS, _has_it(facts))
    files = [file for t5 in facts.t5s for file in (folder / t5.folder).glob("*.safetensors")]
    in_eight = any(in_eight_bits(safetensors_places(file)) for file in files if is_file(file))
    return _in_eight_bits(facts) if in_eight else None


def _kind_by_settings(folder: Path) -> Kind:
    """Return what a diffusers folder holds, by the settings of its parts."""
    transformer = _kind_by_transformer(folder)
    if transformer and transformer.family is None:
        return transformer
    for file in SETTINGS:
        _check_kinds(folder / file, read_config(folder / file), _usual_kinds(file))
    if transformer:
        return transformer
    unet = read_config(folder / "unet" / "config.json")
    channels = unet.get("in_channels", INPUT_CHANNELS[0])
    if type(channels) is not int:
        raise CoinageError(UNREADABLE, str(folder / "unet" / "config.json"), AGAIN)
    if channels not in INPUT_CHANNELS:
        return Kind(None, _special(channels))
    if (folder / "text_encoder_2").is_dir() or unet.get("addition_embed_type") == "text_time":
        is_base = (folder / "text_encoder").is_dir()
        return Kind(SDXL.name) if is_base else Kind(None, REFINER)
    # SD 2.x has OpenCLIP's encoder, which its activation shows. The UNet's width is for models whose
    # text encoder's settings are missing.
    wide = unet.get("cross_attention_dim") == SD2.vector_width
    text = read_config(folder / "text_encoder" / "config.json")
    activation = text.get("hidden_act", "gelu" if wide else "quick_gelu")
    return Kind(SD2.name if activation == "gelu" else SD1.name)


def _kind_by_transformer(folder: Path) -> Kind | None:
    """Return the kind of a folder with a transformer; None where it has a UNet."""
    settings = read_config(folder / "transformer" / "config.json")
    pipeline = read_config(folder / "model_index.json").get("_class_name")
    name = settings.get("_class_name")
    for facts in FACTS.values():
        if facts.transformer and (name == facts.transformer or pipeline == facts.pipeline):
            channels = settings.get("in_channels", facts.input_channels)
            is_usual = channels == facts.input_channels
            return Kind(facts.name) if is_usual else _other_inputs(facts, channels)
    if not settings:
        return None
    return Kind(None, f"a model with a {name}, which cannot be trained on")


@cache
def _usual_kinds(file: str) -> Mapping[str, frozenset[str]]:
    """Return the kinds of values that a part's settings have in the released models, by name."""
    kinds: dict[str, frozenset[str]] = {}
    for family in FACTS:
        for name, value in read_config(CONFIGS / family / file).items():
            kinds[name] = kinds.get(name, frozenset()) | _kinds_in(value)
    return kinds


def _kinds_in(value: Any) -> frozenset[str]:
    """Return the kinds of a setting's values.

    A list has those of its entries, since a model may have one for each of its levels.
    """
    if isinstance(value, list):
        return frozenset[str]().union(*map(_kinds_in, value))
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        dict: "a table",
    }
    return frozenset({kinds[type(value)]} if value is not None else ())


def _check_kinds(
    path: Path, settings: Mapping[str, Any], usual: Mapping[str, frozenset[str]]
) -> None:
    """Check that settings are of the kinds that they have in the released models.

    The libraries would fail on others while drawing.

    Raises:
        CoinageError: one is not.
    """
    for name, value in settings.items():
        known = usual.get(name)
        if known and not _kinds_in(value) <= known:
            raise CoinageError(
                f"{UNREADABLE}: `{name}` is not {' or '.join(sorted(known))}", str(path), AGAIN
            )
        if name in LAYERS and isinstance(value, int) and not 0 <= value <= MOST_LAYERS:
            raise CoinageError(f"{UNREADABLE}: `{name}` is {value}", str(path), AGAIN)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON settings file; {} if it does not exist.

    Raises:
        CoinageError: the file is broken.
    """
    if not is_there(path):
        return {}
    try:
        data = read_json(path, most=MOST_SETTINGS)
    except CoinageError as error:
        raise CoinageError(f"{UNREADABLE}: {error.problems[0].what}", str(path), AGAIN) from None
    if not isinstance(data, dict):
        raise CoinageError(f"{UNREADABLE}: they are not a table", str(path), AGAIN)
    return data
