"""Scores by CLIP and DINO, through transformers' models.

CLIP-I, CLIP-T and DINO as DreamBooth defines them (Ruiz et al. 2023, arXiv:2208.12242, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coinage.errors import CoinageError, Problem
from coinage.models.hub_files import reach_hub
from coinage.models.loading import reported_as
from coinage.models.quiet import libraries_silenced
from coinage.scoring.encoder_files import (
    TYPES,
    Kind,
    Preparation,
    encoder_problems,
    preparation_in,
)
from coinage.scoring.prompts import Asked
from coinage.scoring.scorer import Pixels, Scores
from coinage.system.text_files import is_folder
from coinage.wording import few

AT_ONCE = 16  # pictures that go through an encoder together
# What DINO's encoders have beside the class token's vector, and files of theirs may lack
UNUSED = ("pooler.", "embeddings.mask_token")


class ClipScorer:
    """CLIP-I, the cosine to each reference, in the mean; and CLIP-T, that to the plain prompt.

    Get one from `ClipScorer.load`.
    """

    def __init__(self, model: Any, tokenizer: Any, preparation: Preparation) -> None:
        self._model, self._tokenizer, self._prepare = model, tokenizer, preparation
        self._most_tokens = int(model.config.text_config.max_position_embeddings)

    @classmethod
    def load(cls, source: str | Path, device: torch.device | str = "cpu") -> ClipScorer:
        """Load a CLIP model from a folder, or from the hub by its id.

        Raises:
            CoinageError: it is not one, or cannot be loaded.
        """
        from transformers import AutoTokenizer, CLIPModel

        folder = _folder("clip", source, tokenizer=True)
        model = _loaded(CLIPModel, folder, "CLIP model")
        with libraries_silenced(), reported_as("the tokenizer", str(folder), "cannot load"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model.to(device), tokenizer, preparation_in(folder))

    def problems(self, asked: Sequence[Asked]) -> list[Problem]:
        """Return a problem if prompts have more tokens than the model reads."""
        texts = dict.fromkeys(one.plain for one in asked)
        long = [text for text in texts if len(self._ids(text)) > self._most_tokens]
        if not long:
            return []
        what = f"the CLIP model reads {self._most_tokens} tokens, and prompts are longer"
        return [Problem(what, few(map(repr, long)), "use shorter prompts or another model")]

    def score(
        self, pictures: Sequence[Pixels], asked: Sequence[Asked], references: Sequence[Pixels]
    ) -> Scores:
        """Return CLIP-I, where there are references, and CLIP-T."""
        if problems := self.problems(asked):
            raise CoinageError(problems[0].what, problems[0].where, problems[0].hint)
        seen = self._features(pictures)
        plain = list(dict.fromkeys(one.plain for one in asked))
        texts = torch.cat([self._text(text) for text in plain])
        at = torch.tensor([plain.index(one.plain) for one in asked])
        return Scores(
            _likeness("CLIP-I", seen, self._features, references),
            {"CLIP-T": (seen * texts[at]).sum(dim=1).tolist()},
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    @torch.no_grad()
    def _text(self, text: str) -> Tensor:
        """Return a text's direction, [1, D]."""
        ids = torch.tensor([self._ids(text)], device=self._model.device)
        pooled = self._model.text_model(input_ids=ids).pooler_output
        return F.normalize(self._model.text_projection(pooled).float().cpu(), dim=1)

    def _features(self, pictures: Sequence[Pixels]) -> Tensor:
        def seen(pixel_values: Tensor) -> Tensor:
            pooled = self._model.vision_model(pixel_values=pixel_values).pooler_output
            projected: Tensor = self._model.visual_projection(pooled)
            return projected

        return _directions(pictures, self._prepare, seen, self._model)


