"""Files compared in other tools with what was trained: the same conditioning, to the last digits."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.embeddings.base_model import base_of_model, log_other_base
from coinage.embeddings.in_diffusers import conditioning_in_diffusers, used_names
from coinage.embeddings.pairs import how_to_fit
from coinage.embeddings.reading import open_file
from coinage.embeddings.tools import Verdict, verdicts
from coinage.embeddings.word import Word, vectors_for
from coinage.errors import CoinageError, Findings, reason_of
from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.facts import FACTS, TextEncoderFacts
from coinage.models.families import FAMILIES
from coinage.models.loading import reported_as
from coinage.models.token_embedding import table_of
from coinage.text.placeholder import CHUNK, encoding_problems

log = logging.getLogger("coinage")
TOLERANCE = 1e-5  # of hidden states in float32
WHERE_TO_PUT_FILES = {
    "AUTOMATIC1111": "put it into embeddings/",
    "Forge": "put it into embeddings/",
    "ComfyUI": "put it into models/embeddings/",
    "InvokeAI": "add it in the model manager",
    "SD.Next": "put it into models/embeddings/",
}
COMPARED = (*WHERE_TO_PUT_FILES, "diffusers")
AT_THE_END = "  # pools at the end of the text, as in training"


@dataclass(frozen=True, slots=True)
class Check:
    """The comparison of a file in one tool.

    Attributes:
        tool: its name.
        loads: whether it takes the file.
        difference: largest difference of its conditioning from the trainer's own; None if the file
            does not load, or could not be tried.
        same: whether that is within rounding.
        write: what to write in a prompt there.
        why: if it does not load, could not be tried, or loads only with care: the reason.
        in_part: the tool has no words for a text encoder that a model may lack as well, and leaves
            out that one's vectors; there is nothing to compare.
    """

    tool: str
    loads: bool
    difference: float | None
    same: bool
    write: str
    why: str
    in_part: bool = False

    @property
    def untried(self) -> bool:
        """True where the check itself failed, which says nothing about the file."""
        return self.loads and self.difference is None and not self.in_part


@dataclass(frozen=True, slots=True)
class Verification:
    """The comparison of a file in every tool.

    Attributes:
        token: the word in diffusers.
        checks: one for each tool.
    """

    token: str
    checks: tuple[Check, ...]


def verify_file(path: Path, model: ModelConfig, token: str | None = None) -> Verification:
    """Load a model and a file, and compare what each tool makes of a prompt with the file's word.

    Args:
        path: the file.
        model: to load.
        token: the word; default: the file's own, or the stem of its name.

    Raises:
        ConfigError: the word is not text in UTF-8.
        CoinageError: the file or the model cannot be read, or they do not belong together.
    """
    word, family = open_file(path, token=token).usable_word(), FAMILIES[model.family]
    parts = family.load(model, torch.float32)
    word = _word_for(word, parts.keys, path)
    for (key, rows), encoder in zip(word.vectors.items(), parts.text_encoders, strict=True):
        width = table_of(encoder).shape[1]
        if rows.shape[1] != width:
            raise CoinageError(
                f"{key} is {rows.shape[1]} wide in the file, and {width} in the model",
                str(path),
                "give the word's own model",
            )
    base = base_of_model(model, parts.schedule.prediction_type)
    log_other_base(str(path), word.metadata, base)
    token = token or word.token or path.stem
    Findings(errors=encoding_problems([("--token", token)])).raise_errors()
    with reported_as("a prompt", model.source, "cannot encode"):
        checks = verify(path, family, parts, word, token)
    return Verification(token, tuple(checks))


def _word_for(word: Word, keys: Sequence[str], path: Path) -> Word:
    """Return a word with vectors under the model's own keys.

    Raises:
        CoinageError: it has none for a text encoder.
    """
    vectors = {}
    for key in keys:
        rows = vectors_for(word.vectors, key)
        if rows is not None:
            vectors[key] = rows
    if len(vectors) < len(keys):
        has, takes = ", ".join(word.vectors), ", ".join(keys)
        raise CoinageError(
            f"the file has {has}, and the model takes {takes}",
            str(path),
            how_to_fit(word.vectors, keys) if len(keys) > 1 else "give the word's own model",
        )
    return replace(word, vectors=vectors)


@torch.no_grad()
def verify(
    path: Path, family: ModelFamily, parts: Components, word: Word, token: str
) -> list[Check]:
    """Load a file as each tool does, and compare what its prompts become.

    If a tool could not be tried, whatever the reason, its check loads and has no difference.

    Args:
        path: the file.
        family: of the model.
        parts: the model's; they are as before afterwards.
        word: what was trained, rounded as the file is; on the CPU.
        token: the word in diffusers, and in the trainer's own prompts.
    """
    widths = tuple(table_of(encoder).shape[1] for encoder in parts.text_encoders)
    comparison = _Comparison(path, family, replace(parts, chunks=1), word, token)
    return [comparison.check(verdict) for verdict in verdicts(path, family.name, widths, token)]


@dataclass(slots=True)
class _Comparison:
    """The trainer's own conditioning of a prompt, and each tool's beside it.

    Most tools take the very same vectors, and equal vectors give equal conditioning: `encoded`
    keeps vectors and conditioning of those encoded before, the trainer's own first.
    """

    path: Path
    family: ModelFamily
    parts: Components
    word: Word
    token: str
    encoded: list[tuple[list[Tensor], Conditioning]] = field(default_factory=list)

    def __post_init__(self) -> None:
        vectors = [self.word.vectors[key] for key in self.parts.keys]
        self.encoded.append((vectors, self._encode(vectors)))

    def check(self, verdict: Verdict) -> Check:
        """Return the comparison in one tool."""
        loads, why = verdict.loads, verdict.why
        if verdict.tool == "diffusers" and (used := used_names(self.parts, self.token)):
            names = ", ".join(used)
            loads = False
            why = f"{names} is already in the model's vocabulary; give it another name there."
        difference = None
        trained = self.encoded[0][1]
        in_part = loads and self._leaves_out(verdict)
        if loads and not in_part:
            try:
                difference = _difference(trained, self._conditioning_in(verdict))
            except Exception as error:  # noqa: BLE001 - it says nothing about the file
                why = reason_of(error)
        same = difference is not None and difference <= _tolerance(trained, self.parts)
        return Check(verdict.tool, loads, difference, same, verdict.write, why, in_part)

    def _leaves_out(self, verdict: Verdict) -> bool:
        """Return whether a tool takes all vectors but those of text encoders that models may lack."""
        optional = {one.key for one in self.family.facts.text_encoders if one.optional}
        left_out = set(self.parts.keys) - set(verdict.vectors)
        return bool(left_out) and left_out <= optional

    def _conditioning_in(self, verdict: Verdict) -> Conditioning | None:
        """Return a tool's conditioning; None if its vectors do not even fit into our prompt."""
        if verdict.tool == "diffusers":
            prompt = prompt_for(self.token, self.word.num_vectors)
            return conditioning_in_diffusers(self.path, self.family, self.parts, self.token, prompt)
        if set(verdict.vectors) != set(self.parts.keys):
            return None
        vectors = [verdict.vectors[key] for key in self.parts.keys]
        for before, conditioning in self.encoded:
            if all(map(torch.equal, before, vectors)):
                return conditioning
        if any(len(rows) != self.word.num_vectors for rows in vectors):
            return None
        self.encoded.append((vectors, self._encode(vectors)))
        return self.encoded[-1][1]

    def _encode(self, vectors: Sequence[Tensor]) -> Conditioning:
        """Return the trainer's conditioning of a prompt, with these vectors for the word."""
        with self.parts.with_words([(self.token, self.word.num_vectors)], vectors):
            prompt = prompt_for(self.token, self.word.num_vectors)
            return self.family.encode(self.parts, [prompt], torch.zeros(1, 6, dtype=torch.int64))


