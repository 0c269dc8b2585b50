"""Check an init word: its tokens, and how they fill the word's vectors. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from coinage.config import WordConfig
from coinage.errors import Findings
from coinage.text.placeholder import Tokenizer, encodable
from coinage.text.whole_words import bare
from coinage.wording import counted, few


def check_init_word(word: WordConfig, tokenizers: Sequence[Tokenizer], findings: Findings) -> None:
    """Report where a word does not start from its init word as one would expect.

    Args:
        word: with its init word, if it has one that is used.
        tokenizers: of each of the model's text encoders.
        findings: gets an error if there are no tokens, a warning if some are cut off, a note if they
            are repeated.
    """
    text = word.init_word
    if text is None or word.init_file or not encodable(text):
        return
    readings = [tuple(tokens_of(text, tokenizer)) for tokenizer in tokenizers]
    for tokens in dict.fromkeys(readings):
        _check_tokens(text, tokens, word.num_vectors, findings)


def _check_tokens(text: str, tokens: Sequence[str], vectors: int, findings: Findings) -> None:
    """Report how one tokenizer's tokens of an init word fill a word's vectors."""
    if not tokens:
        hint = "give a known word close to the concept, such as girl"
        findings.error(f"--init_word: `{text}` has no tokens", hint=hint)
        return
    count = len(tokens)
    quoted = [f"`{token}`" if token else "a space" for token in tokens]  # T5's own, before a word
    names = f" ({few(quoted, 4)})" if readable(tokens) else ""
    what = f"--init_word: `{text}` is {counted(count, 'token')}"
    is_split = len(text.split()) < count  # at least one of its words is several tokens
    if count > vectors:
        used = ", ".join(quoted[:vectors]) if readable(tokens) else f"the first {vectors}"
        verb = "is" if vectors == 1 else "are"
        shown = names if is_split else ""
        findings.warn(
            f"{what}{shown}; with {counted(vectors, 'vector')} only {used} {verb} used",
            hint=f"give a known word of one token, or --num_vectors_per_token {count}",
        )
    elif count > 1 and is_split:
        findings.note(f"{what}{names}: the model does not know it as one word")
    elif count < vectors:
        way = "each starts from it" if count == 1 else "they are taken in turn"
        findings.note(f"{what} for {vectors} vectors: {way}")


def readable(tokens: Sequence[str]) -> bool:
    """Return whether tokens are letters, not bytes of letters that have several."""
    return "".join(tokens).isascii()


def tokens_of(text: str, tokenizer: Tokenizer) -> list[str]:
    """Return a text's tokens as they are written."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    names = {index: name for name, index in tokenizer.get_vocab().items()}
    return [bare(names[index]) for index in ids]
