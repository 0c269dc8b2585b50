"""Check that captions hold the word, with all its vectors within the tokens that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coinage.data.captions import extreme_captions
from coinage.data.sample import Sample
from coinage.errors import Findings
from coinage.text.placeholder import CHUNK, Placeholder, WordEncoder, word_pattern
from coinage.wording import counted

MOST_SHOWN = 3  # captions that a message names
MOST_ASKED = 3 * CHUNK  # tokens that --max_token_length asks for at most
LONGEST_SHOWN = 120  # letters of one


@dataclass(frozen=True, slots=True)
class Coverage:
    """In which images' captions the word is; only images that train are sorted.

    Attributes:
        always: images whose every caption holds the whole word.
        sometimes: images some of whose captions do, such as with wildcards.
        cut: images none of whose captions holds it whole, but one has it too late to be read.
        never: images whose captions all lack it.
        tokens: length of each sample's longest caption, in the samples' order; empty without a
            tokenizer.
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
        """Number of images that train."""
        return len(self.always) + len(self.sometimes) + len(self.cut) + len(self.never)


@dataclass(frozen=True, slots=True)
class _CaptionCheck:
    """Result for one caption with its rules.

    Attributes:
        holds_word: for each of its extreme captions, whether it holds the whole word.
        is_cut: whether one has the word too late to be read.
        length: of the longest, in tokens; 0 without a tokenizer.
    """

    holds_word: tuple[bool, ...]
    is_cut: bool = False
    length: int = 0


def cover_captions(
    samples: Sequence[Sample],
    token: str,
    encoder: WordEncoder | None,
    word: Placeholder | None,
    chunks: int,
) -> Coverage:
    """Sort images by whether their captions hold the word.

    Args:
        samples: of all datasets.
        token: the word.
        encoder: turns captions into token ids; None: the word is looked for in the text.
        word: with its ids; None without a tokenizer.
        chunks: of 75 tokens that are read of a caption.
    """
    always: list[Sample] = []
    sometimes: list[Sample] = []
    cut: list[Sample] = []
    never: list[Sample] = []
    tokens = []
    checks: dict[object, _CaptionCheck] = {}
    for sample in samples:
        key = (sample.caption, sample.subset.captions)
        if key not in checks:
            texts = extreme_captions(*key, token)
            checks[key] = _check_captions(texts, token, encoder, word, chunks)
        check = checks[key]
        if encoder is not None:
            tokens.append(check.length)
        if not sample.trains:
            continue
        if all(check.holds_word):
            always.append(sample)
        elif any(check.holds_word):
            sometimes.append(sample)
        elif check.is_cut:
            cut.append(sample)
        else:
            never.append(sample)
    return Coverage(
        tuple(always), tuple(sometimes), tuple(cut), tuple(never), tuple(tokens), CHUNK * chunks
    )


def _check_captions(
    texts: Sequence[str],
    token: str,
    encoder: WordEncoder | None,
    word: Placeholder | None,
    chunks: int,
) -> _CaptionCheck:
    if encoder is None or word is None:
        pattern = word_pattern([token])
        return _CaptionCheck(tuple(bool(pattern.search(text)) for text in texts))
    holds_word = []
    is_cut = False
    longest = 0
    for text in texts:
        ids = encoder.ids(text)
        longest = max(longest, len(ids))
        read = set(ids)
        if len(ids) > CHUNK:
            read = set().union(*encoder.parts(ids)[:chunks])
        holds_word.append(read.issuperset(word.ids))
        if not holds_word[-1] and set(ids).issuperset(word.ids):
            is_cut = True
    return _CaptionCheck(tuple(holds_word), is_cut, longest)


def find_coverage_problems(
    coverage: Coverage,
    token: str,
    findings: Findings,
    *,
    required: bool,
    others: Sequence[str] = (),
) -> None:
    """Report captions without the word, and captions that are too long.

    Args:
        coverage: of the captions.
        token: the word.
        findings: gets an error if nothing would be learned, a warning if some images teach nothing.
        required: every caption must hold the word: the warning is an error too.
        others: words that learn from the same captions; one that holds any of them is fine.
    """
    learns_nothing = coverage.total > 0 and not coverage.always and not coverage.sometimes
    report = findings.error if required or learns_nothing else findings.warn
    if coverage.cut:
        hint = "put the word first, shorten the captions, use fewer vectors"
        if coverage.limit < MOST_ASKED:
            hint += ", or pass --max_token_length 150"
        report(_cut_off(coverage, token), _examples(coverage.cut), hint)
    lacking = [*coverage.never, *coverage.sometimes]
    words = [token]
    if others and not learns_nothing:
        pattern, words = word_pattern(others), sorted([token, *others])
        lacking = [sample for sample in lacking if not pattern.search(sample.caption)]
    if lacking:
        where = f"{lacking[0].path.parent} ({_examples(lacking)})"
        what = _lacking_all(lacking, coverage, words) if words[1:] else _lacking(coverage, token)
        report(what, where, _hint_for_lacking(coverage, words[0]))
    too_long = sum(count > coverage.limit for count in coverage.tokens) - len(coverage.cut)
    if too_long > 0:
        over = f"{counted(too_long, 'caption')} over {coverage.limit} tokens, cut after the word"
        more = "; --max_token_length reads more" if coverage.limit < MOST_ASKED else ""
        findings.note(f"{over}{more}")


def _cut_off(coverage: Coverage, token: str) -> str:
    are = "is" if len(coverage.cut) == 1 else "are"
    of_all = f"{len(coverage.cut)} of {counted(coverage.total, 'caption')}"
    return f"{of_all} {are} longer than {coverage.limit} tokens, and the word {token} is cut off"


def _lacking(coverage: Coverage, token: str) -> str:
    if len(coverage.never) == coverage.total:
        return f"no caption contains the word {token}: nothing would be learned"
    count = len(coverage.never) + len(coverage.sometimes)
    do, images = ("does", "that image") if count == 1 else ("do", "those images")
    what = f"{count} of {counted(coverage.total, 'caption')} {do} not contain `{token}`"
    if coverage.sometimes:
        what += f" ({len(coverage.sometimes)} of them not always)"
    return f"{what}: it learns nothing from {images}"


def _lacking_all(lacking: Sequence[Sample], coverage: Coverage, words: Sequence[str]) -> str:
    """Describe captions without any of the words that learn from them."""
    do, those = ("does", "that image") if len(lacking) == 1 else ("do", "those images")
    named = " nor ".join(f"`{word}`" for word in words)
    of_all = f"{len(lacking)} of {counted(coverage.total, 'caption')}"
    return f"{of_all} {do} contain neither {named}: they learn nothing from {those}"


def _hint_for_lacking(coverage: Coverage, token: str) -> str:
    example = f'such as "a photo of {token}"'
    hint = f"write {token} into each caption file, {example}, or use --use_object_template"
    if any(token.lower() in sample.caption.lower() for sample in coverage.never):
        hint += "; letter case and word boundaries count"
    return hint


def _examples(samples: Sequence[Sample]) -> str:
    shown = samples[:MOST_SHOWN]
    return "; ".join(f"{sample.path.name}: {_shortened(sample.caption)!r}" for sample in shown)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
