"""Whether a file does in other tools what was trained: the same conditioning, to the last digits."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coinage.embeddings.consumers import Verdict, verdicts
from coinage.embeddings.file import EmbeddingFile
from coinage.embeddings.reading import read
from coinage.errors import reason_of
from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.clip_text import hidden_states
from coinage.models.facts import FACTS
from coinage.models.token_embedding import table_of
from coinage.text.placeholder import CHUNK, Placeholder, placeholders_for

log = logging.getLogger("coinage")
TOLERANCE = 1e-5  # of hidden states in float32
PLACES = {
    "AUTOMATIC1111": "put it into embeddings/",
    "Forge": "put it into embeddings/",
    "ComfyUI": "put it into models/embeddings/",
    "InvokeAI": "add it in the model manager",
    "SD.Next": "put it into models/embeddings/",
}
COMPARED = (*PLACES, "diffusers")


def prompt_for(token: str, num_vectors: int) -> str:
    """A text with the word, once or twice, that fits into the 75 tokens of a prompt."""
    if 2 * num_vectors + 12 <= CHUNK:
        return f"a photo of {token}, a red hat on {token}"
    return f"a {token}" if num_vectors < CHUNK else token


@dataclass(frozen=True, slots=True)
class Check:
    """One tool and the file.

    Attributes:
        tool: its name.
        loads: whether it takes the file.
        difference: largest difference of its conditioning from the trainer's own; None where it does not load, or
            could not be tried.
        same: whether that is within rounding.
        write: what to write in a prompt there.
        why: where it does not load, could not be tried, or only loads with care: the reason.
    """

    tool: str
    loads: bool
    difference: float | None
    same: bool
    write: str
    why: str

    @property
    def untried(self) -> bool:
        """Whether our own check failed, which says nothing of the file."""
        return self.loads and self.difference is None


@torch.no_grad()
def verify(
    path: Path, family: ModelFamily, parts: Components, word: EmbeddingFile, token: str
) -> list[Check]:
    """Load a file as each tool does, and compare what its prompts become.

    A tool that this could not be tried in, whatever the reason, loads the file and has no difference.

    Args:
        path: the file.
        family: of the model.
        parts: the model's; they are as before afterwards.
        word: what was trained, rounded as the file is; on the CPU.
        token: the word in diffusers, and in the trainer's own prompts.
    """
    whole = replace(parts, chunks=1)
    widths = tuple(table_of(encoder).shape[1] for encoder in parts.text_encoders)
    (placeholder,) = placeholders_for(
        [(token, word.num_vectors)], len(table_of(parts.text_encoders[0]))
    )
    trained = [word.vectors[key] for key in family.embedding_keys]
    own = _conditioning(family, whole, placeholder, trained)
    # Most tools take the very same vectors, and the same vectors give the same conditioning
    known = [(trained, own)]

    def found_by(verdict: Verdict) -> Conditioning | None:
        """The conditioning of one tool; None where its vectors cannot even be put into a prompt like ours."""
        if verdict.tool == "diffusers":
            return _diffusers_conditioning(path, family, whole, token, word.num_vectors)
        if set(verdict.vectors) != set(family.embedding_keys):
            return None
        rows = [verdict.vectors[key] for key in family.embedding_keys]
        found = next((cond for before, cond in known if all(map(torch.equal, before, rows))), None)
        if found is None and all(len(row) == word.num_vectors for row in rows):
            found = _conditioning(family, whole, placeholder, rows)
            known.append((rows, found))
        return found

    def check(verdict: Verdict) -> Check:
        loads, why = verdict.loads, verdict.why
        if verdict.tool == "diffusers" and (used := _used_names(parts, token)):
            loads, why = (
                False,
                f"{', '.join(used)} is already in the model's vocabulary; give it another name there.",
            )
        difference = None
        if loads:
            try:
                found = found_by(verdict)
                difference = _difference(own, found) if found else float("inf")
            except Exception as error:  # noqa: BLE001 - it says nothing of the file
                why = reason_of(error)
        same = difference is not None and difference <= _tolerance(own, parts)
        return Check(verdict.tool, loads, difference, same, verdict.write, why)

    return [check(verdict) for verdict in verdicts(path, family.name, widths, token)]


def _used_names(parts: Components, token: str) -> list[str]:
    """Names for which diffusers refuses a word: that of its first and second vector, where a tokenizer has them already."""
    known = {name for tokenizer in parts.tokenizers for name in tokenizer.get_vocab()}
    return [name for name in (token, f"{token}_1") if name in known]


def _tolerance(own: Conditioning, parts: Components) -> float:
    """What rounding may do, given what the text encoders compute in."""
    kind = parts.device.type
    if torch.is_autocast_enabled(kind):
        largest = float(own.encoder_hidden_states.float().abs().max())
        return 2 * torch.finfo(torch.get_autocast_dtype(kind)).eps * largest
    return TOLERANCE


def _difference(a: Conditioning, b: Conditioning) -> float:
    pairs = [(a.encoder_hidden_states, b.encoder_hidden_states)]
    if a.pooled is not None and b.pooled is not None:
        pairs.append((a.pooled, b.pooled))
    return max(
        float((x.float() - y.float()).abs().max()) if x.shape == y.shape else float("inf")
        for x, y in pairs
    )


def _conditioning(
    family: ModelFamily, parts: Components, placeholder: Placeholder, rows: Sequence[Tensor]
) -> Conditioning:
    """What the trainer makes of a prompt, with these vectors for the word."""
    with parts.with_words([(placeholder.token, placeholder.num_vectors)], rows):
        return family.encode(
            parts,
            [prompt_for(placeholder.token, placeholder.num_vectors)],
            torch.zeros(1, 6, dtype=torch.int64),
        )


def _diffusers_conditioning(
    path: Path, family: ModelFamily, parts: Components, token: str, num_vectors: int
) -> Conditioning:
    """Load the file into a diffusers pipeline over copies of tokenizers and token tables; all other weights are shared."""
    encoders = tuple(_plain_copy(encoder) for encoder in parts.text_encoders)
    tokenizers: list[Any] = [copy.deepcopy(tokenizer) for tokenizer in parts.tokenizers]
    for tokenizer, row_format in zip(tokenizers, parts.row_formats, strict=True):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(row_format.pad)
    pipe: Any = family.pipeline(
        replace(parts, text_encoders=encoders, tokenizers=tuple(tokenizers)), None
    )
    with torch.autocast(parts.device.type, enabled=False):  # a tool loads before it computes
        _load_in_diffusers(pipe, path, family, token)
    for encoder in encoders:
        _look_up_on_the_cpu(encoder, parts.device)
    prompt = prompt_for(token, num_vectors)
    # diffusers' own looks for a module that transformers 5 has not
    if parts.clip_skip not in (None, 1):
        text = pipe.maybe_convert_prompt(prompt, tokenizers[0])
        ids = tokenizers[0](
            text, padding="max_length", max_length=CHUNK + 2, truncation=True, return_tensors="pt"
        ).input_ids
        return Conditioning(hidden_states(encoders[0], ids.to(parts.device), parts.clip_skip))
    found = pipe.encode_prompt(
        prompt, device=parts.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Conditioning(found[0], found[2] if family.facts.takes_sizes else None)


def _load_in_diffusers(pipe: Any, path: Path, family: ModelFamily, token: str) -> None:
    """Make the calls that `usage` tells."""
    if len(family.embedding_keys) == 1:
        pipe.load_textual_inversion(
            str(path.parent), weight_name=path.name, token=token, local_files_only=True
        )
        return
    halves = read(path).vectors
    pipe.load_textual_inversion(
        halves["clip_l"], token=token, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    pipe.load_textual_inversion(
        halves["clip_g"], token=token, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )
    # Else it pools at the largest id, which is the word.
    pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id


def _plain_copy(encoder: Any) -> Any:
    """A text encoder as it comes from its class, without what a run has hung on to it: hooks, wrappers, checkpointing.

    Its weights are the same in memory, but for a token table of its own, which is on the CPU and may grow: there is room
    for it, and every number is computed in its own precision.
    """
    with torch.device("meta"):
        copied = type(encoder)(copy.deepcopy(encoder.config))
    table = table_of(encoder).detach().cpu().clone()
    copied.set_input_embeddings(nn.Embedding.from_pretrained(table))
    own = copied.get_input_embeddings()
    for name, module in copied.named_modules():
        if module is not own:
            _share_tensors(module, encoder.get_submodule(name))
    return copied.eval()


def _share_tensors(module: nn.Module, source: nn.Module) -> None:
    """Give a module the very tensors that another has, which its children may have not."""
    for name, parameter in source.named_parameters(recurse=False):
        setattr(module, name, parameter)
    for name, buffer in source.named_buffers(recurse=False):
        setattr(module, name, buffer)


def _look_up_on_the_cpu(encoder: Any, device: torch.device) -> None:
    """Have a text encoder's table stay on the CPU, and hand over the rows of a prompt alone."""
    table = encoder.get_input_embeddings()
    table.register_forward_pre_hook(lambda _, ids: tuple(given.cpu() for given in ids))
    table.register_forward_hook(lambda _, __, rows: rows.to(device))


