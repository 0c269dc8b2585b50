"""The model's own prediction without the word, as a target: of a whole picture, or of what a mask hides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coinage.config import WordConfig
from coinage.data.default_prompts import without_word
from coinage.models.base import Components, ModelFamily
from coinage.models.text_cache import TextInputs, encode_inputs, look_up
from coinage.text.placeholder import pieces_of, word_pattern


@dataclass(frozen=True, slots=True)
class Prior:
    """What a sample is held to.

    Attributes:
        caption: the sample's own, without the word.
        whole: the prediction takes the place of the target; False: it is for what the mask hides.
    """

    caption: str
    whole: bool


def own_caption(caption: str, words: Sequence[WordConfig]) -> str:
    """Return a caption with each word's init word in its place; one that has none is left out."""
    for word in words:
        pieces = pieces_of(word.token, word.num_vectors)
        names = word_pattern([*pieces, " ".join(pieces)])
        # In a template of `re`, backslashes would mean something
        caption = names.sub((word.init_word or word.token).replace("\\", r"\\"), caption)
        if not word.init_word:
            caption = without_word(caption, word.token)
    return caption


@dataclass(frozen=True, slots=True)
class PriorInputs:
    """What the predictions for P of B samples are made from, on one device.

    Attributes:
        places: of these samples in the batch, [P] int64.
        whole: for all samples, whether the prediction takes the place of the target, [B] bool.
        text: of their captions.
    """

    places: Tensor
    whole: Tensor
    text: TextInputs

    def mapped(self, change: Callable[[Tensor], Tensor]) -> PriorInputs:
        """Return inputs whose tensors are what `change` makes of these, in a fixed order."""
        return PriorInputs(change(self.places), change(self.whole), self.text.mapped(change))


def prior_inputs(
    family: ModelFamily, parts: Components, priors: Sequence[Prior | None], sizes: Tensor
) -> PriorInputs | None:
    """Return the inputs for the samples that have a prior, on the CPU; None if none has.

    Args:
        family: of the model.
        parts: the model.
        priors: of B samples; () for none.
        sizes: of the samples, [B, 6] int64.
    """
    asked = [(place, prior) for place, prior in enumerate(priors) if prior]
    if not asked:
        return None
    places = torch.tensor([place for place, _ in asked])
    text = look_up(family, parts, [prior.caption for _, prior in asked], sizes[places])
    whole = torch.tensor([prior is not None and prior.whole for prior in priors])
    return PriorInputs(places, whole, text)


@torch.no_grad()
def prior_prediction(
    family: ModelFamily,
    parts: Components,
    inputs: PriorInputs,
    noisy_latents: Tensor,
    timesteps: Tensor,
    target: Tensor,
) -> Tensor:
    """Return the model's own predictions, and the target of samples that have none: [B, C, h, w] float32.

    Args:
        family: of the model.
        parts: the model.
        inputs: what they are made from.
        noisy_latents: of all B samples, [B, C, h, w] float32.
        timesteps: [B].
        target: [B, C, h, w] float32.
    """
    places = inputs.places
    cond = encode_inputs(family, parts, inputs.text)
    made = family.predict(parts, noisy_latents[places], timesteps[places], cond)
    return target.index_copy(0, places, made.float())
