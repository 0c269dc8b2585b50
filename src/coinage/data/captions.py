"""Captions as pure strings: how a caption varies, and what a template makes of it."""

from __future__ import annotations

import numpy as np

from coinage.config import CaptionRules

# The 27 object and 19 style sentences of the original release (Gal et al. 2022, arXiv:2208.01618),
# kept as their parts: (what it is, article, adjective).
_OBJECT_PARTS = """
a photo of|a; a rendering of|a; a cropped photo of|the; the photo of|a; a photo of|a clean; a photo of|a dirty;
a dark photo of|the; a photo of|my; a photo of|the cool; a close-up photo of|a; a bright photo of|the;
a cropped photo of|a; a photo of|the; a good photo of|the; a photo of|one; a close-up photo of|the;
a rendition of|the; a photo of|the clean; a rendition of|a; a photo of|a nice; a good photo of|a;
a photo of|the nice; a photo of|the small; a photo of|the weird; a photo of|the large; a photo of|a cool;
a photo of|a small
"""
_STYLE_SUBJECTS = """
a painting; a rendering; a cropped painting; the painting; a clean painting; a dirty painting; a dark painting;
a picture; a cool painting; a close-up painting; a bright painting; a cropped painting; a good painting;
a close-up painting; a rendition; a nice painting; a small painting; a weird painting; a large painting
"""


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(";")]


TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": tuple(" ".join([*part.split("|"), "{}"]) for part in _split(_OBJECT_PARTS)),
    "style": tuple(f"{subject} in the style of {{}}" for subject in _split(_STYLE_SUBJECTS)),
}


def vary(caption: str, rules: CaptionRules, token: str, rng: np.random.Generator) -> str:
    """The caption as used this time.

    Args:
        caption: the image's caption, one line.
        rules: prefix, suffix, shuffling, template.
        token: the new word, put into a template's slot.
        rng: draws the template and the order of tags.

    Returns:
        The caption; unchanged when no rule applies. Shuffling keeps the first `keep_tokens` tags in
        place and loses no tag; tags are joined by the separator and a space.
    """
    if rules.template:
        return str(rng.choice(TEMPLATES[rules.template])).format(token)
    text = " ".join(part for part in (rules.prefix, caption, rules.suffix) if part)
    if not rules.shuffle:
        return text
    tags = [tag.strip() for tag in text.split(rules.separator)]
    tags = [tag for tag in tags if tag]
    head, tail = tags[: rules.keep_tokens], tags[rules.keep_tokens :]
    rng.shuffle(tail)
    return f"{rules.separator} ".join([*head, *tail])
