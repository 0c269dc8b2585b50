"""Find a model's tokenizer: with the model, in a folder of tokenizers, on the hub, or in open_clip.

Imports no torch.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import zlib
from pathlib import Path

from coinage.errors import CoinageError
from coinage.models.facts import TextEncoderKind
from coinage.system.cache_folder import cache_folder
from coinage.system.files import write_bytes
from coinage.system.text_files import is_file, is_folder, is_there
from coinage.text.unigram_tokenizer import is_unigram

# Where the released models take their tokenizers from: hub id, folder in it. All have the same vocabulary.
HUB = {
    "tokenizer": (
        ("openai/clip-vit-large-patch14", ""),
        ("stabilityai/stable-diffusion-2", "tokenizer"),
    ),
    "tokenizer_2": (
        ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", ""),
        ("openai/clip-vit-large-patch14", ""),
    ),
}
# T5's vocabulary is one for all its sizes
T5_HUB = ("google-t5/t5-base", "google-t5/t5-small")
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
OPEN_CLIP = "bpe_simple_vocab_16e6.txt.gz"
MOST_BYTES = 16 * 2**20  # that the list unpacks to; it has 3 MB
ENTRIES = 49408  # of CLIP's vocabulary: 2 x 256 bytes, merges, start and end


def find_tokenizer(
    model: str,
    name: str = "tokenizer",
    cache: Path | None = None,
    kind: TextEncoderKind = "clip",
) -> Path:
    """Return the folder of a model's tokenizer.

    Args:
        model: a diffusers folder, hub id or single file.
        name: of its folder in a diffusers model.
        cache: `--tokenizer_cache_dir`.
        kind: of the text encoder.

    Raises:
        CoinageError: there is none; the message says how to get one.
    """
    folder = Path(model)
    if kind == "t5":
        return _find_t5(model, name, cache)
    if is_folder(folder):
        for candidate in (folder / name, folder / "tokenizer"):
            if _holds_vocabulary(candidate):
                return candidate
    if not is_there(folder):
        own = _from_hub(model, name, download=True)
        if own:
            return own
    other = _in_cache(cache, name) or _cached(name) or _from_open_clip() or _downloaded(name)
    if other is None:
        ways = (
            "pass --tokenizer_cache_dir with a folder that holds vocab.json and merges.txt",
            "connect to the hub once",
            "pip install open_clip_torch",
        )
        raise CoinageError("no CLIP tokenizer found for the single file", model, "; or ".join(ways))
    return other


def _find_t5(model: str, name: str, cache: Path | None) -> Path:
    """Return the folder of T5's tokenizer: with the model, in a folder of tokenizers, or on the hub.

    Raises:
        CoinageError: there is none; the message says how to get one.
    """
    own, within = Path(model) / name, sorted(cache.glob("*")) if cache and is_folder(cache) else []
    for folder in (own, *([cache] if cache else []), *within):
        if _holds_t5(folder):
            return folder
    places = [] if is_there(model) else [(model, f"{name}/tokenizer.json")]
    places += [(hub_id, "tokenizer.json") for hub_id in T5_HUB]
    for download in (False, True):
        for hub_id, path in places:
            file = _hub_file(hub_id, path, download=download)
            if file:
                return file.parent
    ways = "pass --tokenizer_cache_dir with a folder that holds T5's tokenizer.json"
    what = "no tokenizer of T5 found for the model"
    raise CoinageError(what, model, f"{ways}; or connect to the hub once")


def _holds_t5(folder: Path) -> bool:
    path = folder / "tokenizer.json"
    return is_file(path) and is_unigram(path)


def _hub_file(hub_id: str, path: str, *, download: bool) -> Path | None:
    """Return a file of a hub repository; None when it is out of reach."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(hub_id, path)
        if not isinstance(cached, str) and download and not constants.HF_HUB_OFFLINE:
            cached = hf_hub_download(hub_id, path)
    except Exception:  # noqa: BLE001 - whatever the network or a bad id raises means the same
        return None
    return Path(cached) if isinstance(cached, str) else None