class DinoScorer:
    """The cosine of DINO's class tokens to each reference, in the mean.

    Get one from `DinoScorer.load`.
    """

    def __init__(self, model: Any, preparation: Preparation) -> None:
        self._model, self._prepare = model, preparation
        self._name = TYPES["dino"][model.config.model_type]

    @classmethod
    def load(cls, source: str | Path, device: torch.device | str = "cpu") -> DinoScorer:
        """Load DINO, DINOv2 or DINOv3 from a folder, or from the hub by its id.

        Raises:
            CoinageError: it is not one, or cannot be loaded.
        """
        from transformers import AutoModel

        folder = _folder("dino", source)
        model = _loaded(AutoModel, folder, "DINO model")
        return cls(model.to(device), preparation_in(folder))

    def score(
        self,
        pictures: Sequence[Pixels],
        asked: Sequence[Asked],  # noqa: ARG002 - it sees pictures alone
        references: Sequence[Pixels],
    ) -> Scores:
        """Return the measure, where there are references."""
        if not references:
            return Scores()
        return Scores(_likeness(self._name, self._features(pictures), self._features, references))

    def _features(self, pictures: Sequence[Pixels]) -> Tensor:
        def seen(pixel_values: Tensor) -> Tensor:
            tokens: Tensor = self._model(pixel_values=pixel_values).last_hidden_state
            return tokens[:, 0]

        return _directions(pictures, self._prepare, seen, self._model)


def _folder(kind: Kind, source: str | Path, *, tokenizer: bool = False) -> Path:
    """Return the folder of an encoder; a hub id's files are fetched into the local cache.

    Raises:
        CoinageError: it is not an encoder of this kind, or the hub cannot be reached.
    """
    if problems := encoder_problems(kind, str(source), kind):
        raise CoinageError(problems[0].what, problems[0].where, problems[0].hint)
    if is_folder(source):
        return Path(source)
    folder = _fetched(str(source), tokenizer=tokenizer)
    if problems := encoder_problems(kind, str(folder), kind):
        raise CoinageError(problems[0].what, str(source), problems[0].hint)
    return folder


def _fetched(hub_id: str, *, tokenizer: bool) -> Path:
    """Return the cached folder of a hub id, with the files that an encoder needs."""
    from huggingface_hub import snapshot_download

    wanted = ["*config.json", "model*.safetensors", "model*.json"]
    if tokenizer:
        wanted += ["vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json"]
    try:
        reach_hub()
        cached = False
    except OSError:
        cached = True  # or nowhere
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, local_files_only=cached))
    except Exception as error:
        what = "no such folder, not in the local cache, and not to be had from the hub"
        raise CoinageError(what, hub_id, "check the name, or give a folder") from error


def _loaded(kind: Any, folder: Path, what: str) -> Any:
    """Return a frozen float32 model, all of whose weights were in its files.

    Raises:
        CoinageError: it cannot be loaded, or weights are missing.
    """
    with libraries_silenced(), reported_as(f"the {what}", str(folder), "cannot load"):
        model, info = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(UNUSED))
    if missing:
        text = f"{len(missing)} weights of the {what} are missing, such as {missing[0]}"
        raise CoinageError(text, str(folder), "download it again")
    return model.requires_grad_(False).eval()


@torch.no_grad()
def _directions(
    pictures: Sequence[Pixels],
    prepare: Preparation,
    seen: Callable[[Tensor], Tensor],
    model: Any,
) -> Tensor:
    """Return what an encoder sees in pictures, [n, D] float32 of length 1 on the CPU."""
    found = []
    for first in range(0, len(pictures), AT_ONCE):
        values = [torch.from_numpy(prepare(p)) for p in pictures[first : first + AT_ONCE]]
        found.append(seen(torch.stack(values).to(model.device)).float().cpu())
    return F.normalize(torch.cat(found), dim=1)


def _likeness(
    name: str,
    seen: Tensor,
    features: Callable[[Sequence[Pixels]], Tensor],
    references: Sequence[Pixels],
) -> dict[str, list[float]]:
    """Return the mean cosine of each picture to the references; nothing without any."""
    if not references:
        return {}
    return {name: (seen @ features(references).T).mean(dim=1).tolist()}