def usage(
    path: Path, family: str, checks: Sequence[Check], token: str, *, negative: bool = False
) -> list[str]:
    """How to use a file: a line for each tool that takes it, with what to heed there, and the calls for diffusers.

    Args:
        path: the file.
        family: of the model.
        checks: what `verify` found.
        token: the word in diffusers.
        negative: whether it belongs in the negative prompt.
    """
    place, call = (
        (
            " in the negative prompt",
            [f"  pipe(prompt, negative_prompt={json.dumps(token, ensure_ascii=False)})"],
        )
        if negative
        else ("", [])
    )
    name, word = (
        json.dumps(path.as_posix(), ensure_ascii=False),
        json.dumps(token, ensure_ascii=False),
    )
    takers = [c for c in checks if c.same and c.tool in PLACES]
    lines = [
        f"{c.tool}: {PLACES[c.tool]}; write {c.write}{place}{f'. {c.why}' if c.why else ''}"
        for c in takers
    ]
    if not any(c.same for c in checks if c.tool == "diffusers"):
        return lines
    if len(FACTS[family].keys) == 1:
        return [*lines, f"diffusers: pipe.load_textual_inversion({name}, token={word})", *call]
    read_with = (
        "safetensors.torch.load_file({})"
        if path.suffix == ".safetensors"
        else "torch.load({}, weights_only=True)"
    )
    calls = [
        f"halves = {read_with.format(name)}",
        f'pipe.load_textual_inversion(halves["clip_l"], token={word}, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)',
        f'pipe.load_textual_inversion(halves["clip_g"], token={word}, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)',
        "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id  # pools at the end of the text, as in training",
    ]
    return [*lines, "diffusers:", *(f"  {line}" for line in calls), *call]
