"""What every tool's rule gets and gives, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from coinage.embeddings.file import PAIR
from coinage.embeddings.raw import Raw
from coinage.models.facts import FACTS
from coinage.text.placeholder import CHUNK

LARGEST = 64 * 2**20  # bytes of vectors; 75 of the widest take less than one hundredth
CONVERT = "convert it to .safetensors with coinage"
FAMILY = "the word was trained on another family of models"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one tool makes of a file.

    Attributes:
        tool: its name.
        loads: whether the word can be used there.
        why: where it does not load, or only with care: the reason and what to do.
        write: what to write in a prompt; for diffusers the `token=` of load_textual_inversion.
        vectors: what goes into each text encoder, [n, D] float32 by our keys; empty where it does not load.
    """

    tool: str
    loads: bool
    why: str = ""
    write: str = ""
    vectors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """The model that the word is to be used with: its family and the widths of its text encoders."""

    family: str
    widths: tuple[int, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Our names of the text encoders' vectors, in the order of the widths."""
        return FACTS[self.family].keys


@dataclass(frozen=True, slots=True)
class Taken:
    """What a tool takes from a file, as it lies there: tensors by our keys."""

    tensors: Mapping[str, Any]
    write: str
    why: str = ""
    reads_more: bool = False  # vectors of a kind that no other tool knows


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """The tool does not load the file; the message says why."""


Rule = Callable[[Raw, Model, str | None], Taken]


def refuse(why: str) -> NoReturn:
    """Say that the tool does not load the file."""
    raise Refusal(why)


def judge(tool: str, rule: Rule, raw: Raw, model: Model, token: str | None) -> Verdict:
    """One tool's verdict; a file that its rule does not foresee is refused too."""
    try:
        taken = rule(raw, model, token)
        vectors = {key: vectors_of(tensor) for key, tensor in taken.tensors.items()}
        why = " ".join(
            part
            for part in (taken.why, *_cautions(vectors, model, zero=not taken.reads_more))
            if part
        )
        return Verdict(tool, loads=True, why=why, write=taken.write, vectors=vectors)
    except Refusal as refusal:
        why = str(refusal)
        return Verdict(tool, loads=False, why=why[0].upper() + why[1:])
    except Exception as error:  # noqa: BLE001 - odd content breaks the tool as it breaks the rule
        return Verdict(
            tool,
            loads=False,
            why=f"What the file holds is not what {tool} expects ({type(error).__name__}).",
        )


def vectors_of(tensor: Any) -> Tensor:
    """A tensor as [n, D] float32.

    Raises:
        Refusal: it is no table of vectors.
    """
    if not isinstance(tensor, Tensor):
        refuse("where the vectors should be, there is no tensor.")
    if tensor.ndim != 2 or not tensor.numel():
        refuse(
            f"the tensor has the shape {list(tensor.shape)}; it must be [vectors, width]: {CONVERT}."
        )
    if tensor.numel() * 4 > LARGEST:
        refuse("the tensor is too large for an embedding.")
    return tensor.detach().to(torch.float32).clone()


def _cautions(vectors: Mapping[str, Tensor], model: Model, *, zero: bool) -> list[str]:
    """What to know about vectors that a tool does take; `zero`: whether it matters that they are nothing."""
    found = []
    if zero and not any(tensor.any() for tensor in vectors.values()):
        found.append("Its vectors are all zero: the word does nothing.")
    if len(vectors) < len(model.keys):
        found.append(
            "It acts on one of the two text encoders only; train the word on SDXL instead."
        )
    counts = {len(tensor) for tensor in vectors.values()}
    if len(counts) > 1:
        found.append(
            "The two halves have different numbers of vectors, which then stand at different places; train the word again."
        )
    if max(counts) > CHUNK:
        found.append(f"A prompt has room for {CHUNK} vectors; the rest is cut off.")
    if not all(torch.isfinite(tensor).all() for tensor in vectors.values()):
        found.append(
            "It holds numbers that are not finite and spoils every picture; use an earlier save."
        )
    return found


def content_of(raw: Raw, suffixes: tuple[str, ...], *, full: bool = False) -> Any:
    """The content, read as a tool does that goes by the suffix.

    Args:
        raw: the file.
        suffixes: those that the tool lists.
        full: the tool unpickles without limits, so a ParameterDict is no obstacle.

    Raises:
        Refusal: another suffix, or the suffix's reader cannot read it.
    """
    suffix = raw.path.suffix.lower()
    mend = "rename it to .safetensors" if raw.container == "safetensors" else CONVERT
    if suffix not in suffixes:
        refuse(f"it does not look at {suffix or 'such'} files; {mend}.")
    kind = {".safetensors": "safetensors", ".png": "image", ".webp": "image"}.get(suffix, "torch")
    if raw.container and kind != {"zip": "torch", "pickle": "torch"}.get(
        raw.container, raw.container
    ):
        refuse(f"the file is named {suffix} but is in another format; {mend}.")
    if raw.content is None:
        refuse(f"the file cannot be read: {raw.problem}.")
    if not (full or raw.weights_only):
        refuse(f"it holds a ParameterDict, which safe unpickling refuses; {CONVERT}.")
    return raw.content


def check_width(tensor: Any, width: int) -> None:
    """Refuse vectors that do not fit the text encoder."""
    found = tensor.shape[-1]
    if found != width:
        refuse(f"its vectors have {found} numbers and this model needs {width}: {FAMILY}.")


def is_pair(content: Any) -> bool:
    """Whether the file has SDXL's two halves."""
    return isinstance(content, Mapping) and all(key in content for key in PAIR)


def first(content: Mapping[Any, Any]) -> Any:
    """The first value, as many tools take it."""
    return next(iter(content.values()))
