"""`coinage convert`: learned words in other files, at another length, and mixed."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.cli.parse import Parser
from coinage.config import ModelConfig
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.models.facts import DEFAULT
from coinage.models.hub_files import detect_family
from coinage.system.text_files import is_there
from coinage.text.placeholder import encoding_problems

if TYPE_CHECKING:
    from coinage.embeddings.file import EmbeddingFile
    from coinage.embeddings.reading import Found

log = logging.getLogger("coinage")
EXAMPLES = """\
examples:
  coinage convert mychar.pt mychar.safetensors
  coinage convert mychar.safetensors learned_embeds.safetensors --to diffusers --token mychar
  coinage convert loud.pt quiet.safetensors --rescale vocab --model path/to/model
  coinage convert both.safetensors --merge mychar.safetensors:0.6 style.pt:0.4
"""


def convert_parser() -> Parser:
    """The parser of `coinage convert`."""
    parser = Parser(
        prog="coinage convert",
        usage="coinage convert IN OUT [flags], or coinage convert OUT --merge A:0.6 B:0.4",
        description="Write a learned word as another kind of file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="The file to read, and the file to write.",
    )
    parser.add_argument(
        "--to",
        choices=("safetensors", "pt", "diffusers", "onetrainer"),
        help="Kind of file. Default: as OUT ends.",
    )
    parser.add_argument(
        "--rescale",
        metavar="LENGTH",
        help="Length of every vector; vocab: as the model's words, with --model.",
    )
    parser.add_argument("--token", help="The word, for files that hold it.")
    parser.add_argument(
        "--merge", nargs="+", metavar="FILE:WEIGHT", help="Mix several words of one model."
    )
    parser.add_argument(
        "--slerp",
        action="store_true",
        help="Mix two along the sphere instead of along the straight line.",
    )
    parser.add_argument("--model", help="A model, for --rescale vocab.")
    parser.add_argument(
        "--tokenizer_cache_dir",
        type=Path,
        help="Folder of tokenizers, for a model in a single file.",
    )
    parser.add_argument("--key", help="Which word to take, of a file with several.")
    parser.add_argument("--second", type=Path, help="The other file of an SDXL word of diffusers'.")
    parser.add_argument(
        "--save_precision",
        choices=("float", "fp16", "bf16"),
        help="Number format. Default: as it was.",
    )
    parser.add_argument("--force", action="store_true", help="Replace a file that is there.")
    return parser


def convert_command(argv: Sequence[str]) -> None:
    """Run `coinage convert`.

    Raises:
        ConfigError: wrong flags.
        CoinageError: a file cannot be read, written, or hold what is asked for.
    """
    args = convert_parser().parse_args(argv)
    source, out = _files(args)
    from coinage.embeddings.convert import (
        merged,
        paths_of,
        precision_of,
        rescaled,
        target_of,
        write_as,
    )

    Findings(
        errors=encoding_problems([("--token", args.token), ("the name of the file", out.stem)])
    ).raise_errors()
    target = target_of(out, args.to)
    if args.merge:
        read = [_weighted(item) for item in args.merge]
        found = [(path.name, _open(path, args), weight) for path, weight in read]
        file, precision = (
            merged([(name, f.embedding, weight) for name, f, weight in found], slerp=args.slerp),
            "float",
        )
    else:
        one = _open(source, args)
        file, precision = one.embedding, precision_of(one.dtype)
    if args.rescale:
        file = rescaled(file, _lengths(args, file))
    file = _renamed(file, args.token, out.stem)
    read_from = [] if args.merge else [source]
    for path in paths_of(target, out, file):
        if any(is_there(path) and path.samefile(other) for other in read_from):
            raise CoinageError(
                "this would replace the file that is read", str(path), "name another"
            )
        if is_there(path) and not args.force:
            raise CoinageError(
                "the file is there already", str(path), "name another, or add --force"
            )
    for path in write_as(target, out, file, args.save_precision or precision):
        log.info("wrote %s", path)


def _files(args: argparse.Namespace) -> tuple[Path, Path]:
    """What to read, if it is one file, and what to write."""
    files: list[Path] = args.files
    if args.merge and not files and ":" not in Path(args.merge[-1]).name:
        files = [Path(args.merge.pop())]
    if len(files) != (1 if args.merge else 2):
        what = (
            "name the file to write, beside --merge"
            if args.merge
            else "name the file to read and the file to write"
        )
        raise ConfigError([Problem(what, hint="see coinage convert --help")])
    if args.merge and (args.second or args.key):
        raise ConfigError(
            [
                Problem(
                    "--second and --key do not go with --merge",
                    hint="convert that file first, and merge the result",
                )
            ]
        )
    if args.slerp and len(args.merge or []) != 2:
        raise ConfigError([Problem("--slerp goes with --merge and two files")])
    return files[0], files[-1]


def _weighted(item: str) -> tuple[Path, float]:
    """FILE:WEIGHT.

    Raises:
        ConfigError: no weight.
    """
    name, _, weight = item.rpartition(":")
    try:
        return Path(name), float(weight)
    except ValueError:
        raise ConfigError(
            [Problem(f"--merge {item}: no weight", hint="write mychar.safetensors:0.6")]
        ) from None


def _open(path: Path, args: argparse.Namespace) -> Found:
    from coinage.embeddings.reading import half_note, open_embedding, other_half

    found = open_embedding(path, key=args.key, second=args.second)
    found.word()  # or its problem
    half = "" if args.second else half_note(path, found, other_half(path, found))
    for note in (*found.notes, half):
        if note:
            log.info("note: %s: %s", path, note)
    for warning in found.warnings:
        log.warning("%s: %s", path, warning)
    return found


def _lengths(args: argparse.Namespace, file: EmbeddingFile) -> Mapping[str, float]:
    """The length of vectors that is asked for, by key."""
    if args.rescale != "vocab":
        try:
            length = float(args.rescale)
        except ValueError:
            length = 0
        if not 0 < length < 1e4:
            raise ConfigError(
                [
                    Problem(
                        f"--rescale {args.rescale} is not a length",
                        hint="a number such as 0.4, or vocab with --model",
                    )
                ]
            )
        return dict.fromkeys(file.vectors, length)
    if not args.model:
        raise ConfigError(
            [
                Problem(
                    "--rescale vocab needs --model", hint="or give a length, such as --rescale 0.4"
                )
            ]
        )
    from coinage.models.vocabulary import read_vocabularies

    model = ModelConfig(
        source=args.model,
        family=detect_family(args.model) or DEFAULT.name,
        tokenizer_cache=args.tokenizer_cache_dir,
    )
    found = read_vocabularies(model)
    if set(found) != set(file.vectors):
        raise CoinageError(
            f"the word is for {', '.join(file.vectors)}, and the model has {', '.join(found)}",
            args.model,
        )
    return {key: float(vocabulary.norms.median()) for key, vocabulary in found.items()}


def _renamed(file: EmbeddingFile, token: str | None, stem: str) -> EmbeddingFile:
    """The word under a new name; its header says how it is called in its new file."""
    from coinage.embeddings.file import HINT_END, usage_hint

    word = token or file.token
    header = {
        "format": "pt",
        **file.metadata,
        "modelspec.trigger_phrase": stem,
        "ti.num_vectors": str(file.num_vectors),
    }
    header |= {"ti.token_string": word} if word else {}
    header |= {"ti.step": str(file.step)} if file.step else {}
    ours = header.get("modelspec.usage_hint", "").endswith(HINT_END)
    if ours or (word and word != stem and "modelspec.usage_hint" not in header):
        header["modelspec.usage_hint"] = usage_hint(stem, str(word))
    if word in (None, stem) and ours:
        del header["modelspec.usage_hint"]
    return replace(file, token=word, metadata=header)
