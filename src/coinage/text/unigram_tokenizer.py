"""Read T5's tokenizer from its vocabulary file, without transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coinage.errors import CoinageError, reason_of
from coinage.system.text_files import is_there, read_json, read_text
from coinage.text.clip_tokenizer import AGAIN, UNREADABLE, LibraryTokenizer

END, PAD = "</s>", "<pad>"
KIND = "Unigram"


class UnigramTokenizer(LibraryTokenizer):
    """A tokenizer that takes the likeliest pieces of a text; ids as transformers' T5 tokenizer gives them.

    Args of the constructor:
        inner: of the tokenizers library.
    """

    def __init__(self, inner: Any) -> None:
        self._tokenizer = inner
        self.eos_token_id = self._id(END)
        self.pad_token_id = self._id(PAD)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text, without its end.

        Raises:
            ValueError: `add_special_tokens` is set.
        """
        if add_special_tokens:
            raise ValueError("the end is added with the padding")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def read_unigram(folder: Path) -> UnigramTokenizer | None:
    """Read the tokenizer of a folder with a `tokenizer.json` of T5's kind; None without.

    Raises:
        CoinageError: the file is broken.
    """
    path = folder / "tokenizer.json"
    if not is_there(path):
        return None
    try:
        if not is_unigram(path):
            return None
        from tokenizers import Tokenizer

        return UnigramTokenizer(Tokenizer.from_str(read_text(path)))
    except CoinageError as error:
        (problem,) = error.problems
        raise CoinageError(f"{UNREADABLE}: {problem.what}", problem.where, AGAIN) from None
    except Exception as error:  # noqa: BLE001 - broken files make the library raise anything
        raise CoinageError(f"{UNREADABLE}: {reason_of(error)}", str(folder), AGAIN) from None


def is_unigram(path: Path) -> bool:
    """Return whether a `tokenizer.json` is of T5's kind.

    Raises:
        CoinageError: the file is broken.
    """
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and model.get("type") == KIND
