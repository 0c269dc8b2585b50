"""The words of a model and their vectors, read without the rest of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.errors import CoinageError, reason_of
from coinage.models.facts import FACTS, TextEncoderFacts
from coinage.models.hub_files import reach_hub
from coinage.models.text_encoder_sizes import TABLES, has_encoder
from coinage.models.tokenizer_files import find_tokenizer
from coinage.models.weight_files import read_tensors
from coinage.system.text_files import is_file, is_folder
from coinage.text.clip_tokenizer import read_tokenizer
from coinage.text.placeholder import Tokenizer
from coinage.text.unigram_tokenizer import read_unigram
from coinage.text.whole_words import bare


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One text encoder's words.

    Attributes:
        table: [V, D] float32, a row per token.
        tokenizer: gives a text's rows.
    """

    table: Tensor
    tokenizer: Tokenizer

    @property
    def norms(self) -> Tensor:
        """[V] lengths of the rows."""
        norms: Tensor = self.table.norm(dim=1)
        return norms

    @property
    def usual_lengths(self) -> tuple[float, float, float]:
        """Lengths of rows: 5 % are shorter than the first, half than the second, 95 % than the third."""
        norms = self.norms
        sample = norms[:: max(1, len(norms) // 50_000)]
        low, high = sample.quantile(norms.new_tensor([0.05, 0.95])).tolist()
        return low, float(norms.median()), high

    def nearest(self, rows: Tensor, count: int = 5) -> list[list[tuple[str, float]]]:
        """Return, for each of [N, D] rows, the words at the smallest angle, with their cosines."""
        words = {index: word for word, index in self.tokenizer.get_vocab().items()}
        directions = torch.nn.functional.normalize(rows.float(), dim=1)
        # Dividing the products instead of the table saves a second table
        cosines = directions @ self.table.T / self.norms.clamp(min=1e-12)
        values, indices = cosines.topk(min(count, len(self.table)), dim=1)
        neighbours = []
        for row_values, row_indices in zip(values.tolist(), indices.tolist(), strict=True):
            row = []
            for value, index in zip(row_values, row_indices, strict=True):
                row.append((bare(words.get(index, f"id {index}")), value))
            neighbours.append(row)
        return neighbours


def read_vocabularies(model: ModelConfig) -> Mapping[str, Vocabulary]:
    """Return the words of a model, for each key of its embedding files.

    Raises:
        CoinageError: the tokenizer or a table cannot be read.
    """
    vocabularies = {}
    for facts in FACTS[model.family].text_encoders:
        if facts.optional and not has_encoder(model, facts):
            continue
        table = _table(model.source, facts)
        folder = find_tokenizer(
            model.source, facts.tokenizer_folder, model.tokenizer_cache, facts.kind
        )
        read = read_unigram if facts.kind == "t5" else read_tokenizer
        tokenizer: Tokenizer | None = read(folder)
        if tokenizer is None:
            hint = "give a diffusers folder, or --tokenizer_cache_dir"
            raise CoinageError("no tokenizer found", model.source, hint)
        vocabularies[facts.key] = Vocabulary(table, tokenizer)
    return vocabularies


def _table(source: str, facts: TextEncoderFacts) -> Tensor:
    path, folder, end = Path(source), facts.folder, TABLES[facts.kind]
    if is_file(path):
        return _named([path], facts.prefix, end, source)
    if is_folder(path):
        files = sorted((path / folder).glob("*.safetensors"))
        files = files or sorted((path / folder).glob("*.bin"))
        return _named(files, "", end, source)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = f"{folder}/model.safetensors"
    try:
        cached = try_to_load_from_cache(source, name)
        if not isinstance(cached, str):
            reach_hub()
            cached = hf_hub_download(source, name)
    except Exception as error:
        raise CoinageError(
            "the model is not in the local cache, and the hub cannot be reached", source
        ) from error
    return _named([Path(cached)], "", end, source)


def _named(files: Sequence[Path], start: str, end: str, source: str) -> Tensor:
    """Return the one tensor that is a token table; of a safetensors file nothing else is read."""
    for path in files:
        in_safetensors = path.suffix.lower() == ".safetensors"
        read_table = _table_in_safetensors if in_safetensors else _table_in_pickle
        table = read_table(path, start, end)
        if table is not None:
            return table.float()
    raise CoinageError("the model holds no table of token embeddings", source, "give a whole model")


def _table_in_pickle(path: Path, start: str, end: str) -> Tensor | None:
    for name, tensor in read_tensors(path).items():
        if name.startswith(start) and name.endswith(end):
            return tensor
    return None


def _table_in_safetensors(path: Path, start: str, end: str) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                if name.startswith(start) and name.endswith(end):
                    table: Tensor = file.get_tensor(name)
                    return table
    except (OSError, SafetensorError) as error:
        what = f"cannot read the model: {reason_of(error)}"
        raise CoinageError(what, str(path), "download the file again") from None
    return None
