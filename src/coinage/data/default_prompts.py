"""Previews of a run that names none: what the word draws, and what the same prompt draws without it. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from coinage.config import PreviewConfig, WordConfig
from coinage.data.captions import extreme_captions
from coinage.data.sample import Sample
from coinage.text.placeholder import word_pattern
from coinage.text.prompts import Prompt

STEPS = 20  # of the sampler; enough for a look
SEED = 1
MOST_SIDE = 1024  # pixels
EDITS = ("on a beach", "on a blue background")  # the first whose last word the model knows
# Of a run's UNet passes, at most, go into previews that nobody asked for; those of a run's early end and of its best step
# come on top.
SHARE = 0.1
PASSES_OF_STEP = 3  # an image's forward and backward pass, in forward passes
PASSES_OF_PICTURE = 2 * STEPS  # with guidance
MOST_TIMES = 10


def default_prompts(
    samples: Sequence[Sample],
    word: WordConfig,
    size_wh: tuple[int, int],
    config: PreviewConfig,
    knows: Callable[[str], bool],
) -> list[Prompt]:
    """The word alone, in a caption of the dataset, and edited; the latter two also without the word. One seed for all.

    A word for the negative prompt stands there, beside a photo of anything; and the same without it.

    Args:
        samples: of the dataset; the first whose caption holds the word gives it.
        word: to draw.
        size_wh: of the pictures, pixels.
        config: gives the sampler.
        knows: whether a word is one token of the model's vocabulary.
    """
    token = word.token
    width, height = (min(side, MOST_SIDE) // 8 * 8 for side in size_wh)
    plain = Prompt(
        text="", width=width, height=height, seed=SEED, steps=STEPS, sampler=config.sampler
    )
    edit = next((edit for edit in EDITS if knows(edit.split()[-1])), None)
    if word.role == "negative":  # captions are not read where sentences take their place
        told = ["a photo", f"a photo {edit}"] if edit else ["a photo"]
        pairs = [
            (replace(plain, text=text, negative=token), replace(plain, text=text, of=2 * at))
            for at, text in enumerate(told)
        ]
        return [prompt for pair in pairs for prompt in pair]
    held = [
        text
        for sample in samples
        if sample.trains
        for text in extreme_captions(sample.caption, sample.subset.captions, token)
    ]
    texts = dict.fromkeys([token])
    captions = list(dict.fromkeys(text for text in held if word_pattern([token]).search(text)))
    style = any(sample.subset.captions.template == "style" for sample in samples)
    edited = (
        f"{edit.partition(' ')[2]} in the style of {token}" if style and edit else f"{token} {edit}"
    )
    texts |= dict.fromkeys([*captions[:1], edited] if edit else captions[:2])
    found: list[Prompt] = []
    for text in texts:
        found.append(replace(plain, text=text))
        rest = without_word(text, token)
        if rest and not word_pattern([token]).search(rest):
            found.append(replace(plain, text=rest, of=len(found) - 1))
    return found


def without_word(text: str, token: str) -> str:
    """A prompt without the word, and without the `of a` before it; "" where nothing is left."""
    rest = re.sub(
        rf"(?<!\w)(?:(?:in the style )?of\s+)?(?:(?:an?|the)\s+)?(?<!\w){re.escape(token)}(?!\w)",
        "",
        text,
    )
    return re.sub(r"\s*,(?:\s*,)+", ",", " ".join(rest.split())).replace(" ,", ",").strip(" ,")


def times_within_share(prompts: Sequence[Prompt], steps: int, images_per_step: float) -> int:
    """How often previews can be drawn in a run, so that they take at most a tenth of it; 0 where not even at its begin and end."""
    each = sum(prompt.of is None for prompt in prompts) * PASSES_OF_PICTURE
    once = len(prompts) * PASSES_OF_PICTURE - each
    times = int((SHARE * steps * images_per_step * PASSES_OF_STEP - once) // max(each, 1))
    return min(times, MOST_TIMES) if times > 1 else 0


def steps_for(times: int, total: int) -> frozenset[int]:
    """The steps after which previews are drawn: from before the first one to the last, evenly."""
    return (
        frozenset(round(i * total / (times - 1)) for i in range(times))
        if times > 1
        else frozenset()
    )