def local_tokenizer(model: str = "", name: str = "tokenizer") -> Path | None:
    """Return the folder of a model's tokenizer, or of CLIP's, that is on this computer; None if none is.

    Args:
        model: a diffusers folder, hub id or single file; "" for any.
        name: as for `find_tokenizer`.
    """
    own: Path | None = None
    if is_folder(model):
        places = (Path(model) / name, Path(model) / "tokenizer")
        own = next((place for place in places if _holds_vocabulary(place)), None)
    elif model and not is_there(model):
        own = _from_hub(model, name, download=False)
    return own or _cached(name) or _from_open_clip()


def _holds_vocabulary(folder: Path) -> bool:
    """Return whether a folder has a tokenizer of CLIP's kind."""
    both = is_file(folder / "vocab.json") and is_file(folder / "merges.txt")
    return both or (is_file(folder / "tokenizer.json") and not _holds_t5(folder))


def _in_cache(cache: Path | None, name: str) -> Path | None:
    """Return the tokenizer in `--tokenizer_cache_dir`: named as sd-scripts names it, or any."""
    if cache is None:
        return None
    named = [cache / hub_id.replace("/", "_") for hub_id, _ in HUB[name]]
    inner = sorted(path for path in cache.glob("*") if is_folder(path)) if is_folder(cache) else []
    for folder in (*named, cache, *inner):
        if _holds_vocabulary(folder):
            return folder
    return None


def _cached(name: str) -> Path | None:
    """Return a tokenizer in the hub's local cache."""
    for hub_id, place in HUB[name]:
        folder = _from_hub(hub_id, place, download=False)
        if folder:
            return folder
    return None


def _downloaded(name: str) -> Path | None:
    """Return a tokenizer that is brought from the hub."""
    for hub_id, place in HUB[name]:
        folder = _from_hub(hub_id, place, download=True)
        if folder:
            return folder
    return None


def _from_hub(hub_id: str, place: str, *, download: bool) -> Path | None:
    """Return the folder of a hub repository's tokenizer; None when it is out of reach."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    folder: Path | None = None
    for file in FILES:
        path = f"{place}/{file}" if place else file
        try:
            cached = try_to_load_from_cache(hub_id, path)
            if not isinstance(cached, str) and download and not constants.HF_HUB_OFFLINE:
                cached = hf_hub_download(hub_id, path)
        except Exception:  # noqa: BLE001 - whatever the network or a bad id raises means the same
            cached = None
        if isinstance(cached, str) and file == FILES[0]:
            folder = Path(cached).parent
        if folder is None:
            return None
    return folder if folder and (folder / "merges.txt").is_file() else None


def _from_open_clip() -> Path | None:
    """Return CLIP's vocabulary from an installed open_clip, which is not imported.

    It is written to the user's cache once.
    """
    spec = importlib.util.find_spec("open_clip")
    source = Path(spec.origin).parent / OPEN_CLIP if spec and spec.origin else None
    if source is None or not source.is_file():
        return None
    folder = cache_folder() / "clip_tokenizer"
    needed = ("vocab.json", "merges.txt", "tokenizer_config.json")
    if not all((folder / name).is_file() for name in needed):
        vocabulary, merges = read_open_clip(source)
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
        write_bytes(folder / "merges.txt", ("#version: 0.2\n" + "\n".join(merges) + "\n").encode())
        write_bytes(folder / "tokenizer_config.json", json.dumps(config).encode())
        write_bytes(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False).encode())
    return folder


def read_open_clip(path: Path) -> tuple[dict[str, int], list[str]]:
    """Return CLIP's vocabulary and merges from open_clip's list of merges (Radford et al. 2021).

    The vocabulary is the 256 bytes, the same ending a word, one entry per merge, start and end of text.

    Raises:
        CoinageError: the list is broken, or unpacks to far more than it should.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    try:
        with gzip.open(path) as file:
            data = file.read(MOST_BYTES + 1)
        lines = data.decode().split("\n")
    except (OSError, EOFError, ValueError, zlib.error):
        data, lines = b"", []
    if len(data) > MOST_BYTES or len(lines) + 2 * len(letters) < ENTRIES:
        hint = "install it again: pip install --force-reinstall open_clip_torch"
        raise CoinageError("open_clip's vocabulary cannot be read", str(path), hint)
    merges = lines[1 : 1 + ENTRIES - 2 * len(letters) - 2]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}, merges
