"""Whether captions hold the word, all its vectors within the length that the text encoder reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coinage.data.captions import extreme_captions
from coinage.data.sample import Sample
from coinage.errors import Findings
from coinage.text.placeholder import CHUNK, Placeholder, WordEncoder, word_pattern
from coinage.wording import counted

SHOWN = 3  # captions named in a message


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the word in every image's captions; only images that teach it are asked.

    Attributes:
        always: images whose every caption holds the word whole.
        sometimes: images some of whose captions do, such as with wildcards.
        cut: images without a caption that does, but with one that has the word too late to be read.
        never: images whose captions all lack it.
        tokens: length of each sample's longest caption, in the samples' order; empty without a tokenizer.
        limit: tokens that are read; longer captions are cut.
    """

    always: tuple[Sample, ...]
    sometimes: tuple[Sample, ...]
    cut: tuple[Sample, ...]
    never: tuple[Sample, ...]
    tokens: tuple[int, ...]
    limit: int

    @property
    def total(self) -> int:
        """Number of images that were asked."""
        return len(self.always) + len(self.sometimes) + len(self.cut) + len(self.never)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a caption's extremes came to: does each hold the word whole, has one it too late, the longest length."""

    held: tuple[bool, ...]
    too_late: bool
    length: int


def cover_captions(
    samples: Sequence[Sample],
    token: str,
    encoder: WordEncoder | None,
    word: Placeholder | None,
    chunks: int,
) -> Coverage:
    """Try every caption that decides, at token-id level where there is a tokenizer."""
    pattern = word_pattern([token])
    groups: dict[str, list[Sample]] = {"always": [], "sometimes": [], "cut": [], "never": []}
    tokens = []
    seen: dict[object, _Tried] = {}
    for sample in samples:
        key = (sample.caption, sample.subset.captions)
        if key not in seen:
            seen[key] = _try(extreme_captions(*key, token), pattern, encoder, word, chunks)
        tried = seen[key]
        if encoder is not None:
            tokens.append(tried.length)
        if sample.trains:
            kind = (
                "always"
                if all(tried.held)
                else "sometimes"
                if any(tried.held)
                else "cut"
                if tried.too_late
                else "never"
            )
            groups[kind].append(sample)
    return Coverage(
        **{kind: tuple(found) for kind, found in groups.items()},
        tokens=tuple(tokens),
        limit=CHUNK * chunks,
    )


def _try(
    texts: Sequence[str],
    pattern: re.Pattern[str],
    encoder: WordEncoder | None,
    word: Placeholder | None,
    chunks: int,
) -> _Tried:
    if encoder is None or word is None:
        return _Tried(tuple(bool(pattern.search(text)) for text in texts), too_late=False, length=0)
    held, too_late, longest = [], False, 0
    for text in texts:
        ids = encoder.ids(text)
        longest = max(longest, len(ids))
        kept = set().union(*encoder.parts(ids)[:chunks]) if len(ids) > CHUNK else set(ids)
        held.append(kept.issuperset(word.ids))
        too_late = too_late or (not held[-1] and set(ids).issuperset(word.ids))
    return _Tried(tuple(held), too_late, longest)


def report_coverage(coverage: Coverage, token: str, findings: Findings, *, required: bool) -> None:
    """An error if nothing would be learned, a warning if some images teach nothing (an error when required)."""
    total = coverage.total
    nothing = total > 0 and not coverage.always and not coverage.sometimes
    if coverage.cut:
        are = "is" if len(coverage.cut) == 1 else "are"
        cut = f"{len(coverage.cut)} of {counted(total, 'caption')} {are} longer than {coverage.limit} tokens"
        what = f"{cut}, and the word {token} is cut off"
        hint = "put the word first, shorten the captions, use fewer vectors, or pass --max_token_length 150"
        _tell(what, _examples(coverage.cut), hint, findings, is_error=required or nothing)
    lacking = [*coverage.never, *coverage.sometimes]
    if lacking:
        where = f"{lacking[0].path.parent} ({_examples(lacking)})"
        hint = f'write {token} into each caption file, such as "a photo of {token}", or use --use_object_template'
        if any(token.lower() in sample.caption.lower() for sample in coverage.never):
            hint += "; letter case and word boundaries count"
        often = "" if not coverage.sometimes else f" ({len(coverage.sometimes)} of them not always)"
        do, images = ("does", "that image") if len(lacking) == 1 else ("do", "those images")
        what = f"{len(lacking)} of {counted(total, 'caption')} {do} not contain `{token}`{often}: it learns nothing from {images}"
        if len(coverage.never) == total:
            what = f"no caption contains the word {token}: nothing would be learned"
        _tell(what, where, hint, findings, is_error=required or nothing)
    longer = sum(count > coverage.limit for count in coverage.tokens) - len(coverage.cut)
    if longer > 0:
        findings.note(
            f"{counted(longer, 'caption')} over {coverage.limit} tokens, cut after the word; --max_token_length reads more"
        )


def _tell(what: str, where: str, hint: str, findings: Findings, *, is_error: bool) -> None:
    (findings.error if is_error else findings.warn)(what, where, hint)


def _examples(samples: Sequence[Sample]) -> str:
    return "; ".join(f"{s.path.name}: {_short(s.caption)!r}" for s in samples[:SHOWN])


def _short(text: str, length: int = 120) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
