"""Check the model before it is loaded: its files, its family, and flags that depend on it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from coinage.checks.plan import Draft
from coinage.config import ModelConfig, TrainConfig
from coinage.errors import CoinageError, Problem
from coinage.models.detect import (
    AGAIN,
    VAE,
    Kind,
    kind_of_file,
    kind_of_folder,
    read_config,
    tensor_names,
    wrong_kind,
)
from coinage.models.facts import FACTS
from coinage.models.hub_files import HUB_ID, hub_folder, reach_hub
from coinage.models.prediction import prediction_of
from coinage.models.text_encoder_sizes import check_clip_skip, text_encoder_sizes
from coinage.runs.digests import WEIGHTS
from coinage.system.text_files import is_file, is_folder, is_there

log = logging.getLogger("coinage")
FLAG = "--pretrained_model_name_or_path"
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
# A VAE is recognised by the latter, in every layout
VAE_CLASS, VAE_BEGIN = "AutoencoderKL", "decoder.conv_in"
CHECK_PATH = "check the path; a hub id looks like owner/name"


def check_environment(draft: Draft) -> None:
    """Find a SOURCE_DATE_EPOCH that is not a time: libraries fail on it in places that do not name it."""
    value = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not (value.isdecimal() and int(value) < 2**32):
        what = f"SOURCE_DATE_EPOCH={value} is not a time"
        draft.findings.error(what, hint="seconds since 1970, or leave it out")


def check_model(draft: Draft) -> None:
    """Find a model or VAE that cannot be used, and flags that its settings contradict."""
    config = draft.config
    draft.findings.errors += vae_problems(config.model)
    problems = model_problems(config.model) or settings_problems(config)
    draft.findings.errors += problems
    _check_encoders(draft)


def _check_encoders(draft: Draft) -> None:
    """Find a choice among text encoders that the model does not have."""
    choice, facts = draft.config.word.train_encoders, FACTS[draft.config.model.family]
    if choice == "both" or choice in facts.encoder_choices:
        return
    if facts.encoder_choices:
        what = f"--train_encoders {choice}: {facts.display_name} has no such text encoder"
        draft.findings.error(what, hint=f"one of {', '.join(facts.encoder_choices)}, both")
        return
    what = f"--train_encoders {choice}: {facts.display_name} has one text encoder"
    if choice in ("l", "clip"):
        draft.findings.note(f"{what}, in which the word learns anyway")
    else:
        draft.findings.error(what, hint="leave it out; it is for models with several")


def model_problems(model: ModelConfig) -> list[Problem]:
    """Find out from names, shapes and settings whether the source holds a model of its family."""
    path = Path(model.source)
    if not is_folder(path) and not is_file(path):
        problems = _problems_elsewhere(path, model.source)
        cached = None if problems else hub_folder(model.source)
        if cached is None:
            return problems
        path = cached
    try:
        if is_folder(Path(model.source)):
            return _folder_problems(path, model)
        return _kind_problems(_kind_of(path, own_vae=model.vae is None), model)
    except CoinageError as error:
        return _prefixed(FLAG, error)
    except OSError as error:
        return [Problem(f"{FLAG}: cannot read the file: {error.strerror}", model.source)]


def _kind_of(path: Path, *, own_vae: bool) -> Kind | None:
    """Return the kind of model in a folder or file."""
    return kind_of_folder(path) if is_folder(path) else kind_of_file(path, own_vae=own_vae)


def _folder_problems(path: Path, model: ModelConfig) -> list[Problem]:
    """Find out whether a folder holds a whole model of the family; the fault that says most comes alone."""
    kind: Kind | None = None
    try:
        kind = kind_of_folder(path)
        problems = _kind_problems(kind, model)
    except CoinageError as error:
        problems = _prefixed(FLAG, error)
    if problems and _says_most(path, kind):
        return problems
    return _missing_parts(path, model) or problems or _lacking_parts(path, model)


def _says_most(path: Path, kind: Kind | None) -> bool:
    """Return whether what a folder holds is told before what it lacks.

    So it is of whole folders of another family, and of all with a transformer.
    """
    if kind is None or kind.family is None:
        return (path / "transformer").is_dir()
    facts = FACTS[kind.family]
    is_whole = all((path / part).is_dir() for part in facts.folders if part != "vae")
    return is_whole or bool(facts.transformer)


def _missing_parts(path: Path, model: ModelConfig) -> list[Problem]:
    """Find folders that a diffusers folder lacks."""
    facts = FACTS[model.family]
    needed = _needed(model)
    missing = [part for part in needed if not (path / part).is_dir()]
    if not missing:
        return []
    what = f"{FLAG}: not a diffusers model: {', '.join(missing)} missing"
    optional = [encoder.folder for encoder in facts.text_encoders if encoder.optional]
    hint = "give the folder with model_index.json"
    if (path / "model_index.json").is_file():
        hint = "download the whole model"
        if optional:
            hint = f"{hint}; of its text encoders only {optional[0]} may be missing"
    return [Problem(what, model.source, hint)]


def _needed(model: ModelConfig) -> list[str]:
    """Return the folders that a diffusers folder must have."""
    folders = FACTS[model.family].folders
    return [part for part in folders if part != "vae" or model.vae is None]


def _lacking_parts(path: Path, model: ModelConfig) -> list[Problem]:
    """Find parts of a folder that have no settings or no weights, as after half a download."""
    facts, problems = FACTS[model.family], []
    texts = [one.folder for one in facts.text_encoders if (path / one.folder).is_dir()]
    for part in dict.fromkeys((*texts, *_needed(model))):
        is_module = part in (*texts, facts.denoiser, "vae")
        if is_module and (lacking := _lacking(path / part)):
            what, hint = lacking
            problems.append(Problem(f"{FLAG}: {part} has {what}", str(path / part), hint))
    return problems


def _lacking(part: Path) -> tuple[str, str] | None:
    """Return what a part of a folder lacks, and what to do; None if it lacks nothing."""
    names = {file.name for file in part.iterdir()}
    if not any(name.endswith(WEIGHTS) for name in names):
        if any(name.lower().endswith(".gguf") for name in names):
            return "its weights in GGUF", "take them in fp16 or bf16, as .safetensors files"
        return "no weights", AGAIN
    if "config.json" not in names:
        return "no config.json", AGAIN
    missing = sorted(_listed(part) - names)
    return (f"not all of its files: {missing[0]} is missing", AGAIN) if missing else None


def _listed(part: Path) -> set[str]:
    """Return the names of the files that a part's weights are spread over; {} where they are in one."""
    if any(part.glob("*.bin")):  # which may be there beside others, or in place of them
        return set()
    listed: set[str] = set()
    for index in part.glob("*.safetensors.index.json"):
        table = read_config(index).get("weight_map")
        if isinstance(table, dict):
            listed |= set(map(str, table.values()))
    return listed


