"""Captions as pure strings: how a caption varies, and what a template makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coinage.config import CaptionRules
from coinage.text.placeholder import word_pattern

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


Choose = Callable[[Sequence[str]], str]


def vary(
    caption: str,
    rules: CaptionRules,
    token: str,
    rng: np.random.Generator,
    step: int = 0,
    total: int = 0,
) -> str:
    """The caption as used this time. The order of stages is sd-scripts'.

    Args:
        caption: the image's caption; several lines only with wildcards on.
        rules: template, lines, wildcards, prefix, suffix, tags.
        token: the new word, put into a template's slot; a tag that holds it is never left out.
        rng: draws line, wildcards, template, order and dropped tags.
        step: optimizer steps done so far, for the tag warm-up.
        total: optimizer steps of the run, for a warm-up that is a fraction of it.

    Returns:
        The caption, one line; unchanged when no rule applies.
    """

    def choose(parts: Sequence[str]) -> str:
        return parts[int(rng.integers(len(parts)))]

    if rules.template:
        return choose(TEMPLATES[rules.template]).format(token)
    text = _line(caption, rules, choose)
    if _has_tags(text, rules):
        head, free, tail = split_tags(text, rules)
        free = _vary_tags(free, rules, token, rng, step, total)
        text = _join([*head, *free, *tail], rules)
    return _without_secondary(text, rules)


def extremes(caption: str, rules: CaptionRules, token: str) -> list[str]:
    """The captions that decide whether every use holds the word whole: the longest, and those without it if there are any.

    Long is counted in letters. No tag is left out, and where tags are shuffled the word's come last, where they are cut first. So if each
    of these holds the word, every use does; if none does, no use can.
    """
    if rules.template:
        return [max(TEMPLATES[rules.template], key=len).format(token)]
    pattern = word_pattern([token])

    def shun(parts: Sequence[str]) -> str:
        return max(parts, key=lambda part: (not pattern.search(part), len(part)))

    def seek(parts: Sequence[str]) -> str:
        return max(parts, key=lambda part: (bool(pattern.search(part)), len(part)))

    found: dict[str, None] = {}
    for line in caption.split("\n") if rules.wildcard else [caption]:
        for choose in (shun, seek) if rules.wildcard else (shun,):
            text = _line(line, rules, choose)
            if _has_tags(text, rules):
                head, free, tail = split_tags(text, rules)
                if rules.shuffle:
                    free = sorted(free, key=lambda tag: bool(pattern.search(tag)))
                text = _join([*head, *free, *tail], rules)
            found[_without_secondary(text, rules)] = None
    return list(found)


def _line(caption: str, rules: CaptionRules, choose: Choose) -> str:
    """One line with prefix and suffix, its wildcards chosen."""
    lines = caption.split("\n")
    line = choose(lines) if rules.wildcard and len(lines) > 1 else lines[0]
    text = " ".join(part for part in (rules.prefix, line, rules.suffix) if part)
    return fill_wildcards(text, choose) if rules.wildcard else text


def _has_tags(text: str, rules: CaptionRules) -> bool:
    return (
        rules.shuffle
        or rules.warmup > 0
        or rules.tag_dropout > 0
        or (bool(rules.keep_separator) and rules.keep_separator in text)
    )


def _without_secondary(text: str, rules: CaptionRules) -> str:
    return (
        text.replace(rules.secondary_separator, rules.separator)
        if rules.secondary_separator
        else text
    )


def fill_wildcards(text: str, choose: Choose) -> str:
    """Replace each `{a|b|c}` by one of its parts; `{{` and `}}` are literal braces; no nesting."""
    opened, closed = "\x00", "\x01"
    text = text.replace("{{", opened).replace("}}", closed)
    done, at = [], 0
    while (start := text.find("{", at)) >= 0 and (end := text.find("}", start)) >= 0:
        empty = end == start + 1  # {} stays
        done += [text[at:start], "{}" if empty else choose(text[start + 1 : end].split("|"))]
        at = end + 1
    return "".join([*done, text[at:]]).replace(opened, "{").replace(closed, "}")


def _tags(text: str, separator: str, *, keep_empty: bool = False) -> list[str]:
    return [tag for part in text.split(separator) if (tag := part.strip()) or keep_empty]


def _join(tags: Sequence[str], rules: CaptionRules) -> str:
    return (", " if rules.as_reference else f"{rules.separator.rstrip()} ").join(tags)


def _vary_tags(
    free: list[str],
    rules: CaptionRules,
    token: str,
    rng: np.random.Generator,
    step: int,
    total: int,
) -> list[str]:
    """Warm up, shuffle and drop the tags that are free to vary."""
    pattern = word_pattern([token])
    warmup = int(rules.warmup * total) if rules.warmup < 1 else int(rules.warmup)
    if step < warmup:
        count = int(step * (len(free) - rules.warmup_min) / warmup) + rules.warmup_min
        free = [tag for i, tag in enumerate(free) if i < count or pattern.search(tag)]
    if rules.shuffle:
        rng.shuffle(free)
    if rules.tag_dropout > 0:
        draws = rng.random(len(free))
        free = [
            tag
            for tag, draw in zip(free, draws, strict=True)
            if draw >= rules.tag_dropout or pattern.search(tag)
        ]
    return free


def split_tags(text: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay in front, tags that vary, tags that stay at the end."""
    if rules.keep_separator and rules.keep_separator in text:
        first, _, rest = text.partition(rules.keep_separator)
        middle, _, last = rest.partition(rules.keep_separator)
        return (
            _tags(first, rules.separator),
            _tags(middle, rules.separator),
            _tags(last, rules.separator),
        )
    tags = _tags(text, rules.separator, keep_empty=rules.as_reference)
    return tags[: rules.keep_tokens], tags[rules.keep_tokens :], []
