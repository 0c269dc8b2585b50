"""Whether captions hold the word, all its vectors within the length that the text encoder reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coinage.data.captions import extremes
from coinage.data.sample import Sample
from coinage.errors import Findings
from coinage.words import CHUNK, Placeholder, WordEncoder, word_pattern

SHOWN = 3  # captions named in a message


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the word in every image's captions; regularisation images are not asked.

    Attributes:
        always: images whose every caption holds the word whole.
        sometimes: images some of whose captions do, such as with wildcards.
        never: images whose captions all lack it.
        cut: those of `sometimes` and `never` where the word is there and too late to be read.
        tokens: length of each sample's longest caption, in the samples' order; empty without a tokenizer.
        limit: tokens that are read; longer captions are cut.
    """

    always: tuple[Sample, ...]
    sometimes: tuple[Sample, ...]
    never: tuple[Sample, ...]
    cut: tuple[Sample, ...]
    tokens: tuple[int, ...]
    limit: int


def cover_captions(samples: Sequence[Sample], token: str, encoder: WordEncoder | None, word: Placeholder | None, chunks: int) -> Coverage:
    """Try every caption that decides, at token-id level where there is a tokenizer."""
    pattern = word_pattern([token])
    groups: dict[bool | None, list[Sample]] = {True: [], None: [], False: []}
    cut, tokens = [], []
    seen: dict[object, tuple[list[bool], bool, int]] = {}
    for sample in samples:
        key = (sample.caption, sample.subset.captions)
        if key not in seen:
            seen[key] = _try(extremes(*key, token), pattern, encoder, word, chunks)
        held, too_late, length = seen[key]
        if encoder is not None:
            tokens.append(length)
        if sample.subset.regularisation:
            continue
        groups[True if all(held) else None if any(held) else False].append(sample)
        if too_late:
            cut.append(sample)
    always, sometimes, never = (tuple(groups[key]) for key in (True, None, False))
    return Coverage(always, sometimes, never, tuple(cut), tuple(tokens), CHUNK * chunks)


def _try(
    texts: Sequence[str], pattern: re.Pattern[str], encoder: WordEncoder | None, word: Placeholder | None, chunks: int
) -> tuple[list[bool], bool, int]:
    """For each text whether the word is read whole; whether one has it too late; the longest length."""
    if encoder is None or word is None:
        return [bool(pattern.search(text)) for text in texts], False, 0
    held, too_late, longest = [], False, 0
    for text in texts:
        ids = encoder.ids(text)
        longest = max(longest, len(ids))
        kept = set().union(*encoder.parts(ids)[:chunks]) if len(ids) > CHUNK else set(ids)
        whole = kept.issuperset(word.ids)
        held.append(whole)
        too_late = too_late or (not whole and not kept.issuperset(ids) and set(ids).issuperset(word.ids))
    return held, too_late, longest


def report_coverage(coverage: Coverage, token: str, findings: Findings, *, required: bool) -> None:
    """An error if nothing would be learned, a warning if some images teach nothing (an error when required)."""
    total = len(coverage.always) + len(coverage.sometimes) + len(coverage.never)
    lacking = [*coverage.never, *coverage.sometimes]
    if not lacking:
        return
    where = f"{lacking[0].path.parent} ({_examples(lacking)})"
    if coverage.cut:
        what = f"captions are longer than {coverage.limit} tokens, and the word {token} is cut off"
        hint = "put the word first, shorten the captions, use fewer vectors, or pass --max_token_length 150"
        _tell(f"{len(coverage.cut)} of {total} {what}", _examples(coverage.cut), hint, findings, is_error=len(coverage.cut) == total)
    lacking = [sample for sample in lacking if sample not in coverage.cut]
    if not lacking:
        return
    hint = f'write {token} into each caption file, such as "a photo of {token}", or use --use_object_template'
    if any(token.lower() in sample.caption.lower() for sample in coverage.never):
        hint += "; letter case and word boundaries count"
    if len(coverage.never) == total and not coverage.cut:
        findings.error(f"no caption contains the word {token}: nothing would be learned", where, hint)
        return
    often = "" if not coverage.sometimes else f" ({len(coverage.sometimes)} of them only sometimes)"
    what = f"{len(lacking)} of {total} captions lack the word {token}{often}: these images teach it nothing"
    _tell(what, where, hint, findings, is_error=required)


def _tell(what: str, where: str, hint: str, findings: Findings, *, is_error: bool) -> None:
    (findings.error if is_error else findings.warn)(what, where, hint)


def _examples(samples: Sequence[Sample]) -> str:
    return "; ".join(f"{s.path.name}: {_short(s.caption)!r}" for s in samples[:SHOWN])


def _short(text: str, length: int = 120) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
