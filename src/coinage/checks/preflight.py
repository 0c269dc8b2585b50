"""Everything that can be known to be wrong before a model is loaded, found together. No torch."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coinage.checks.disk import disk_problems
from coinage.checks.run_length import fit_into_run
from coinage.config import ModelConfig, TrainConfig, WordConfig
from coinage.data.default_prompts import default_prompts
from coinage.data.examine import examine
from coinage.data.sample import Sample
from coinage.embeddings.naming import naming_problems
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.models.detect import (
    VAE,
    Kind,
    kind_of_file,
    kind_of_folder,
    pickled_names,
    read_config,
    safetensors_shapes,
    wrong_kind,
)
from coinage.models.facts import FACTS
from coinage.models.hub_files import HUB_ID, hub_folder, local_path, reach_hub
from coinage.models.text_encoder_sizes import text_encoder_sizes
from coinage.models.tokenizer_files import find_tokenizer
from coinage.optim.table import remark_on_optimizer
from coinage.runs.lock import Lock, claim
from coinage.runs.names import name_problems
from coinage.runs.states import find_state
from coinage.system.text_files import is_file, is_folder, is_there, no_file
from coinage.text.clip_tokenizer import ClipTokenizer, read_tokenizer
from coinage.text.init_words import check_init_word
from coinage.text.placeholder import CHUNK, pieces_of, vocabulary_problems
from coinage.text.prompts import Prompt, read_prompts

log = logging.getLogger("coinage")
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
# A VAE is told by the latter, in every layout
VAE_CLASS, VAE_BEGIN = "AutoencoderKL", "decoder.conv_in"
MODEL_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks found and read on the way."""

    samples: tuple[Sample, ...]
    prompts: tuple[Prompt, ...]
    warnings: tuple[Problem, ...]
    state: Path | None = None  # to go on from
    lock: Lock | None = None  # on the run's name, for as long as this is kept

    def release(self) -> None:
        """Give the run's name free for other runs."""
        if self.lock:
            self.lock.release()


def check(config: TrainConfig, findings: Findings | None = None, *, alone: bool = True) -> Checked:
    """Check model, word, images, captions, output folder and prompts.

    Args:
        config: the run.
        findings: what is known to be wrong already; its warnings are passed on.
        alone: nothing else is written beside it; otherwise the disk is left to `disk_problems` of all runs.

    Raises:
        ConfigError: all errors together.
    """
    found = findings or Findings()
    found.errors += environment_problems() + vae_problems(config.model)
    found.errors += model_problems(config.model) or settings_problems(config)
    remark_on_optimizer(config.optim, found)
    tokenizer = (
        None
        if found.errors
        else tokenizer_of(config.model.source, found, config.model.tokenizer_cache)
    )
    known = tokenizer.get_vocab() if tokenizer else {}
    word, chunks = config.word, config.model.max_token_length // CHUNK
    wrong = word_problems(word, known, config.model.source)
    found.errors += wrong
    checked = examine(
        config.data,
        config.loop.seed,
        None if wrong else word.token,
        word.num_vectors,
        tokenizer,
        chunks,
        found,
    )
    found.errors += name_problems(config)
    if tokenizer:
        check_init_word(word, [tokenizer, *second_tokenizer(config.model)], found)
    if any(sample.repeats for sample in checked.samples):
        fit_into_run(config, checked.samples, found)
    if not wrong:
        found.warnings += naming_problems(word.token, word.output_name, word.num_vectors, tokenizer)
    prompts: list[Prompt] = []
    try:
        prompts = _prompts(config, checked.samples, tokenizer)
    except ConfigError as error:
        found.errors += error.problems
    state = None if found.errors else find_state(config, checked.samples, found)
    if not found.errors:  # writes nothing while anything else is wrong
        found.errors += output_problems(config.save.output_dir)
        found.errors += output_problems(config.log.dir, "--logging_dir") if config.log.dir else []
        found.warnings += disk_problems((config, checked.samples)) if alone else []
    lock = None if found.errors else claim(config, state, found)
    found.raise_errors()
    return Checked(checked.samples, tuple(prompts), tuple(found.warnings), state, lock)