def _problems_elsewhere(path: Path, source: str) -> list[Problem]:
    """Find out whether what is not on the disk may be a hub id, and is there."""
    on_disk = path.suffix in FILE_SUFFIXES or is_there(path.parts[0])
    if on_disk or not HUB_ID.fullmatch(source):
        return [Problem(f"{FLAG}: model not found", source, CHECK_PATH)]
    return _hub_problems(source)


def _prefixed(flag: str, error: CoinageError) -> list[Problem]:
    """Return an error's problems, with the flag in front."""
    return [replace(problem, what=f"{flag}: {problem.what}") for problem in error.problems]


def settings_problems(config: TrainConfig) -> list[Problem]:
    """Find flags that the model's settings contradict; what they do not say is seen when it is loaded."""
    model = config.model
    problems = prediction_problems(config, prediction_of(model))
    if model.clip_skip and FACTS[model.family].reads_clip_skip:
        try:
            check_clip_skip(model, text_encoder_sizes(model)[0].layers)
        except CoinageError as error:
            problems += error.problems
    return problems


def prediction_problems(config: TrainConfig, predicts: str | None) -> list[Problem]:
    """Find losses that are for another kind of prediction; nothing is known of None."""
    if config.loss.scale_v and predicts == "epsilon":
        what = "--scale_v_pred_loss_like_noise_pred is for models that predict v"
        hint = "leave it out, or pass --v_parameterization if the model does"
        return [Problem(what, config.model.source, hint)]
    if config.loss.v_like and predicts == "v_prediction":
        what = "--v_pred_like_loss is for models that predict the noise"
        return [Problem(what, config.model.source, "leave it out")]
    return []


def vae_problems(model: ModelConfig) -> list[Problem]:
    """Find out whether what `--vae` names holds a VAE, by names alone."""
    if model.vae is None:
        return []
    path = Path(model.vae)
    if is_folder(path):
        return _vae_folder_problems(path)
    if is_file(path):
        return _vae_file_problems(path)
    if HUB_ID.fullmatch(model.vae) and path.suffix not in FILE_SUFFIXES:
        return []
    return [Problem("--vae: not found", model.vae, CHECK_PATH)]


def _vae_folder_problems(path: Path) -> list[Problem]:
    hint = "give a VAE file, or a diffusers folder or hub id with a VAE at its root or in vae/"
    places = [place for place in (path, path / "vae") if (place / "config.json").is_file()]
    if not places:
        return [Problem("--vae: there is no VAE in this folder", str(path), hint)]
    folder = places[0]
    try:
        kind = read_config(folder / "config.json").get("_class_name", VAE_CLASS)
    except CoinageError as error:
        return _prefixed("--vae", error)
    if kind != VAE_CLASS:
        return [Problem(f"--vae: this is not {VAE_CLASS} but {kind}", str(folder), hint)]
    if not any(file.suffix in FILE_SUFFIXES for file in folder.iterdir()):
        what = "--vae: the folder has settings but no weights"
        return [Problem(what, str(folder), "download it again")]
    return []


def _vae_file_problems(path: Path) -> list[Problem]:
    try:
        names = tensor_names(path)
    except CoinageError as error:
        return _prefixed("--vae", error)
    except OSError as error:
        return [Problem(f"--vae: cannot read the file: {error.strerror}", str(path))]
    if any(name.removeprefix(VAE).startswith(VAE_BEGIN) for name in names):
        return []
    hint = "give a VAE file, a diffusers folder or a hub id"
    return [Problem("--vae: the file does not contain a VAE", str(path), hint)]


def _kind_problems(kind: Kind | None, model: ModelConfig) -> list[Problem]:
    if kind is None or kind.family == model.family:
        return []
    problem = wrong_kind(kind, model.family, model.source)
    return [replace(problem, what=f"{FLAG}: {problem.what}")]


def _hub_problems(source: str) -> list[Problem]:
    """Find out whether a hub id is in the local cache or on the hub; one request, no retries."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError

    if isinstance(try_to_load_from_cache(source, "model_index.json"), str):
        return []
    reason, hint = "not in the local cache, and the hub cannot be reached", CHECK_PATH
    if not constants.HF_HUB_OFFLINE:
        try:
            reach_hub()
            if HfApi().file_exists(source, "model_index.json"):
                return []
            reason = "not found on the hub"
        except GatedRepoError:
            reason = "its repository on the hub is gated"
            hint = "accept the licence on its page, and log in with `hf auth login`"
        except Exception as error:  # noqa: BLE001 - whatever the network raises means the same
            log.debug("hub: %s", error)
    return [Problem(f"{FLAG}: no such folder, and {reason}", source, hint)]
