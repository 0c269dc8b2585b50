"""Captions as pure strings: how a caption varies, and the sentences that may replace it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coinage.data_config import CAPTION_SLOT, CaptionRules, Template
from coinage.text.placeholder import word_pattern

# The 27 object and 19 style sentences of the original release (Gal et al. 2022, arXiv:2208.01618),
# kept as their parts: (what it is, article, adjective).
_OBJECT_PARTS = """
a photo of|a; a rendering of|a; a cropped photo of|the; the photo of|a; a photo of|a clean;
a photo of|a dirty; a dark photo of|the; a photo of|my; a photo of|the cool;
a close-up photo of|a; a bright photo of|the; a cropped photo of|a; a photo of|the;
a good photo of|the; a photo of|one; a close-up photo of|the; a rendition of|the;
a photo of|the clean; a rendition of|a; a photo of|a nice; a good photo of|a; a photo of|the nice;
a photo of|the small; a photo of|the weird; a photo of|the large; a photo of|a cool;
a photo of|a small
"""
_STYLE_SUBJECTS = """
a painting; a rendering; a cropped painting; the painting; a clean painting; a dirty painting;
a dark painting; a picture; a cool painting; a close-up painting; a bright painting;
a cropped painting; a good painting; a close-up painting; a rendition; a nice painting;
a small painting; a weird painting; a large painting
"""


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(";")]


TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": tuple(" ".join([*part.split("|"), "{}"]) for part in _split(_OBJECT_PARTS)),
    "style": tuple(f"{subject} in the style of {{}}" for subject in _split(_STYLE_SUBJECTS)),
}


class Choices(Protocol):
    """Decide what a caption's rules leave open; the rules themselves are in `apply_rules` alone."""

    def pick(self, texts: Sequence[str]) -> str:
        """Return one of several texts: a template, a line, a wildcard's option."""
        ...

    def order(self, tags: Sequence[str]) -> list[str]:
        """Return shuffled tags."""
        ...

    def warm_up(self, count: int, rules: CaptionRules) -> int:
        """Return how many of `count` tags are used now, while the tag warm-up lasts."""
        ...

    def keep(self, rates: Sequence[float]) -> Sequence[bool]:
        """Return for each of several tags whether it stays, at its dropout rate of 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class RandomChoices:
    """Choose at random, for one use of a caption.

    Attributes:
        rng: draws everything.
        step: optimizer steps done so far, for the tag warm-up.
        total: optimizer steps of the run, for a warm-up that is a fraction of it.
    """

    rng: np.random.Generator
    step: int = 0
    total: int = 0

    def pick(self, texts: Sequence[str]) -> str:
        return texts[int(self.rng.integers(len(texts)))]

    def order(self, tags: Sequence[str]) -> list[str]:
        shuffled = list(tags)
        self.rng.shuffle(shuffled)
        return shuffled

    def warm_up(self, count: int, rules: CaptionRules) -> int:
        length = int(rules.warmup * self.total) if rules.warmup < 1 else int(rules.warmup)
        if self.step >= length:
            return count
        return int(self.step * (count - rules.warmup_min) / length) + rules.warmup_min

    def keep(self, rates: Sequence[float]) -> Sequence[bool]:
        draws = self.rng.random(len(rates))
        return [bool(draw >= rate) for draw, rate in zip(draws, rates, strict=True)]


@dataclass(frozen=True, slots=True)
class ExtremeChoices:
    """Choose the longest text with the word, or without it, and use every tag, the word's last.

    Attributes:
        word: pattern of the word.
        seek: prefer texts with the word; False: texts without it.
    """

    word: re.Pattern[str]
    seek: bool

    def pick(self, texts: Sequence[str]) -> str:
        return max(texts, key=lambda text: (bool(self.word.search(text)) == self.seek, len(text)))

    def order(self, tags: Sequence[str]) -> list[str]:
        return sorted(tags, key=lambda tag: bool(self.word.search(tag)))

    def warm_up(self, count: int, rules: CaptionRules) -> int:  # noqa: ARG002 - as in Choices
        return count

    def keep(self, rates: Sequence[float]) -> Sequence[bool]:
        return [True] * len(rates)


def vary(
    caption: str,
    rules: CaptionRules,
    token: str,
    rng: np.random.Generator,
    step: int = 0,
    total: int = 0,
    others: Sequence[str] = (),
) -> str:
    """Return the caption as it is used this time.

    Args:
        caption: the image's caption; several lines only with wildcards on.
        rules: template, lines, wildcards, prefix, suffix, tags.
        token: the new word, put into a template's slot; a tag that holds it is never left out.
        rng: draws line, wildcards, template, order and dropped tags.
        step: optimizer steps done so far, for the tag warm-up.
        total: optimizer steps of the run, for a warm-up that is a fraction of it.
        others: words that learn from the same captions; a tag that holds one is never left out either.

    Returns:
        The caption, one line; unchanged when no rule applies.
    """
    return apply_rules(caption, rules, token, RandomChoices(rng, step, total), others)


def extreme_captions(caption: str, rules: CaptionRules, token: str) -> list[str]:
    """Return the captions that decide whether every use holds the whole word.

    These are the longest caption, in letters, and with wildcards the longest one without the word.
    No tag is left out, and where tags are shuffled the word's come last, where they are cut first.
    So if each of these captions holds the word, every use does; if none does, no use can.
    """
    word = word_pattern([token])
    lines = caption.split("\n") if rules.wildcard else [caption]
    preferences = (False, True) if rules.wildcard else (False,)
    captions: dict[str, None] = {}
    for line in lines:
        for seek in preferences:
            captions[apply_rules(line, rules, token, ExtremeChoices(word, seek))] = None
    return list(captions)


def apply_rules(
    caption: str, rules: CaptionRules, token: str, choices: Choices, others: Sequence[str] = ()
) -> str:
    """Return the caption that the rules make, in sd-scripts' order of stages.

    Args:
        caption: the image's caption.
        rules: template, lines, wildcards, prefix, suffix, tags.
        token: the new word, which no rule leaves out.
        choices: decides what the rules leave open.
        others: words that no rule leaves out either.
    """
    kept = word_pattern([token, *others])
    text = _from_caption(caption, rules, kept, choices) if rules.use_captions else ""
    if rules.template:
        return choices.pick(_filled(rules.template, token, text))
    return text


def _filled(template: Template, token: str, caption: str) -> list[str]:
    """Return the sentences with the word and the caption in place.

    Without a caption, those that need one are left out, unless there are no others.
    """
    sentences = TEMPLATES[template] if isinstance(template, str) else template
    without = [text for text in sentences if CAPTION_SLOT not in text]
    usable = sentences if caption or not without else without
    return [text.replace("{}", token).replace(CAPTION_SLOT, caption) for text in usable]


def _from_caption(
    caption: str, rules: CaptionRules, kept: re.Pattern[str], choices: Choices
) -> str:
    """Return the caption that all rules but the template make; no rule leaves out what is kept."""
    text = _line(caption, rules, choices)
    if rules.wildcard:
        text = fill_wildcards(text, choices.pick)
    if _has_tags(text, rules):
        head, free, tail = split_tags(text, rules)
        free = _vary_tags(free, rules, kept, choices)
        text = _join([*head, *free, *tail], rules)
    if rules.secondary_separator:
        text = text.replace(rules.secondary_separator, rules.separator)
    return text


def _line(caption: str, rules: CaptionRules, choices: Choices) -> str:
    """Return one line of the caption, with prefix and suffix."""
    lines = caption.split("\n")
    line = choices.pick(lines) if rules.wildcard and len(lines) > 1 else lines[0]
    return " ".join(filter(None, (rules.prefix, line, rules.suffix)))


def _has_tags(text: str, rules: CaptionRules) -> bool:
    """Return whether any rule treats the caption as tags."""
    has_keep_separator = bool(rules.keep_separator) and rules.keep_separator in text
    return rules.shuffle or rules.warmup > 0 or rules.tag_dropout > 0 or has_keep_separator


def _vary_tags(
    tags: list[str], rules: CaptionRules, word: re.Pattern[str], choices: Choices
) -> list[str]:
    """Warm up, shuffle and drop the tags that are free to vary; those with the word stay."""
    used = max(0, choices.warm_up(len(tags), rules))
    tags = [*tags[:used], *filter(word.search, tags[used:])]
    if rules.shuffle:
        tags = choices.order(tags)
    if rules.tag_dropout > 0:
        keeps = _kept(len(tags), rules, choices)
        remaining = []
        for tag, keep in zip(tags, keeps, strict=True):
            if keep or word.search(tag) or is_protected(tag, rules):
                remaining.append(tag)
        tags = remaining
    return tags


def _kept(count: int, rules: CaptionRules, choices: Choices) -> Sequence[bool]:
    """Return for each of `count` tags whether chance lets it stay."""
    rate = rules.tag_dropout
    if rules.tag_dropout_mode == "full":
        return list(choices.keep([rate])) * count
    if rules.tag_dropout_mode == "random_weighted":
        return choices.keep([rate * number / count for number in range(1, count + 1)])
    return choices.keep([rate] * count)


def is_protected(tag: str, rules: CaptionRules) -> bool:
    """Return whether the special tags keep a tag from being dropped.

    A tag is also recognised in brackets: `(smile)` is `smile`.
    """
    if not rules.special_tags:
        return False
    names = (tag, tag.strip("()"))
    if rules.special_tags_regex:
        is_special = any(re.fullmatch(p, name) for p in rules.special_tags for name in names)
    else:
        is_special = any(name in rules.special_tags for name in names)
    return is_special == (rules.special_tags_mode == "whitelist")


def fill_wildcards(text: str, pick: Callable[[Sequence[str]], str]) -> str:
    """Replace each `{a|b|c}` by one of its parts; `{{` and `}}` are literal braces; no nesting."""
    opened, closed = "\x00", "\x01"
    text = text.replace("{{", opened).replace("}}", closed)
    parts = []
    place = 0
    while True:
        start = text.find("{", place)
        end = text.find("}", start)
        if start < 0 or end < 0:
            break
        options = text[start + 1 : end]
        parts += [text[place:start], pick(options.split("|")) if options else "{}"]
        place = end + 1
    parts.append(text[place:])
    return "".join(parts).replace(opened, "{").replace(closed, "}")


def split_tags(text: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """Return the tags that stay in front, those that vary, and those that stay at the end."""
    if rules.keep_separator and rules.keep_separator in text:
        first, _, rest = text.partition(rules.keep_separator)
        middle, _, last = rest.partition(rules.keep_separator)
        return _tags(first, rules), _tags(middle, rules), _tags(last, rules)
    tags = _tags(text, rules, keep_empty=rules.as_reference)
    return tags[: rules.keep_tokens], tags[rules.keep_tokens :], []


def _tags(text: str, rules: CaptionRules, *, keep_empty: bool = False) -> list[str]:
    tags = [part.strip() for part in text.split(rules.separator)]
    return tags if keep_empty else list(filter(None, tags))


def _join(tags: Sequence[str], rules: CaptionRules) -> str:
    separator = ", " if rules.as_reference else f"{rules.separator.rstrip()} "
    return separator.join(tags)