def environment_problems() -> list[Problem]:
    """Whether SOURCE_DATE_EPOCH is a time: libraries fail on others in places that say nothing of it."""
    value = os.environ.get("SOURCE_DATE_EPOCH", "0")
    fine = value.isdecimal() and int(value) < 2**32
    return (
        []
        if fine
        else [
            Problem(
                f"SOURCE_DATE_EPOCH={value} is not a time",
                hint="seconds since 1970, or leave it out",
            )
        ]
    )


def tokenizer_of(
    source: str | Path, findings: Findings, cache: Path | None = None
) -> ClipTokenizer | None:
    """Return the tokenizer of a model, without the model; or that of a folder which is given as a path."""
    try:
        return read_tokenizer(
            source if isinstance(source, Path) else find_tokenizer(source, "tokenizer", cache)
        )
    except CoinageError as error:
        findings.errors += error.problems
    return None


def second_tokenizer(model: ModelConfig) -> list[ClipTokenizer]:
    """Return a folder's tokenizers beside the first one, such as SDXL's; they may have other words."""
    tokenizers = []
    for encoder in FACTS[model.family].text_encoders[1:]:
        folder = Path(model.source) / encoder.tokenizer_folder
        tokenizer = tokenizer_of(folder, Findings()) if folder.is_dir() else None
        if tokenizer:
            tokenizers.append(tokenizer)
    return tokenizers


def model_problems(model: ModelConfig) -> list[Problem]:
    """Whether the source holds a model of the family that is asked for, told from names, shapes and settings."""
    path, flag = Path(model.source), "--pretrained_model_name_or_path"
    if is_folder(path):
        needed = [part for part in MODEL_PARTS if part != "vae" or model.vae is None]
        missing = [part for part in needed if not (path / part).is_dir()]
        if missing:
            what = f"{flag}: no diffusers model: {', '.join(missing)} missing"
            return [Problem(what, model.source, "give the folder with model_index.json")]
    elif not is_file(path):
        if (
            not HUB_ID.fullmatch(model.source)
            or path.suffix in FILE_SUFFIXES
            or is_there(path.parts[0])
        ):
            return [
                Problem(
                    f"{flag}: model not found",
                    model.source,
                    "check the path; a hub id looks like owner/name",
                )
            ]
        problems = _hub_problems(model.source, flag)
        path = hub_folder(model.source) or path
        if problems or not path.is_dir():
            return problems
    try:
        kind = (
            kind_of_folder(path)
            if is_folder(path)
            else kind_of_file(path, own_vae=model.vae is None)
        )
    except CoinageError as error:
        return [
            Problem(f"{flag}: {problem.what}", problem.where, problem.hint)
            for problem in error.problems
        ]
    except OSError as error:
        return [Problem(f"{flag}: cannot read the file: {error.strerror}", model.source)]
    return _kind_problems(kind, model, flag)


def settings_problems(config: TrainConfig) -> list[Problem]:
    """Find flags that the model's settings contradict; what they do not say is seen when it is loaded."""
    model = config.model
    problems = prediction_problems(config, prediction_of(model))
    if model.clip_skip and FACTS[model.family].reads_clip_skip:
        layers = text_encoder_sizes(model)[0].layers
        if layers and model.clip_skip > layers:
            what = f"--clip_skip {model.clip_skip}: the text encoder has {layers} layers"
            problems.append(Problem(what, model.source))
    return problems


def prediction_of(model: ModelConfig) -> str | None:
    """Return what a model predicts, `epsilon` or `v_prediction`; None where flag and settings do not say."""
    if model.prediction_type:
        return model.prediction_type
    folder = local_path(model.source)
    try:
        settings = read_config(folder / "scheduler" / "scheduler_config.json")
    except CoinageError:
        return None
    found = settings.get("prediction_type")
    return found if isinstance(found, str) else None


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
    return [
        Problem("--vae: not found", model.vae, "check the path; a hub id looks like owner/name")
    ]


