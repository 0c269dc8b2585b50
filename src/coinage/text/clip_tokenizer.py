"""Read CLIP's tokenizer from its vocabulary files, in milliseconds and without transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coinage.errors import CoinageError, reason_of
from coinage.system.text_files import is_file, is_there, read_json, read_text

UNREADABLE, AGAIN = "the model's tokenizer cannot be read", "download the model again"
START, END = "<|startoftext|>", "<|endoftext|>"
# A word's letters, each digit alone, runs of other signs, and English contractions (Radford et al. 2021).
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class LibraryTokenizer:
    """What the tokenizers have in common that wrap one of the tokenizers library, `_tokenizer`."""

    _tokenizer: Any

    def _id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"{token!r} is not in the vocabulary")
        return int(index)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""
        return dict(self._tokenizer.get_vocab())


class ClipTokenizer(LibraryTokenizer):
    """Byte-pair encoding with CLIP's rules; ids as transformers' CLIPTokenizer gives them."""

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: list[tuple[str, str]],
        special: Mapping[str, str],
        added: Sequence[str] = (),
    ) -> None:
        from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
        from tokenizers.models import BPE

        if END not in vocabulary:
            raise ValueError(f"{END!r} is not in the vocabulary")
        model = BPE(
            dict(vocabulary),
            merges,
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        framing = list(dict.fromkeys(special.values()))
        others = [token for token in added if token not in framing]
        self._tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False, special=True) for token in framing]
        )
        self._tokenizer.add_tokens([AddedToken(token, normalized=False) for token in others])
        self.bos_token_id = self._id(special["bos"])
        self.eos_token_id = self._id(special["eos"])
        self.pad_token_id = self._id(special["pad"])

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text, without start and end.

        Raises:
            ValueError: `add_special_tokens` is set.
        """
        if add_special_tokens:
            raise ValueError("start and end are added with the padding")
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def read_tokenizer(folder: Path) -> ClipTokenizer | None:
    """Read the tokenizer of a folder with `vocab.json` and `merges.txt`, or `tokenizer.json`; None without.

    Raises:
        CoinageError: the files are broken.
    """
    try:
        return _tokenizer(folder)
    except CoinageError as error:
        (problem,) = error.problems
        raise CoinageError(f"{UNREADABLE}: {problem.what}", problem.where, AGAIN) from None
    except Exception as error:  # noqa: BLE001 - broken files make the library raise anything
        raise CoinageError(f"{UNREADABLE}: {reason_of(error)}", str(folder), AGAIN) from None


def _tokenizer(folder: Path) -> ClipTokenizer | None:
    in_two = is_file(folder / "vocab.json") and is_file(folder / "merges.txt")
    if not in_two and not is_there(folder / "tokenizer.json"):
        return None
    vocabulary, merges = _read_two(folder) if in_two else _read_one(folder)
    config = _read_json(folder / "tokenizer_config.json") | _read_json(
        folder / "special_tokens_map.json"
    )
    special = {}
    for name, usual in (("bos", START), ("eos", END), ("pad", END)):
        value = config.get(f"{name}_token", usual)
        special[name] = str(value["content"]) if isinstance(value, dict) else str(value)
    return ClipTokenizer(vocabulary, merges, special, _read_added(folder))


def _read_added(folder: Path) -> list[str]:
    """Return the tokens that were added to the vocabulary, in the order of their ids."""
    ids = _read_json(folder / "added_tokens.json")
    entries = _read_json(folder / "tokenizer.json").get("added_tokens", [])
    if ids:
        return sorted(ids, key=lambda token: int(ids[token]))
    return [str(entry["content"]) for entry in entries]


def _read_two(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of the two files that transformers' slow tokenizers have."""
    lines = read_text(folder / "merges.txt").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    return _read_json(folder / "vocab.json"), _pairs(merges)


def _read_one(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of the one file that transformers' fast tokenizers have."""
    model = _read_json(folder / "tokenizer.json").get("model", {})
    return model.get("vocab", {}), _pairs(model.get("merges", []))


def _pairs(merges: Iterable[str | Sequence[str]]) -> list[tuple[str, str]]:
    """Return merges as pairs; files have them as texts or as lists of two."""
    pairs = []
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        pairs.append((first, second))
    return pairs


def _read_json(path: Path) -> dict[str, Any]:
    if not is_there(path):
        return {}
    data = read_json(path)
    if not isinstance(data, dict):
        raise CoinageError("it is not a table", str(path))
    return data
