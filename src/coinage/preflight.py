"""Everything that can be known to be wrong before a model is loaded, found together. No torch."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coinage.clip_tokenizer import ClipTokenizer, read_tokenizer
from coinage.config import ModelConfig, TrainConfig, WordConfig
from coinage.data.examine import examine
from coinage.data.sample import Sample
from coinage.disk import disk_problems
from coinage.embeddings.naming import naming_problems
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.model_files import HUB_ID, Kind, hub_folder, kind_of_file, kind_of_folder, reach_hub, wrong_kind
from coinage.preview_set import default_prompts
from coinage.prompts import Prompt, read_prompts
from coinage.run_lock import Lock, claim
from coinage.state_files import find_state
from coinage.text_files import is_file, is_folder, is_there
from coinage.tokenizer_files import find_tokenizer
from coinage.words import CHUNK, pieces_of, taken

log = logging.getLogger("coinage")
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
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
    found.errors += environment_problems() + model_problems(config.model) + vae_problems(config.model)
    tokenizer = None if found.errors else tokenizer_of(config.model.source, found, config.model.tokenizer_cache)
    known = tokenizer.get_vocab() if tokenizer else {}
    word, chunks = config.word, config.model.max_token_length // CHUNK
    wrong = word_problems(word, known, config.model.source)
    found.errors += wrong
    checked = examine(config.data, config.loop.seed, None if wrong else word.token, word.num_vectors, tokenizer, chunks, found)
    found.errors += name_problems(config.word)
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
    return [] if fine else [Problem(f"SOURCE_DATE_EPOCH={value} is no time", hint="seconds since 1970, or leave it out")]


def tokenizer_of(source: str, findings: Findings, cache: Path | None = None) -> ClipTokenizer | None:
    """The tokenizer of a model, without the model."""
    try:
        return read_tokenizer(find_tokenizer(source, "tokenizer", cache))
    except CoinageError as error:
        findings.errors += error.problems
    return None


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
        if not HUB_ID.fullmatch(model.source) or path.suffix in FILE_SUFFIXES or is_there(path.parts[0]):
            return [Problem(f"{flag}: model not found", model.source, "check the path; a hub id looks like owner/name")]
        problems = _hub_problems(model.source, flag)
        path = hub_folder(model.source) or path
        if problems or not path.is_dir():
            return problems
    try:
        kind = kind_of_folder(path) if is_folder(path) else kind_of_file(path, own_vae=model.vae is None)
    except CoinageError as error:
        return [Problem(f"{flag}: {problem.what}", problem.where, problem.hint) for problem in error.problems]
    except OSError as error:
        return [Problem(f"{flag}: cannot read the file: {error.strerror}", model.source)]
    return _kind_problems(kind, model, flag)


def vae_problems(model: ModelConfig) -> list[Problem]:
    """Whether what `--vae` names can be there."""
    path = Path(model.vae or ".")
    if is_there(path) or (HUB_ID.fullmatch(model.vae or "") and path.suffix not in FILE_SUFFIXES):
        return []
    return [Problem("--vae: not found", model.vae or "", "check the path; a hub id looks like owner/name")]


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
    return [Problem(f"{flag}: no such folder, and {reason}", source, "check the path; a hub id looks like owner/name")]


def word_problems(word: WordConfig, vocabulary: Iterable[str], where: str) -> list[Problem]:
    """Whether the word is new to the model's vocabulary, and its start is there."""
    problems = []
    token = word.token
    if not token.strip() or token != token.strip() or re.search(r"\s", token):
        problems.append(Problem(f"--token_string {token!r} must be one word", hint="for example mychar"))
    if word.init_file and not is_file(word.init_file):
        problems.append(Problem("--weights: file not found", str(word.init_file)))
    if word.init_word is None and word.init_file is None and not word.search:
        hint = "give --init_word with a known word close to the concept, such as girl, or --weights"
        problems.append(Problem("the word has nothing to start from", hint=hint))
    return problems + vocabulary_problems(pieces_of(token, word.num_vectors), vocabulary, where)


def vocabulary_problems(names: Iterable[str], vocabulary: Iterable[str], where: str) -> list[Problem]:
    """Whether a model has any of the word's names already."""
    used = taken(names, vocabulary)
    hint = "choose a word of your own, such as mychar"
    return [Problem(f"--token_string: {', '.join(used)} is already in the model's vocabulary", where, hint)] if used else []


def name_problems(word: WordConfig) -> list[Problem]:
    """Whether the output name can be a file name."""
    if word.output_name and not re.search(r'[<>:"/\\|?*\x00-\x1f]', word.output_name):
        return []
    return [Problem(f"--output_name {word.output_name!r} is no file name", hint="use letters, digits, - and _")]


def output_problems(folder: Path, flag: str = "--output_dir") -> list[Problem]:
    """Make the folder and try to write in it: hours later would be too late to find out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        return [Problem(f"{flag}: cannot write there: {error.strerror}", str(folder), "choose another folder")]


def _prompts(config: TrainConfig, samples: Sequence[Sample], tokenizer: ClipTokenizer | None) -> list[Prompt]:
    """The prompts of previews: those of the file; a set of our own, where previews are to be drawn and none are given."""
    preview = config.preview
    if preview.prompts:
        return read_prompts(preview.prompts, preview.sampler)
    if not (preview.automatic or preview.every_n_steps or preview.every_n_epochs or preview.at_first):
        return []

    def knows(word: str) -> bool:
        return tokenizer is None or len(tokenizer.encode(word, add_special_tokens=False)) == 1

    return default_prompts(samples, config.word, config.data.datasets[0].resolution_wh, preview, knows)
