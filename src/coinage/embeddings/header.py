"""The parts of a header that follow the name of its file, and the time in it."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime

from coinage.embeddings.word import Word

HINT_END = "was written in training"
TRAINED = "ti.trained_encoders"  # keys of the only vectors that have learned, ", " between them
USAGE_HINT = "modelspec.usage_hint"


def usage_hint(stem: str, token: str) -> str:
    """Return the header's hint for a file whose name, by which most tools know the word, is not the token."""
    return f"write {stem}, the file's name, where {token} {HINT_END}"


def utc_now() -> str:
    """Return the time as ISO 8601 UTC to the second; SOURCE_DATE_EPOCH, if set, for byte-equal files."""
    try:
        moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        moment = datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def renamed(word: Word, stem: str) -> Word:
    """Return a word with the header for a file with another name.

    Args:
        word: as it was read or trained; its token may have been changed.
        stem: of the new file's name.
    """
    token = word.token
    header = {
        "format": "pt",
        **word.metadata,
        "modelspec.trigger_phrase": stem,
        "ti.num_vectors": str(word.num_vectors),
    }
    if token:
        header["ti.token_string"] = token
    if word.step:
        header["ti.step"] = str(word.step)
    if not token or token == stem:
        if _hint_is_ours(header):
            del header[USAGE_HINT]
    elif USAGE_HINT not in header or _hint_is_ours(header):
        header[USAGE_HINT] = usage_hint(stem, token)
    return replace(word, metadata=header)


def _hint_is_ours(header: dict[str, str]) -> bool:
    return header.get(USAGE_HINT, "").endswith(HINT_END)