def _vae_folder_problems(path: Path) -> list[Problem]:
    hint = "give a VAE file, or a diffusers folder or hub id with a VAE at its root or in vae/"
    folder = next(
        (place for place in (path, path / "vae") if (place / "config.json").is_file()), None
    )
    if folder is None:
        return [Problem("--vae: there is no VAE in this folder", str(path), hint)]
    try:
        kind = read_config(folder / "config.json").get("_class_name", VAE_CLASS)
    except CoinageError as error:
        return [
            Problem(f"--vae: {problem.what}", problem.where, problem.hint)
            for problem in error.problems
        ]
    if kind != VAE_CLASS:
        return [Problem(f"--vae: this is not {VAE_CLASS} but {kind}", str(folder), hint)]
    if not any(file.suffix in FILE_SUFFIXES for file in folder.iterdir()):
        return [
            Problem(
                "--vae: the folder has settings and no weights", str(folder), "download it again"
            )
        ]
    return []


def _vae_file_problems(path: Path) -> list[Problem]:
    try:
        names = (
            safetensors_shapes(path)
            if path.suffix.lower() == ".safetensors"
            else pickled_names(path)
        )
    except CoinageError as error:
        return [
            Problem(f"--vae: {problem.what}", problem.where, problem.hint)
            for problem in error.problems
        ]
    except OSError as error:
        return [Problem(f"--vae: cannot read the file: {error.strerror}", str(path))]
    if any(name.removeprefix(VAE).startswith(VAE_BEGIN) for name in names):
        return []
    return [
        Problem(
            "--vae: the file holds no VAE",
            str(path),
            "give a VAE file, a diffusers folder or a hub id",
        )
    ]


def _kind_problems(kind: Kind | None, model: ModelConfig, flag: str) -> list[Problem]:
    if kind is None or kind.family == model.family:
        return []
    problem = wrong_kind(kind, model.family, model.source)
    return [replace(problem, what=f"{flag}: {problem.what}")]


def _hub_problems(source: str, flag: str) -> list[Problem]:
    """Whether a hub id is in the local cache or on the hub; one request, no retries."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(source, "model_index.json"), str):
        return []
    reason = "not in the local cache, and the hub is out of reach"
    if not constants.HF_HUB_OFFLINE:
        try:
            reach_hub()
            if HfApi().file_exists(source, "model_index.json"):
                return []
            reason = "not found on the hub"
        except Exception as error:  # noqa: BLE001 - whatever the network raises means the same
            log.debug("hub: %s", error)
    return [
        Problem(
            f"{flag}: no such folder, and {reason}",
            source,
            "check the path; a hub id looks like owner/name",
        )
    ]


def word_problems(word: WordConfig, vocabulary: Iterable[str], where: str) -> list[Problem]:
    """Whether the word is new to the model's vocabulary, and its start is there."""
    problems = []
    token = word.token
    if not token.strip() or token != token.strip() or re.search(r"\s", token):
        problems.append(
            Problem(f"--token_string {token!r} must be one word", hint="for example mychar")
        )
    if word.init_file and not is_file(word.init_file):
        problems.append(Problem(f"--weights: {no_file(word.init_file)}", str(word.init_file)))
    if word.init_word is None and word.init_file is None and not word.search:
        hint = "give --init_word with a known word close to the concept, such as girl, or --weights"
        problems.append(Problem("no start word", hint=hint))
    return problems + vocabulary_problems(pieces_of(token, word.num_vectors), vocabulary, where)


def output_problems(folder: Path, flag: str = "--output_dir") -> list[Problem]:
    """Make the folder and try to write in it: hours later would be too late to find out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        reason = "this is a file, not a folder" if is_file(folder) else error.strerror
        return [
            Problem(f"{flag}: cannot write there: {reason}", str(folder), "choose another folder")
        ]


def _prompts(
    config: TrainConfig, samples: Sequence[Sample], tokenizer: ClipTokenizer | None
) -> list[Prompt]:
    """The prompts of previews, if any are to be drawn: those of the file, or a set of our own where none is given."""
    preview = config.preview
    if not (
        preview.automatic or preview.every_n_steps or preview.every_n_epochs or preview.at_first
    ):
        return []  # a file that GUIs name, and nobody reads, need not be there
    if preview.prompts:
        return read_prompts(preview.prompts, preview.sampler)

    def knows(word: str) -> bool:
        return tokenizer is None or len(tokenizer.encode(word, add_special_tokens=False)) == 1

    return default_prompts(
        samples, config.word, config.data.datasets[0].resolution_wh, preview, knows
    )
