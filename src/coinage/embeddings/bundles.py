"""LoRAs with words in them: `bundle_emb.WORD.KEY` beside the LoRA's own tensors, in one file.

The numbers of the LoRA are moved as bytes and never change. What the readers of such files have in
common decides what is written: a word has the tensor `string_to_param.*`, or for SDXL `clip_l` and
`clip_g`, and nothing else; its name has no dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from coinage.embeddings.layouts import BUNDLE_KEY, LORA_KEY, quoted
from coinage.embeddings.reading import open_file
from coinage.embeddings.saving import encode_word, write_files
from coinage.embeddings.stored_tensors import (
    StoredTensor,
    body_digest,
    stored_tensors,
    write_tensors,
)
from coinage.embeddings.word import PAIR, Word, as_sd1_word
from coinage.embeddings.writing import precision_of, rounded_vectors
from coinage.errors import CoinageError, EmbeddingFileError
from coinage.models.facts import FACTS, T5
from coinage.runs.names import DEVICES
from coinage.system.text_files import is_there
from coinage.text.placeholder import CHUNK
from coinage.wording import counted

SAFETENSORS_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
MOST_IN_FORGE = 12  # tensors beside the LoRA's own; of a file with more, Forge takes nothing
LONGEST_NAME = 200
LONGEST_STEM = 60  # of a file; letters may take four bytes, and a system 255 for the whole name
NOT_IN_FILE_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
# Digests of the file's body in the header, by the names that LoRA trainers and ModelSpec give them
DIGESTS = {"sshs_model_hash": "", "modelspec.hash_sha256": "0x"}
# A digest of other bytes, the header among them, which tools do not check: taken out
OTHER_DIGEST = "sshs_legacy_hash"


@dataclass(frozen=True, slots=True)
class NamedWord:
    """A word to put into a LoRA.

    Attributes:
        name: what prompts write.
        word: its vectors.
        precision: number format to write them in.
        where: its file, for messages.
    """

    name: str
    word: Word
    precision: str
    where: str


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA's file: its own tensors, those of the words in it by name, and its metadata."""

    path: Path
    tensors: Sequence[StoredTensor]
    words: Mapping[str, Sequence[StoredTensor]]
    metadata: Mapping[str, str]


def read_lora(path: Path) -> Lora:
    """Read which tensors a LoRA has; they stay on the disk.

    Raises:
        CoinageError: it cannot be read, or is not a LoRA in a .safetensors file.
    """
    tensors, metadata = stored_tensors(path)
    own: list[StoredTensor] = []
    words: dict[str, list[StoredTensor]] = {}
    for tensor in tensors:
        match = BUNDLE_KEY.fullmatch(tensor.name)
        if match:
            words.setdefault(match["word"], []).append(tensor)
        else:
            own.append(tensor)
    if not any(LORA_KEY.search(tensor.name) for tensor in own):
        hint = "give the .safetensors file that a LoRA trainer wrote"
        raise CoinageError("not a LoRA: it has none of its tensors", str(path), hint)
    return Lora(path, own, words, metadata)


def bundle(
    lora: Lora, words: Sequence[NamedWord], out: Path, *, replace: bool, overwrite: bool
) -> list[str]:
    """Write a LoRA with words in it, beside those that it has.

    Args:
        lora: the file to start from; it stays as it is.
        words: to put in.
        out: the file to write, ending with .safetensors.
        replace: whether a word of the same name in the LoRA is replaced.
        overwrite: whether an existing file is replaced.

    Returns:
        What to know about the file, a line each.

    Raises:
        CoinageError: a word cannot be put in, or the file cannot be written.
    """
    if out.suffix.lower() != ".safetensors":
        hint = "end it with .safetensors"
        raise CoinageError("a LoRA with words in it is a .safetensors file", str(out), hint)
    _refuse_existing([out], overwrite=overwrite)
    bundled = dict(lora.words)
    given = set[str]()
    for word in words:
        _check_name(word)
        _check_family(word, lora)
        if word.name in given:
            raise CoinageError(f"two files give the word {quoted(word.name)}", word.where)
        if word.name in bundled and not replace:
            hint = "replace it with --force, or give yours another name with --token"
            what = f"it has a word {quoted(word.name)} already"
            raise CoinageError(what, str(lora.path), hint)
        given.add(word.name)
        bundled[word.name] = _stored(word)
    _write(out, lora, bundled)
    return _notes(bundled)