def prompt_for(token: str, num_vectors: int) -> str:
    """Return a text with the word, once or twice, that fits into the 75 tokens of a prompt."""
    if 2 * num_vectors + 12 <= CHUNK:
        return f"a photo of {token}, a red hat on {token}"
    return f"a {token}" if num_vectors < CHUNK else token


def _tolerance(trained: Conditioning, parts: Components) -> float:
    """Return what rounding may do, given the precision that the text encoders compute in."""
    device = parts.device.type
    if not torch.is_autocast_enabled(device):
        return TOLERANCE
    largest = float(trained.encoder_hidden_states.float().abs().max())
    return 2 * torch.finfo(torch.get_autocast_dtype(device)).eps * largest


def _difference(a: Conditioning, b: Conditioning | None) -> float:
    """Return the largest difference of two conditionings; infinite if they do not match in shape."""
    if b is None:
        return float("inf")
    pairs = [(a.encoder_hidden_states, b.encoder_hidden_states)]
    if a.pooled is not None and b.pooled is not None:
        pairs.append((a.pooled, b.pooled))
    differences = []
    for x, y in pairs:
        if x.shape != y.shape:
            return float("inf")
        differences.append(float((x.float() - y.float()).abs().max()))
    return float(torch.tensor(differences, dtype=torch.float64).max())  # not a number if one is not


