"""Everything that can be known to be wrong before a model is loaded, found together. No torch."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coinage.config import PreviewConfig, TrainConfig, WordConfig
from coinage.data.scan import Sample, caption_problems, scan
from coinage.errors import ConfigError, Problem
from coinage.prompts import Prompt, read_prompts

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
MODEL_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks found and read on the way."""

    samples: tuple[Sample, ...]
    prompts: tuple[Prompt, ...]
    warnings: tuple[Problem, ...]


def check(config: TrainConfig) -> Checked:
    """Check model, word, captions, output folder and prompts.

    Raises:
        ConfigError: all errors together.
    """
    samples, errors = scan(config.data)
    errors = [*model_problems(config.model.source), *errors]
    warnings: list[Problem] = []
    for word in config.words:
        found = word_problems(word, Path(config.model.source))
        errors += found
        if samples and not found:
            wrong, doubtful = caption_problems(samples, word.token)
            errors += wrong
            warnings += doubtful
    errors += name_problems(config.words)
    prompts: list[Prompt] = []
    try:
        prompts = _prompts(config.preview)
    except ConfigError as error:
        errors += error.problems
    errors = errors or output_problems(config.save.output_dir)  # writes nothing while anything else is wrong
    if errors:
        raise ConfigError(errors)
    return Checked(tuple(samples), tuple(prompts), tuple(warnings))


def model_problems(source: str) -> list[Problem]:
    """Whether `source` is a diffusers folder, or can be a hub id."""
    path = Path(source)
    flag = "--pretrained_model_name_or_path"
    if path.is_dir():
        missing = [part for part in MODEL_PARTS if not (path / part).is_dir()]
        if missing:
            what = f"{flag}: no diffusers model: {', '.join(missing)} missing"
            return [Problem(what, str(path), "give the folder with model_index.json")]
        return []
    if path.is_file():
        hint = "convert it to a diffusers folder first"
        return [Problem(f"{flag}: checkpoint files are not supported yet", str(path), hint)]
    if HUB_ID.fullmatch(source) and path.suffix not in FILE_SUFFIXES and not Path(path.parts[0]).exists():
        return []
    return [Problem(f"{flag}: model not found", source, "check the path; a hub id looks like owner/name")]


def word_problems(word: WordConfig, model: Path) -> list[Problem]:
    """Whether the word is new to the model's vocabulary, and its start is there."""
    problems = []
    token = word.token
    if not token.strip() or token != token.strip() or re.search(r"\s", token):
        problems.append(Problem(f"--token_string {token!r} must be one word", hint="for example mychar"))
    if word.init_file and not word.init_file.is_file():
        problems.append(Problem("--weights: file not found", str(word.init_file)))
    if word.init_word is None and word.init_file is None:
        hint = "give --init_word with a known word close to the concept, such as girl, or --weights"
        problems.append(Problem("the word has nothing to start from", hint=hint))
    vocabulary = _vocabulary(model)
    names = (token, *(f"{token}{i}" for i in range(1, word.num_vectors)))
    taken = [name for name in names if {name.lower(), f"{name.lower()}</w>"} & vocabulary]
    if taken:
        hint = f"choose a word of your own, such as my{token.strip('<>')} or {token.strip('<>')}-{len(token)}x"
        problems.append(Problem(f"--token_string: {', '.join(taken)} is already in the model's vocabulary", str(model), hint))
    return problems


def _vocabulary(model: Path) -> set[str]:
    file = model / "tokenizer" / "vocab.json"
    if not file.is_file():
        return set()
    with file.open(encoding="utf-8") as stream:
        return set(json.load(stream))


def name_problems(words: Sequence[WordConfig]) -> list[Problem]:
    """Whether output names can be file names."""
    return [
        Problem(f"--output_name {word.output_name!r} is no file name", hint="use letters, digits, - and _")
        for word in words
        if not word.output_name or Path(word.output_name).name != word.output_name
    ]


def output_problems(folder: Path) -> list[Problem]:
    """Make the folder and try to write in it: hours later would be too late to find out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        return [Problem(f"--output_dir: cannot write there: {error.strerror}", str(folder), "choose another folder")]


def _prompts(config: PreviewConfig) -> list[Prompt]:
    if config.prompts is None:
        if config.every_n_steps or config.every_n_epochs or config.at_first:
            raise ConfigError([Problem("previews need --sample_prompts", hint="give a text file with one prompt per line")])
        return []
    return read_prompts(config.prompts, config.sampler)
