"""Where a model's tokenizer is: with the model, in a folder of tokenizers, in the hub's cache, or in open_clip. No torch."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from pathlib import Path

from coinage.errors import CoinageError
from coinage.files import write_bytes

# Where the released models take their tokenizers from: hub id, folder in it. All have the same vocabulary.
HUB = {
    "tokenizer": (("openai/clip-vit-large-patch14", ""), ("stabilityai/stable-diffusion-2", "tokenizer")),
    "tokenizer_2": (("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", ""), ("openai/clip-vit-large-patch14", "")),
}
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
OPEN_CLIP = "bpe_simple_vocab_16e6.txt.gz"
ENTRIES = 49408  # of CLIP's vocabulary: 2 x 256 bytes, merges, start and end


def find_tokenizer(model: str, name: str = "tokenizer", cache: Path | None = None) -> Path:
    """The folder of a model's tokenizer.

    Args:
        model: a diffusers folder, hub id or single file.
        name: "tokenizer", or "tokenizer_2" for SDXL's second text encoder.
        cache: `--tokenizer_cache_dir`.

    Raises:
        CoinageError: there is none; says the ways out.
    """
    folder = Path(model)
    if folder.is_dir():
        for candidate in (folder / name, folder / "tokenizer"):
            if _holds_vocabulary(candidate):
                return candidate
    if not folder.exists():
        found = _from_hub(model, name, download=True)
        if found:
            return found
    found = _in_cache(cache, name) or _cached(name) or _from_open_clip()
    if found is None:
        found = next((path for hub_id, place in HUB[name] if (path := _from_hub(hub_id, place, download=True))), None)
    if found is None:
        ways = ("pass --tokenizer_cache_dir with a folder that holds vocab.json and merges.txt", "connect to the hub once")
        hint = f"{'; or '.join(ways)}; or pip install open_clip_torch"
        raise CoinageError("no CLIP tokenizer found for the single file", model, hint)
    return found


def _holds_vocabulary(folder: Path) -> bool:
    both = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return both or (folder / "tokenizer.json").is_file()


def _in_cache(cache: Path | None, name: str) -> Path | None:
    """A tokenizer in `--tokenizer_cache_dir`, named as the reference names it, or any."""
    if cache is None:
        return None
    named = [cache / hub_id.replace("/", "_") for hub_id, _ in HUB[name]]
    for folder in (*named, cache, *sorted(p for p in cache.glob("*") if p.is_dir())):
        if _holds_vocabulary(folder):
            return folder
    return None


def _cached(name: str) -> Path | None:
    """A tokenizer in the hub's local cache."""
    for hub_id, place in HUB[name]:
        found = _from_hub(hub_id, place, download=False)
        if found:
            return found
    return None


def _from_hub(hub_id: str, place: str, *, download: bool) -> Path | None:
    """The folder of a hub repository's tokenizer; None when it is out of reach."""
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
    """CLIP's vocabulary out of an installed open_clip, which is not imported; kept in the user's cache."""
    spec = importlib.util.find_spec("open_clip")
    source = Path(spec.origin).parent / OPEN_CLIP if spec and spec.origin else None
    if source is None or not source.is_file():
        return None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coinage" / "clip_tokenizer"
    if not all((folder / name).is_file() for name in ("vocab.json", "merges.txt", "tokenizer_config.json")):
        vocabulary, merges = read_open_clip(source)
        write_bytes(folder / "merges.txt", ("#version: 0.2\n" + "\n".join(merges) + "\n").encode())
        write_bytes(folder / "tokenizer_config.json", json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}).encode())
        write_bytes(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False).encode())
    return folder


def read_open_clip(path: Path) -> tuple[dict[str, int], list[str]]:
    """CLIP's vocabulary and merges from open_clip's list of merges (Radford et al. 2021).

    The vocabulary is the 256 bytes, the same ending a word, one entry per merge, start and end of text.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = lines[1 : 1 + ENTRIES - 2 * len(letters) - 2]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}, merges