def usage(
    path: Path, family: str, checks: Sequence[Check], token: str, *, negative: bool = False
) -> list[str]:
    """Return how to use a file: a line for each tool that takes it, and the calls for diffusers.

    Args:
        path: the file.
        family: of the model.
        checks: what `verify` returned.
        token: the word in diffusers.
        negative: whether it belongs in the negative prompt.
    """
    place = " in the negative prompt" if negative else ""
    lines = []
    for check in checks:
        if check.same and check.tool in WHERE_TO_PUT_FILES:
            where = WHERE_TO_PUT_FILES[check.tool]
            caution = f". {check.why}" if check.why else ""
            lines.append(f"{check.tool}: {where}; write {check.write}{place}{caution}")
    if any(check.same and check.tool == "diffusers" for check in checks):
        lines += _diffusers_lines(path, family, token)
        if negative:
            lines.append(f"  pipe(prompt, negative_prompt={_quoted(token)})")
    return lines


def _diffusers_lines(path: Path, family: str, token: str) -> list[str]:
    name, word = _quoted(path.as_posix()), _quoted(token)
    if len(FACTS[family].keys) == 1:
        return [f"diffusers: pipe.load_textual_inversion({name}, token={word})"]
    read_halves = f"safetensors.torch.load_file({name})"
    if path.suffix != ".safetensors":
        read_halves = f"torch.load({name}, weights_only=True)"
    calls = [f"halves = {read_halves}"]
    for encoder in FACTS[family].text_encoders:
        calls.append(
            f'pipe.load_textual_inversion(halves["{encoder.key}"], token={word}, '
            f"text_encoder=pipe.{encoder.folder}, tokenizer=pipe.{encoder.tokenizer_folder})"
        )
    calls += [_pooling(encoder) for encoder in FACTS[family].text_encoders if encoder.pools]
    return ["diffusers:", *(f"  {call}" for call in calls)]


def _pooling(encoder: TextEncoderFacts) -> str:
    """Return the line that has a text encoder pool at the end of a text.

    Without it transformers may pool at the largest id, which is the word's. Since its version 5.6 the
    class without a projection is its own `text_model`.
    """
    name = f"pipe.{encoder.folder}"
    model = f'getattr({name}, "text_model", {name})'
    if encoder.kind == "projected":
        model = f"{name}.text_model"
    return f"{model}.eos_token_id = pipe.{encoder.tokenizer_folder}.eos_token_id{AT_THE_END}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
