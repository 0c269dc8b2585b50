"""The formats of embedding files: how each is recognised and read, and how it is written.

A format is one row of `FORMATS`. A new one that is only read needs its rule in `layouts.py`; one
that is written needs the function for its bytes in `writing.py` and its name in `format_names.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from coinage.embeddings import layouts, writing
from coinage.embeddings.format_names import FormatName
from coinage.embeddings.layouts import FileContent, LayoutRule, Recognised, listed, quoted
from coinage.embeddings.word import Word
from coinage.errors import CoinageError, EmbeddingFileError

Encoder = Callable[[Path, Word, str], dict[Path, bytes]]


@dataclass(frozen=True, slots=True)
class Writer:
    """How a format is written.

    Attributes:
        name: of `coinage convert --to` and of `Word.save`.
        suffixes: that its files may have, the usual one first.
        encode: returns the bytes of each file from path, word and precision.
    """

    name: FormatName
    suffixes: tuple[str, ...]
    encode: Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """One format of embedding files.

    Attributes:
        rule: recognises the format in a file's content; or refuses what is not an embedding.
        layouts: the layouts that it comes in: id and title, as `coinage inspect` shows them.
        writer: how Coinage writes it; None if it only reads it.
    """

    rule: LayoutRule
    layouts: Mapping[str, str] = field(default_factory=dict)
    writer: Writer | None = None


# The first whose rule recognises the content is right; several rules refuse what is not an embedding.
FORMATS = (
    FileFormat(layouts={"T": "tensor without a name"}, rule=layouts.bare_tensor),
    # Dictionaries of word and tensor
    FileFormat(layouts={"L": "list of words"}, rule=layouts.list_of_words),
    # `string_to_param` {"*": tensor}, `name`, `step`
    FileFormat(
        rule=layouts.webui,
        writer=Writer("pt", (".pt", ".ckpt", ".bin"), writing.one_file),
        layouts={
            "A": "AUTOMATIC1111 (string_to_param)",
            "O": "the first Textual Inversion code (string_to_param)",
            "G": "AUTOMATIC1111, in a picture",
        },
    ),
    FileFormat(rule=layouts.refuse_xti),
    # `bundle_emb.<word>.clip_l` and so on
    FileFormat(layouts={layouts.IN_A_LORA: "embedding in a LoRA"}, rule=layouts.bundled),
    FileFormat(rule=layouts.refuse_model),
    FileFormat(rule=layouts.refuse_outputs),
    # `clip_l`, `clip_g`, or one of them, `t5xxl`; `text_encoders_0`, `text_encoders_1`
    FileFormat(
        rule=layouts.halves,
        layouts={
            "X": "SDXL pair (clip_l, clip_g)",
            "Xpt": "SDXL pair (clip_l, clip_g), pickled",
            "P": "diffusers, pivotal tuning (clip_l or clip_g)",
            "PTI": "diffusers, embeddings.pti",
            "S3": "SD 3 (clip_l, clip_g, t5xxl) or FLUX.1 (clip_l, t5xxl), or a part of it",
        },
    ),
    # `emb_params`; SDXL's words are written as a pair
    FileFormat(
        rule=layouts.sd_scripts,
        writer=Writer("safetensors", (".safetensors",), writing.one_file),
        layouts={"E": "sd-scripts (emb_params)", "Ept": "sd-scripts (emb_params), pickled"},
    ),
    # `emp_params`, or one of the formats above with `*_out` beside
    FileFormat(
        rule=layouts.onetrainer,
        writer=Writer("onetrainer", (".safetensors",), writing.onetrainer_files),
        layouts={"OT": "OneTrainer"},
    ),
    # One tensor under the word; for SDXL and FLUX.1 in two files
    FileFormat(
        rule=layouts.diffusers,
        writer=Writer("diffusers", (".safetensors", ".bin"), writing.diffusers_files),
        layouts={
            "D": "diffusers (one tensor, named as the word)",
            "D2": "diffusers, in two files",
        },
    ),
)
WRITERS: dict[str, Writer] = {row.writer.name: row.writer for row in FORMATS if row.writer}


def layout_title(layout: str) -> str:
    """Return how `coinage inspect` names a layout."""
    for file_format in FORMATS:
        if layout in file_format.layouts:
            return file_format.layouts[layout]
    return ""


def recognise(
    content: Any, key: str | None, *, pickled: bool, token: str | None = None
) -> Recognised:
    """Return which of a file's tensors are the word's vectors.

    Args:
        content: what the file holds.
        key: the placeholder, word or tensor to take if there are several.
        pickled: whether it comes from a pickle.
        token: the word that is wanted, if there are several and this one.

    Raises:
        EmbeddingFileError: not an embedding, or one must be chosen.
    """
    named: dict[str, Any] = {}
    if isinstance(content, Mapping):
        named = {str(name): value for name, value in content.items()}
    elif key is not None:
        raise EmbeddingFileError(
            f"it holds no {quoted(key)}: its tensors have no names", hint="leave out --key"
        )
    if not named and not isinstance(content, Tensor | list):
        raise EmbeddingFileError("not an embedding: there is no tensor in it")
    file_content = FileContent(content, named, key, pickled, token)
    for file_format in FORMATS:
        recognised = file_format.rule(file_content)
        if recognised is not None:
            return recognised
    raise EmbeddingFileError(f"not an embedding: there is no tensor in it, only {listed(named)}")


def writer_for(path: Path, name: str | None) -> Writer:
    """Return the writer of a format: the one asked for, or the one of the path's suffix.

    Raises:
        CoinageError: the suffix fits no format, or not the one that is asked for.
    """
    suffix = path.suffix.lower()
    if name is None:
        # Several formats may have a suffix: the first is the usual one.
        for writer in WRITERS.values():
            if suffix in writer.suffixes:
                return writer
        raise CoinageError(
            "cannot tell the format from the file name",
            str(path),
            "end it with .safetensors or .pt, or add --to",
        )
    if name not in WRITERS:
        raise CoinageError(
            f"{name!r} is not a format", str(path), f"known formats: {', '.join(WRITERS)}"
        )
    writer = WRITERS[name]
    if suffix not in writer.suffixes:
        raise CoinageError(
            f"--to {name} does not write {path.suffix or 'files without an ending'}",
            str(path),
            f"end it with {writer.suffixes[0]}",
        )
    return writer