def unbundle(path: Path, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write a LoRA without its words, and each word, to files of their own.

    Args:
        path: the LoRA with words in it; it stays as it is.
        folder: for the files: the LoRA keeps its name, and each word's file is called as the word.
        overwrite: whether existing files are replaced.

    Returns:
        The files, the LoRA first.

    Raises:
        CoinageError: there are no words in it, one cannot be read, or a file cannot be written.
    """
    lora = read_lora(path)
    if not lora.words:
        raise CoinageError("there are no words in this LoRA", str(path))
    stems = _stems(lora.words)
    taken = {stem.casefold() for stem in stems.values()}
    stem = f"{path.stem}-lora" if path.stem.casefold() in taken else path.stem
    lora_out = folder / f"{stem}.safetensors"
    files: dict[Path, bytes] = {}
    for name, stem in stems.items():
        opened = open_file(path, name)
        target = folder / f"{stem}.safetensors"
        precision = precision_of(opened.dtype)
        files |= encode_word(opened.usable_word(), target, to=None, precision=precision)
    _refuse_existing([lora_out, *files], overwrite=overwrite)
    for target in (lora_out, *files):
        if is_there(target) and target.samefile(path):
            what = "this would overwrite the file that is read"
            raise CoinageError(what, str(target), "choose another folder")
    _write(lora_out, lora, {})
    write_files(files, overwrite=overwrite)
    return [lora_out, *files]


def _refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    for path in paths:
        if is_there(path) and not overwrite:
            hint = "choose another name, or replace it: --force"
            raise CoinageError("the file already exists", str(path), hint)


def _write(out: Path, lora: Lora, words: Mapping[str, Sequence[StoredTensor]]) -> None:
    """Write a LoRA with these words, and with true digests in its header."""
    tensors = [*lora.tensors, *(tensor for of_word in words.values() for tensor in of_word)]
    digest = body_digest(tensors)
    metadata = {key: text for key, text in lora.metadata.items() if key != OTHER_DIGEST}
    for key, start in DIGESTS.items():
        if key in metadata:
            metadata[key] = start + digest
    write_tensors(out, tensors, metadata, digest)


def _stored(word: NamedWord) -> list[StoredTensor]:
    """Return the tensors of a word in a LoRA."""
    rounded = rounded_vectors(as_sd1_word(word.word), word.where, word.precision)
    if T5 in rounded:
        hint = "give the word's file beside the LoRA"
        raise EmbeddingFileError("programs read no T5 vectors in a LoRA", word.where, hint)
    if tuple(rounded) != PAIR and tuple(rounded) != ("emb_params",):
        hint = "join its two files first: coinage convert ONE WORD.safetensors --second OTHER"
        raise EmbeddingFileError("only half of an SDXL word", word.where, hint)
    tensors = []
    for key, rows in rounded.items():
        part = key if key in PAIR else "string_to_param.*"
        data = rows.view(torch.uint8).numpy().tobytes()
        dtype, shape = SAFETENSORS_DTYPES[rows.dtype], tuple(rows.shape)
        name = f"bundle_emb.{word.name}.{part}"
        tensors.append(StoredTensor(name, dtype, shape, len(data), data=data))
    return tensors


def _check_name(word: NamedWord) -> None:
    """Refuse a name that readers of bundles would not find, or find cut."""
    name = word.name
    if "." in name:
        what = f"the word {quoted(name)} has a dot: AUTOMATIC1111 and SD.Next cut its name there"
        hint = f"give it another name: --token {name.replace('.', '-')}"
        raise CoinageError(what, word.where, hint)
    if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        what = f"{quoted(name)} cannot be the name of a word in a LoRA"
        raise CoinageError(what, word.where, "give it another name: --token mychar")


def _check_family(word: NamedWord, lora: Lora) -> None:
    """Refuse a word of another family than the LoRA's, if its header names one."""
    version = lora.metadata.get("ss_base_model_version", "")
    of_lora = [facts for facts in FACTS.values() if version.startswith(facts.base_version)]
    family = as_sd1_word(word.word).family
    if not of_lora or family is None or family == of_lora[-1].name:
        return
    made_for, lora_for = FACTS[family].display_name, of_lora[-1].display_name
    what = f"the word is for {made_for}, and the LoRA {lora.path.name} for {lora_for}"
    raise CoinageError(what, word.where, "train both on the same model")


def _notes(words: Mapping[str, Sequence[StoredTensor]]) -> list[str]:
    """Return what readers do with a file with these words."""
    notes = []
    count = sum(map(len, words.values()))
    if count > MOST_IN_FORGE:
        notes.append(
            f"Forge refuses a LoRA with more than {MOST_IN_FORGE} tensors that it does not know, "
            f"and the words have {count}"
        )
    if len(words) > 1:
        notes.append(
            f"it holds {counted(len(words), 'word')}: ComfyUI takes them all for one word; "
            "give it the words' own files"
        )
    for name, tensors in words.items():
        if "." in name:
            notes.append(f"{quoted(name)} has a dot: AUTOMATIC1111 and SD.Next cut its name there")
        if any(len(tensor.shape) == 2 and tensor.shape[0] > CHUNK for tensor in tensors):
            notes.append(f"{quoted(name)} has more than the {CHUNK} vectors that a prompt holds")
    return notes


def _stems(names: Iterable[str]) -> dict[str, str]:
    """Return a file name without ending for each word, all different on every system."""
    stems: dict[str, str] = {}
    taken = set[str]()
    for name in names:
        printable = "".join(sign for sign in name if sign.isprintable())
        plain = NOT_IN_FILE_NAMES.sub("", printable)[:LONGEST_STEM].strip(" .")
        if not plain or DEVICES.fullmatch(plain):
            plain = f"word-{plain}".rstrip("-")
        stem, number = plain, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        stems[name] = stem
    return stems
