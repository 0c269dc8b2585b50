"""Captions as pure strings: how a caption varies, and what a template makes of it."""

from __future__ import annotations

import re

import numpy as np

from coinage.config import CaptionRules
from coinage.seeding import rng_for

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


def vary(caption: str, rules: CaptionRules, token: str, rng: np.random.Generator, step: int = 0) -> str:
    """The caption as used this time. The order of stages is the reference trainer's.

    Args:
        caption: the image's caption; several lines only with wildcards on.
        rules: template, lines, wildcards, prefix, suffix, tags.
        token: the new word, put into a template's slot; a tag that holds it is never left out.
        rng: draws line, wildcards, template, order and dropped tags.
        step: optimizer steps done so far, for the tag warm-up.

    Returns:
        The caption, one line; unchanged when no rule applies.
    """
    if rules.template:
        return str(rng.choice(TEMPLATES[rules.template])).format(token)
    lines = caption.split("\n")
    line = lines[rng.integers(len(lines))] if rules.wildcard and len(lines) > 1 else lines[0]
    if rules.wildcard:
        line = draw_wildcards(line, rng)
    text = " ".join(part for part in (rules.prefix, line, rules.suffix) if part)
    if rules.shuffle or rules.warmup_steps > 0 or rules.tag_dropout > 0 or (rules.keep_separator and rules.keep_separator in text):
        text = vary_tags(text, rules, token, rng, step)
    if rules.secondary_separator:
        text = text.replace(rules.secondary_separator, rules.separator)
    return text


def draw_wildcards(text: str, rng: np.random.Generator) -> str:
    """Replace each `{a|b|c}` by one of its parts; `{{` and `}}` are literal braces; no nesting."""
    opened, closed = "\x00", "\x01"

    def choose(match: re.Match[str]) -> str:
        parts = match[1].split("|")
        return parts[rng.integers(len(parts))]

    text = re.sub(r"\{([^}]+)\}", choose, text.replace("{{", opened).replace("}}", closed))
    return text.replace(opened, "{").replace(closed, "}")


def _tags(text: str, separator: str) -> list[str]:
    return [tag for part in text.split(separator) if (tag := part.strip())]


def vary_tags(text: str, rules: CaptionRules, token: str, rng: np.random.Generator, step: int) -> str:
    """Warm up, shuffle and drop the tags that are free to vary; head and tail stay in place."""
    head, free, tail = split_tags(text, rules)
    if rules.warmup_steps > 0 and step < rules.warmup_steps:
        count = int(step * (len(free) - rules.warmup_min) / rules.warmup_steps) + rules.warmup_min
        free = [tag for i, tag in enumerate(free) if i < count or token in tag]
    if rules.shuffle:
        rng.shuffle(free)
    if rules.tag_dropout > 0:
        draws = rng.random(len(free))
        free = [tag for tag, draw in zip(free, draws, strict=True) if draw >= rules.tag_dropout or token in tag]
    return f"{rules.separator} ".join([*head, *free, *tail])


def split_tags(text: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay in front, tags that vary, tags that stay at the end."""
    if rules.keep_separator and rules.keep_separator in text:
        first, _, rest = text.partition(rules.keep_separator)
        middle, _, last = rest.partition(rules.keep_separator)
        return _tags(first, rules.separator), _tags(middle, rules.separator), _tags(last, rules.separator)
    tags = _tags(text, rules.separator)
    return tags[: rules.keep_tokens], tags[rules.keep_tokens :], []


def variants(caption: str, rules: CaptionRules, token: str, draws: int = 8) -> list[str]:
    """Captions as a run may use them: several draws at the first step, where the warm-up cuts most."""
    if not (rules.wildcard or rules.shuffle or rules.tag_dropout or rules.template):
        draws = 1
    return [vary(caption, rules, token, rng_for("variant", i)) for i in range(draws)]
