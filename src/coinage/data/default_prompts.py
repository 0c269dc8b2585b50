"""Choose the previews of a run that names none: with the word and, for comparison, without it.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from coinage.config import PreviewConfig, WordConfig
from coinage.data.captions import extreme_captions
from coinage.data.sample import Sample
from coinage.text.placeholder import word_pattern
from coinage.text.prompts import Prompt

SAMPLER_STEPS = 20  # enough for a look
SEED = 1
LONGEST_SIDE = 1024  # pixels
EDITS = ("on a beach", "on a blue background")  # the first whose last word the model knows
# Of a run's UNet passes, at most, go into previews that nobody asked for; those at a run's early
# end and at its best step come on top.
PREVIEW_SHARE = 0.1
PASSES_OF_STEP = 3  # forward and backward pass of an image, in forward passes
PASSES_OF_PICTURE = 2 * SAMPLER_STEPS  # with guidance
MOST_TIMES = 10


def default_prompts(
    samples: Sequence[Sample],
    word: WordConfig,
    size_wh: tuple[int, int],
    config: PreviewConfig,
    knows: Callable[[str], bool],
) -> list[Prompt]:
    """Return prompts with the word alone, in a caption of the dataset, and edited; all of one seed.

    The latter two come without the word too. A word for the negative prompt stands there, beside a
    photo of anything; and the same prompt comes without it.

    Args:
        samples: of the dataset; the first whose caption holds the word gives its caption.
        word: to draw.
        size_wh: of the pictures, pixels.
        config: gives the sampler.
        knows: returns whether a word is one token of the model's vocabulary.
    """
    width, height = (min(side, LONGEST_SIDE) // 8 * 8 for side in size_wh)
    plain = Prompt(
        text="", width=width, height=height, seed=SEED, steps=SAMPLER_STEPS, sampler=config.sampler
    )
    edit = next((edit for edit in EDITS if knows(edit.split()[-1])), None)
    if word.role == "negative":
        return _negative_prompts(plain, word.token, edit)
    prompts: list[Prompt] = []
    for text in _texts(samples, word.token, edit):
        prompts.append(replace(plain, text=text))
        rest = without_word(text, word.token)
        if rest and not word_pattern([word.token]).search(rest):
            prompts.append(replace(plain, text=rest, of=len(prompts) - 1))
    return prompts


def _negative_prompts(plain: Prompt, token: str, edit: str | None) -> list[Prompt]:
    """Return prompts with the word as negative prompt and without it.

    Captions are not used, since training uses sentences in their place.
    """
    texts = ["a photo"]
    if edit:
        texts.append(f"a photo {edit}")
    prompts: list[Prompt] = []
    for text in texts:
        prompts.append(replace(plain, text=text, negative=token))
        prompts.append(replace(plain, text=text, of=len(prompts) - 1))
    return prompts


def _texts(samples: Sequence[Sample], token: str, edit: str | None) -> list[str]:
    """Return the texts with the word, each once."""
    captions = _captions_with(samples, token)
    if not edit:
        return list(dict.fromkeys([token, *captions[:2]]))
    edited = f"{token} {edit}"
    if any(sample.subset.captions.template == "style" for sample in samples):
        place = edit.partition(" ")[2]
        edited = f"{place} in the style of {token}"
    return list(dict.fromkeys([token, *captions[:1], edited]))


def _captions_with(samples: Sequence[Sample], token: str) -> list[str]:
    """Return all captions of training images that hold the word, each once."""
    pattern = word_pattern([token])
    captions: dict[str, None] = {}
    for sample in samples:
        if not sample.trains:
            continue
        for text in extreme_captions(sample.caption, sample.subset.captions, token):
            if pattern.search(text):
                captions[text] = None
    return list(captions)


def without_word(text: str, token: str) -> str:
    """Return a prompt without the word and the `of a` before it; "" where nothing is left."""
    before = r"(?:(?:in the style )?of\s+)?(?:(?:an?|the)\s+)?"
    rest = re.sub(rf"(?<!\w){before}(?<!\w){re.escape(token)}(?!\w)", "", text)
    return re.sub(r"\s*,(?:\s*,)+", ",", " ".join(rest.split())).replace(" ,", ",").strip(" ,")


def times_within_share(prompts: Sequence[Prompt], steps: int, images_per_step: float) -> int:
    """Return how often previews can be drawn in a run, so that they take at most a tenth of it.

    Prompts without the word are drawn once. 0 where not even two times are within the share: at the
    run's beginning and end.
    """
    passes_each_time = sum(prompt.of is None for prompt in prompts) * PASSES_OF_PICTURE
    passes_once = len(prompts) * PASSES_OF_PICTURE - passes_each_time
    allowed = PREVIEW_SHARE * steps * images_per_step * PASSES_OF_STEP
    times = int((allowed - passes_once) // max(passes_each_time, 1))
    return min(times, MOST_TIMES) if times > 1 else 0


def steps_for(times: int, total: int) -> frozenset[int]:
    """Return the steps after which previews are drawn: from 0 to the last one, evenly."""
    if times <= 1:
        return frozenset()
    return frozenset(round(number * total / (times - 1)) for number in range(times))
