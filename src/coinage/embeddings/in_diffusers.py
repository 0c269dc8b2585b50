"""A word's file loaded in a diffusers pipeline, and the conditioning of a prompt there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coinage.embeddings.reading import read
from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.clip_text import hidden_states
from coinage.models.frozen import FrozenLinear
from coinage.models.token_embedding import table_of
from coinage.text.placeholder import CHUNK


def used_names(parts: Components, token: str) -> list[str]:
    """Return names for which diffusers refuses a word, as a tokenizer has them already.

    They are the names of the word's first and second vectors.
    """
    known: set[str] = set()
    for tokenizer in parts.tokenizers:
        known.update(tokenizer.get_vocab())
    return [name for name in (token, f"{token}_1") if name in known]


def conditioning_in_diffusers(
    path: Path, family: ModelFamily, parts: Components, token: str, prompt: str
) -> Conditioning:
    """Load a file into a diffusers pipeline and encode a prompt there.

    The pipeline has copies of tokenizers and token tables; all other weights are shared.

    Args:
        path: the file.
        family: of the model.
        parts: the model's; they are as before afterwards.
        token: the word.
        prompt: with the word in it.
    """
    encoders = tuple(_plain_copy(encoder) for encoder in parts.text_encoders)
    # Many times faster than a deep copy of the vocabulary, and the same
    tokenizers: list[Any] = [pickle.loads(pickle.dumps(each)) for each in parts.tokenizers]  # noqa: S301
    for tokenizer, row_format in zip(tokenizers, parts.row_formats, strict=True):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(row_format.pad)
    copies = replace(parts, text_encoders=encoders, tokenizers=tuple(tokenizers))
    pipe: Any = family.pipeline(copies, None)
    with torch.autocast(parts.device.type, enabled=False):  # a tool loads before it computes
        _load(pipe, path, family, token)
    for encoder in encoders:
        _look_up_on_the_cpu(encoder, parts.device)
    if parts.clip_skip not in (None, 1):
        # The pipeline's own clip skip looks for a module that transformers 5 does not have
        text = pipe.maybe_convert_prompt(prompt, tokenizers[0])
        ids = tokenizers[0](
            text, padding="max_length", max_length=CHUNK + 2, truncation=True, return_tensors="pt"
        ).input_ids
        return Conditioning(hidden_states(encoders[0], ids.to(parts.device), parts.clip_skip))
    # Some pipelines encode a negative prompt with it, and return that one's states in between
    negates = "do_classifier_free_guidance" in signature(pipe.encode_prompt).parameters
    more = {"do_classifier_free_guidance": False} if negates else {}
    encoded = pipe.encode_prompt(prompt, device=parts.device, num_images_per_prompt=1, **more)
    pooled = encoded[2 if negates else 1] if family.facts.pools else None
    return Conditioning(encoded[0], pooled)


def _load(pipe: Any, path: Path, family: ModelFamily, token: str) -> None:
    """Make the calls that `verify.usage` shows."""
    if len(family.facts.keys) == 1:
        pipe.load_textual_inversion(
            str(path.parent), weight_name=path.name, token=token, local_files_only=True
        )
        return
    halves = read(path).vectors
    for facts in family.facts.text_encoders:
        encoder, tokenizer = getattr(pipe, facts.folder), getattr(pipe, facts.tokenizer_folder)
        pipe.load_textual_inversion(
            halves[facts.key], token=token, text_encoder=encoder, tokenizer=tokenizer
        )
        if facts.pools:
            # Otherwise it pools at the largest id, which is the word's
            getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id


def _plain_copy(encoder: Any) -> Any:
    """Return a text encoder as its class makes it, without hooks, wrappers and checkpointing of a run.

    Its weights are the same in memory, except for a token table of its own, which is on the CPU and
    may grow: there is room for it, and every number is computed in its own precision.
    """
    with torch.device("meta"):
        copied = type(encoder)(copy.deepcopy(encoder.config))
    table = table_of(encoder).detach().cpu().clone()
    copied.set_input_embeddings(nn.Embedding.from_pretrained(table))
    new_table = copied.get_input_embeddings()
    for name, module in copied.named_modules():
        if module is not new_table:
            original = encoder.get_submodule(name)
            if isinstance(original, FrozenLinear):  # it knows how its weight is kept
                module.__class__ = type(original)
            for tensor_name, tensor in _tensors(original):
                setattr(module, tensor_name, tensor)
    # diffusers writes the new rows itself: their usual start, from all others' covariance, is not seen
    copied.resize_token_embeddings = partial(copied.resize_token_embeddings, mean_resizing=False)
    return copied.eval()


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of a module, without those of the modules in it."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _look_up_on_the_cpu(encoder: Any, device: torch.device) -> None:
    """Keep a text encoder's table on the CPU, and move only the vectors of a prompt to a device."""
    table = encoder.get_input_embeddings()
    table.register_forward_pre_hook(lambda _, ids: tuple(tensor.cpu() for tensor in ids))
    table.register_forward_hook(lambda _, __, rows: rows.to(device))
