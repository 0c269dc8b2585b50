"""The words of a model and their vectors, read without the rest of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from coinage.config import ModelConfig
from coinage.errors import CoinageError, reason_of
from coinage.models.detect import reach_hub
from coinage.models.loading import read_tensors
from coinage.models.text_encoder_sizes import PLACES, TABLE
from coinage.models.tokenizer_files import find_tokenizer
from coinage.system.text_files import is_file, is_folder
from coinage.text.clip_tokenizer import read_tokenizer
from coinage.text.placeholder import Tokenizer


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
        """Of the rows: 5 % are shorter, half, and all but 5 %."""
        norms = self.norms
        low, high = (
            norms[:: max(1, len(norms) // 50_000)].quantile(norms.new_tensor([0.05, 0.95])).tolist()
        )
        return low, float(norms.median()), high

    def nearest(self, rows: Tensor, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each of [N, D] rows the words of the smallest angle, with their cosines."""
        words = {index: word for word, index in self.tokenizer.get_vocab().items()}
        # No second table
        cosines = (
            torch.nn.functional.normalize(rows.float(), dim=1)
            @ self.table.T
            / self.norms.clamp(min=1e-12)
        )
        values, indices = cosines.topk(min(count, len(self.table)), dim=1)
        return [
            [
                (words.get(index, f"id {index}").removesuffix("</w>"), value)
                for value, index in zip(*pair, strict=True)
            ]
            for pair in zip(values.tolist(), indices.tolist(), strict=True)
        ]


def read_vocabularies(model: ModelConfig) -> Mapping[str, Vocabulary]:
    """The words of a model, for each key of its embedding files.

    Raises:
        CoinageError: the tokenizer or a table cannot be read.
    """
    found = {}
    for key, folder, start in PLACES[model.family]:
        table = _table(model.source, folder, start)
        tokenizer = read_tokenizer(
            find_tokenizer(
                model.source, folder.replace("text_encoder", "tokenizer"), model.tokenizer_cache
            )
        )
        if tokenizer is None:
            raise CoinageError(
                "no tokenizer found",
                model.source,
                "give a diffusers folder, or --tokenizer_cache_dir",
            )
        found[key] = Vocabulary(table, cast(Tokenizer, tokenizer))
    return found


def _table(source: str, folder: str, start: str) -> Tensor:
    path = Path(source)
    if is_file(path):
        return _named([path], start, source)
    if is_folder(path):
        files = sorted((path / folder).glob("*.safetensors")) or sorted(
            (path / folder).glob("*.bin")
        )
        return _named(files, "", source)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = f"{folder}/model.safetensors"
    cached = try_to_load_from_cache(source, name)
    try:
        if not isinstance(cached, str):
            reach_hub()
            cached = hf_hub_download(source, name)
    except Exception as error:
        raise CoinageError(
            "the model is not in the local cache, and the hub is out of reach", source
        ) from error
    return _named([Path(cached)], "", source)


def _named(files: Sequence[Path], start: str, source: str) -> Tensor:
    """The one tensor that is a token table; of a safetensors file nothing else is read."""
    from safetensors import SafetensorError, safe_open

    for path in files:
        if path.suffix.lower() != ".safetensors":
            tables = [
                tensor
                for name, tensor in read_tensors(path).items()
                if name.startswith(start) and name.endswith(TABLE)
            ]
            if tables:
                return tables[0].float()
            continue
        try:
            with safe_open(path, framework="pt") as file:
                names = [
                    name
                    for name in file.keys()  # noqa: SIM118 - no dictionary
                    if name.startswith(start) and name.endswith(TABLE)
                ]
                if names:
                    table: Tensor = file.get_tensor(names[0])
                    return table.float()
        except (OSError, SafetensorError) as error:
            raise CoinageError(
                f"cannot read the model: {reason_of(error)}", str(path), "download the file again"
            ) from None
    raise CoinageError("the model holds no table of token embeddings", source, "give a whole model")
