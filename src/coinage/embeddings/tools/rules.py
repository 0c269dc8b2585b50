"""The input and the result of a tool's rule, and the checks that several rules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.word import PAIR
from coinage.models.facts import FACTS
from coinage.text.placeholder import CHUNK

MOST_VECTOR_BYTES = 64 * 2**20  # 75 of the widest vectors take less than one hundredth
CONVERT = "convert it to .safetensors with coinage"
OTHER_FAMILY = "the word was trained on another family of models"
IMAGE_SUFFIXES = (".png", ".webp")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one tool makes of a file.

    Attributes:
        tool: its name.
        loads: whether the word can be used there.
        why: if it does not load, or loads only with care: the reason and what to do.
        write: what to write in a prompt; for diffusers the `token=` of load_textual_inversion.
        vectors: what goes into each text encoder, [n, D] float32 by the keys of Coinage; empty if
            the file does not load.
    """

    tool: str
    loads: bool
    why: str = ""
    write: str = ""
    vectors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TargetModel:
    """The model that the word is to be used with: its family and the widths of its text encoders."""

    family: str
    widths: tuple[int, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the text encoders' vectors in Coinage, in the order of the widths.

        A model may lack the last text encoder.
        """
        return FACTS[self.family].keys[: len(self.widths)]


@dataclass(frozen=True, slots=True)
class ToolReading:
    """What a tool reads from a file.

    Attributes:
        tensors: by the keys of Coinage, as they are in the file.
        write: what to write in a prompt.
        why: what the user must know, or "".
        reads_output_vectors: whether the tool uses vectors that no other tool knows.
    """

    tensors: Mapping[str, Any]
    write: str
    why: str = ""
    reads_output_vectors: bool = False


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """The tool does not load the file; the message says why."""


Rule = Callable[[RawFile, TargetModel, str | None], ToolReading]


def refuse(why: str) -> NoReturn:
    """Raise `Refusal`: the tool does not load the file."""
    raise Refusal(why)


def judge(tool: str, rule: Rule, file: RawFile, model: TargetModel, token: str | None) -> Verdict:
    """Return one tool's verdict; content that its rule does not foresee counts as refused."""
    try:
        reading = rule(file, model, token)
        vectors = {key: _as_vectors(tensor) for key, tensor in reading.tensors.items()}
        warns_of_zeros = not reading.reads_output_vectors
        notes = [reading.why, *_cautions(vectors, model, warns_of_zeros=warns_of_zeros)]
        why = " ".join(note for note in notes if note)
        return Verdict(tool, loads=True, why=why, write=reading.write, vectors=vectors)
    except Refusal as refusal:
        why = str(refusal)
        return Verdict(tool, loads=False, why=why[0].upper() + why[1:])
    except Exception as error:  # noqa: BLE001 - odd content breaks the tool as it breaks the rule
        kind = type(error).__name__
        why = f"The content of the file is not what {tool} expects ({kind})."
        return Verdict(tool, loads=False, why=why)


def _as_vectors(tensor: Any) -> Tensor:
    """Return a tensor as [n, D] float32.

    Raises:
        Refusal: it is not a table of vectors.
    """
    if not isinstance(tensor, Tensor):
        refuse("where the vectors should be, there is no tensor.")
    if tensor.ndim != 2 or not tensor.numel():
        shape = list(tensor.shape)
        refuse(f"the tensor has the shape {shape}; it must be [vectors, width]: {CONVERT}.")
    if tensor.numel() * 4 > MOST_VECTOR_BYTES:
        refuse("the tensor is too large for an embedding.")
    return tensor.detach().to(torch.float32).clone()


def _cautions(
    vectors: Mapping[str, Tensor], model: TargetModel, *, warns_of_zeros: bool
) -> list[str]:
    """Return what to know about vectors that a tool does take."""
    cautions = []
    if warns_of_zeros and not any(tensor.any() for tensor in vectors.values()):
        cautions.append("Its vectors are all zero: the word does nothing.")
    if len(model.keys) > 2 and len(vectors) < len(model.keys):
        cautions.append(f"It acts on {' and '.join(vectors)} alone.")
    elif len(vectors) < len(model.keys):
        cautions.append(
            "It acts on only one of the two text encoders; "
            f"train the word on {FACTS[model.family].short_name} instead."
        )
    counts = {len(tensor) for tensor in vectors.values()}
    if len(counts) > 1:
        cautions.append(
            "The two halves have different numbers of vectors, "
            "so they are put at different places in a prompt; train the word again."
        )
    if max(counts) > CHUNK:
        cautions.append(f"A prompt has room for {CHUNK} vectors; the rest is cut off.")
    if not all(torch.isfinite(tensor).all() for tensor in vectors.values()):
        cautions.append(
            "It holds numbers that are not finite and spoils every picture; use an earlier save."
        )
    return cautions


def content_of(file: RawFile, suffixes: tuple[str, ...], *, unlimited_pickle: bool = False) -> Any:
    """Return the file's content, read as a tool does that goes by the suffix.

    Args:
        file: as it is on disk.
        suffixes: those that the tool lists.
        unlimited_pickle: the tool unpickles without limits, so a ParameterDict is no obstacle.

    Raises:
        Refusal: another suffix, or the suffix's reader cannot read it.
    """
    suffix = file.path.suffix.lower()
    remedy = "rename it to .safetensors" if file.container == "safetensors" else CONVERT
    if suffix not in suffixes:
        refuse(f"it does not look at {suffix or 'such'} files; {remedy}.")
    if file.container and _reader_of(suffix) != _reader_for(file.container):
        refuse(f"the file is named {suffix} but is in another format; {remedy}.")
    if file.content is None:
        refuse(f"the file cannot be read: {file.problem}.")
    if not (unlimited_pickle or file.weights_only):
        refuse(f"it holds a ParameterDict, which safe unpickling refuses; {CONVERT}.")
    return file.content


def _reader_of(suffix: str) -> str:
    """Return the reader that a tool takes for a suffix."""
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "safetensors" if suffix == ".safetensors" else "torch"


def _reader_for(container: str) -> str:
    """Return the reader that a container needs."""
    return "torch" if container in ("zip", "pickle") else container


def check_width(tensor: Any, width: int) -> None:
    """Refuse vectors that do not fit the text encoder."""
    actual = tensor.shape[-1]
    if actual != width:
        refuse(f"its vectors have {actual} numbers and this model needs {width}: {OTHER_FAMILY}.")


def is_pair(content: Any) -> bool:
    """Return whether the file has the vectors of both of SDXL's text encoders."""
    return isinstance(content, Mapping) and all(key in content for key in PAIR)


def first_value(content: Mapping[Any, Any]) -> Any:
    """Return the first value, which is what many tools take."""
    return next(iter(content.values()))


def as_rows(tensor: Any) -> Any:
    """Return a tensor with one dimension as a table of one vector; anything else as it is."""
    return tensor[None] if isinstance(tensor, Tensor) and tensor.ndim == 1 else tensor
