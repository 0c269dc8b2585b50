"""A learned word: its vectors, its name, and what is known of its training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from coinage.embeddings.format_names import FormatName, Precision
from coinage.errors import ConfigError, Problem
from coinage.models.facts import SDXL, family_of_vectors
from coinage.system.text_files import as_path

PAIR = SDXL.keys


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Word:
    """A learned word: the result of a training, or the content of an embedding file.

    Get one from `coinage.train` or `coinage.load_word`, or make one from tensors. A word never
    changes; `dataclasses.replace(word, token="other")` returns a changed copy.

    Attributes:
        vectors: one [n, D] float32 tensor for each text encoder, by its key in embedding files:
            `emb_params` for Stable Diffusion 1.x and 2.x, `clip_l` and `clip_g` for SDXL, for Stable
            Diffusion 3 `t5xxl` beside them, and for FLUX.1 `clip_l` and `t5xxl`.
        token: the word as it was written in the captions of its training; None if unknown.
        step: optimizer steps that it was trained for; 0 if unknown.
        metadata: of its file's header, names to texts. Only .safetensors files store it.
        path: the file that it was read from; None if it was not read from a file.

    Example:
        ```python
        import coinage

        word = coinage.load_word("mychar.safetensors")
        print(word.num_vectors, word.family)
        word.save("mychar.pt")
        ```
    """

    vectors: Mapping[str, Tensor]
    token: str | None = None
    step: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    def __post_init__(self) -> None:
        """See that the vectors are vectors, and the token is a text.

        Raises:
            ConfigError: they are not.
        """
        if self.token is not None and not isinstance(self.token, str):
            what = f"token: an object of type {type(self.token).__name__} is not a text"
            raise ConfigError([Problem(what, hint="give the word as prompts write it")])
        if not all(isinstance(text, str) for pair in self.metadata.items() for text in pair):
            hint = "write numbers as texts, such as str(3)"
            raise ConfigError([Problem("metadata: names and values must be texts", hint=hint)])
        if not isinstance(self.step, int):
            what = f"step: an object of type {type(self.step).__name__} is not a whole number"
            raise ConfigError([Problem(what)])
        hint = 'give a tensor [n, D] of each text encoder, such as {"emb_params": rows}'
        if not isinstance(self.vectors, Mapping) or not self.vectors:
            what = "vectors: a word needs a mapping with those of at least one text encoder"
            raise ConfigError([Problem(what, hint=hint)])
        for key, rows in self.vectors.items():
            if not isinstance(rows, Tensor):
                what = f"an object of type {type(rows).__name__} is not a tensor"
            elif rows.ndim != 2 or not rows.numel():
                what = f"a tensor of shape {list(rows.shape)} does not hold vectors"
            elif not rows.is_floating_point():
                what = f"{rows.dtype} is not a type of floating-point numbers"
            else:
                continue
            raise ConfigError([Problem(f"vectors: {key}: {what}", hint=hint)])

    def __repr__(self) -> str:
        shapes = []
        for key, rows in self.vectors.items():
            shapes.append(f"{key} {len(rows)}x{rows.shape[1]}")
        parts = [f"Word({self.token!r}", f"[{', '.join(shapes)}]", f"step {self.step}"]
        if self.family:
            parts.append(self.family)
        if self.path:
            parts.append(repr(str(self.path)))
        return ", ".join(parts) + ")"

    @property
    def num_vectors(self) -> int:
        """Number of vectors that the word has in each text encoder."""
        return len(next(iter(self.vectors.values())))

    @property
    def family(self) -> str | None:
        """`sd1`, `sd2`, `sdxl`, `sd3` or `flux`, as vectors and header show; None if no model has them."""
        widths = {key: rows.shape[1] for key, rows in self.vectors.items()}
        facts = family_of_vectors(widths, self.metadata.get("modelspec.architecture", ""))
        return facts.name if facts else None

    @classmethod
    def load(cls, path: str | os.PathLike[str], token: str | None = None) -> Word:
        """Read a word from an embedding file of any tool; as `coinage.load_word`.

        Args:
            path: the file; its content counts, not its suffix. If diffusers wrote a word
                as two files beside each other, either of them gives the whole word.
            token: the word; default: what the file names, if it names one.

        Raises:
            EmbeddingFileError: the file is missing, unreadable, not an embedding, or holds several.
        """
        return load_word(path, token)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        to: FormatName | None = None,
        precision: Precision = "float",
        overwrite: bool = True,
    ) -> list[Path]:
        """Write the word to a file: whole or not at all, read back and compared.

        The header of a .safetensors file gets the new file's name, by which most tools know the
        word, and keeps everything else.

        Args:
            path: the file to write; missing folders are made.
            to: the format: `safetensors` (sd-scripts and most tools), `pt` (AUTOMATIC1111),
                `diffusers` (needs a token) or `onetrainer`; default: as the path's suffix says.
            precision: number format of the vectors: `float` (32 bits), `fp16` or `bf16`.
            overwrite: whether an existing file is replaced.

        Returns:
            The files written: one, or for a word of SDXL or FLUX.1 in the format of diffusers two.

        Raises:
            CoinageError: the suffix fits no format, a file exists and `overwrite` is False, the
                numbers do not fit the precision, or the file cannot be written.
        """
        from coinage.embeddings.saving import save_word

        return save_word(
            self, as_path(path, "path"), to=to, precision=precision, overwrite=overwrite
        )

    def inspect(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        tokenizer_cache: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Return what `coinage inspect --json` prints, as plain values.

        A word with a path is inspected in its file; another one in the .safetensors file that
        `save` would write, with None as `file`.

        Args:
            model: a model whose vocabulary the vectors are compared with: a file, a diffusers
                folder or a hub id.
            tokenizer_cache: folder of tokenizers, for a model in a single file.

        Returns:
            Among others `family`, `token`, `vectors` (their number), `encoders` (lengths and
            nearest words of each vector), `metadata`, `hash`, `notes`, `warnings`, and `tools`: in
            which programs the word works and what to write in a prompt there.

        Raises:
            CoinageError: the file or the model cannot be read.
        """
        from coinage.embeddings.inspection import inspect_word

        cache = None if tokenizer_cache is None else as_path(tokenizer_cache, "tokenizer_cache")
        return inspect_word(self, None if model is None else str(model), cache)


