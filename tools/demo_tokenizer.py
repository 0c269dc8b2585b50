"""Build the demo worlds' tokenizers, in which every word of the world is one token.

One is a CLIP byte-level BPE, the other a T5 unigram model.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5TokenizerFast

from coinage.demo.language import vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """CLIP's 256 byte symbols in its own order: printable ones first, then the shifted rest."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def learn_merges() -> list[tuple[str, str]]:
    """Merges that make a single token of each word, learned by a BPE trainer on the word list."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=5000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(vocabulary())] * 10, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(a, b) for a, b in merges]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer to `folder` in the layout of a diffusers model and load it back."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet, merges = byte_alphabet(), learn_merges()
    symbols = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), START, END]
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )
    special = {key: settings[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(
        json.dumps(special, indent=2) + "\n", encoding="utf-8"
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    long = [w for w in vocabulary() if len(tokenizer.encode(w, add_special_tokens=False)) != 1]
    if long:
        raise SystemExit(f"these words are not single tokens: {long}")
    return tokenizer


def build_t5_tokenizer(folder: Path) -> T5TokenizerFast:
    """Write a T5 tokenizer in which every word of the world is one piece, and load it back.

    Other words fall into single characters.
    """
    words = [("▁" + word, -5.0) for word in vocabulary()]
    letters = [(chr(code), -12.0) for code in range(ord("!"), ord("~") + 1)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*special, *words, ("▁", -8.0), *letters]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)
    loaded: T5TokenizerFast = T5TokenizerFast.from_pretrained(folder)
    long = [w for w in vocabulary() if len(loaded.encode(w, add_special_tokens=False)) != 1]
    if long:
        raise SystemExit(f"these words are not single pieces: {long}")
    return loaded