def load_word(path: str | os.PathLike[str], token: str | None = None) -> Word:
    """Read a word from an embedding file of any tool.

    It reads the files of sd-scripts, AUTOMATIC1111 (also pictures), diffusers, OneTrainer,
    invoke-training and others. No code in a file is run.

    Args:
        path: the file; its content counts, not its suffix. If diffusers wrote a word as two
            files beside each other, either of them gives the whole word.
        token: the word; default: what the file names, if it names one. Of a LoRA with several words
            in it, it also says which one to read.

    Raises:
        EmbeddingFileError: the file is missing, unreadable, not an embedding, or holds several.
    """
    from coinage.embeddings.pairs import open_with_other_half
    from coinage.embeddings.reading import log_reading

    file = as_path(path, "path")
    opened = open_with_other_half(file, token)
    word = opened.usable_word()
    log_reading(file, opened)
    return word if token is None else replace(word, token=token)


def vectors_for(vectors: Mapping[str, Tensor], key: str) -> Tensor | None:
    """Return the vectors [n, D] for one text encoder of a model; None if there are none.

    The text encoder of SD 1 is SDXL's first one, so a `clip_l` alone serves SD 1 as well.
    """
    if key == "emb_params" and tuple(vectors) == ("clip_l",):
        return vectors["clip_l"]
    return vectors.get(key)


def as_sd1_word(word: Word) -> Word:
    """Return a word with `clip_l` alone as the SD 1 word that it is; any other as it is."""
    if tuple(word.vectors) != ("clip_l",):
        return word
    return replace(word, vectors={"emb_params": word.vectors["clip_l"]})
