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
from coinage.embeddings.format_names import FORMAT_NAMES, PRECISIONS
from coinage.errors import CoinageError, ConfigError, Findings, Problem
from coinage.models.facts import DEFAULT
from coinage.models.hub_files import detect_family
from coinage.system.text_files import is_there
from coinage.text.placeholder import encoding_problems

if TYPE_CHECKING:
    from coinage.embeddings.reading import OpenedFile
    from coinage.embeddings.word import Word

log = logging.getLogger("coinage")
LONGEST_VECTOR = 1e4
EXAMPLES = """\
examples:
  coinage convert mychar.pt mychar.safetensors
  coinage convert mychar.safetensors learned_embeds.safetensors --to diffusers --token mychar
  coinage convert loud.pt quiet.safetensors --rescale vocab --model path/to/model
  coinage convert both.safetensors --merge mychar.safetensors:0.6 style.pt:0.4
"""


def convert_parser() -> Parser:
    """Return the parser of `coinage convert`."""
    parser = Parser(
        prog="coinage convert",
        usage="coinage convert IN OUT [flags], or coinage convert OUT --merge A:0.6 B:0.4",
        description="Write a learned word to a file of another format.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    files_help = "The file to read, and the file to write."
    add("files", nargs="*", type=Path, metavar="FILE", help=files_help)
    add("--to", choices=FORMAT_NAMES, help="File format. Default: by the name of OUT.")
    rescale_help = "Length of every vector; vocab: as the words of the model given with --model."
    add("--rescale", metavar="LENGTH", help=rescale_help)
    add("--token", help="The word, for formats that store it.")
    add("--merge", nargs="+", metavar="FILE:WEIGHT", help="Mix several words of one model.")
    slerp_help = "Mix two along the sphere instead of along the straight line."
    add("--slerp", action="store_true", help=slerp_help)
    add("--model", help="A model, for --rescale vocab.")
    cache_help = "Folder of tokenizers, for a model in a single file."
    add("--tokenizer_cache_dir", type=Path, help=cache_help)
    add("--key", help="Which word to take, of a file with several.")
    add("--second", type=Path, help="The other file of an SDXL word from diffusers.")
    precision_help = "Number format. Default: as in the file that is read."
    add("--save_precision", choices=PRECISIONS, help=precision_help)
    add("--force", action="store_true", help="Replace an existing file.")
    return parser


def convert_command(argv: Sequence[str]) -> None:
    """Run `coinage convert`.

    Raises:
        ConfigError: wrong flags.
        CoinageError: a file cannot be read, written, or hold what is asked for.
    """
    args = convert_parser().parse_args(argv)
    source, out = _files(args)
    from coinage.embeddings.convert import precision_of, rescaled
    from coinage.embeddings.formats import writer_for
    from coinage.embeddings.saving import encode_word, write_files

    named = [("--token", args.token), ("the name of the file", out.stem)]
    Findings(errors=encoding_problems(named)).raise_errors()
    writer_for(out, args.to)  # or its error, before anything is read
    if args.merge:
        word, precision = _mixed(args), "float"
    else:
        opened = _open(source, args)
        word, precision = opened.word, precision_of(opened.dtype)
    if args.rescale:
        word = rescaled(word, _lengths(args, word))
    if args.token:
        word = replace(word, token=args.token)
    files = encode_word(word, out, to=args.to, precision=args.save_precision or precision)
    if not args.merge:
        _keep_source(source, list(files))
    write_files(files, overwrite=args.force)
    for path in files:
        log.info("wrote %s", path)


def _files(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return what to read, if it is one file, and what to write.

    Raises:
        ConfigError: files are missing, or flags do not go together.
    """
    files: list[Path] = args.files
    if args.merge and not files and ":" not in Path(args.merge[-1]).name:
        files = [Path(args.merge.pop())]
    if len(files) != (1 if args.merge else 2):
        what = "name the file to read and the file to write"
        if args.merge:
            what = "name the file to write, beside --merge"
        raise _usage_error(what, "see coinage convert --help")
    if args.merge and (args.second or args.key):
        raise _usage_error(
            "--second and --key cannot be combined with --merge",
            "convert that file first, and merge the result",
        )
    if args.slerp and len(args.merge or []) != 2:
        raise _usage_error("--slerp needs --merge with exactly two files")
    return files[0], files[-1]


def _usage_error(what: str, hint: str = "") -> ConfigError:
    return ConfigError([Problem(what, hint=hint)])


def _keep_source(source: Path, targets: Sequence[Path]) -> None:
    """Stop if the file that is read would be replaced.

    Raises:
        CoinageError: it would.
    """
    for path in targets:
        if is_there(path) and path.samefile(source):
            raise CoinageError(
                "this would overwrite the file that is read", str(path), "choose another name"
            )


def _mixed(args: argparse.Namespace) -> Word:
    """Read the files of --merge, and mix their words."""
    from coinage.embeddings.convert import Ingredient, merged

    ingredients = []
    for path, weight in [_weighted(item) for item in args.merge]:
        ingredients.append(Ingredient(path.name, _open(path, args).word, weight))
    return merged(ingredients, slerp=args.slerp)


def _weighted(item: str) -> tuple[Path, float]:
    """Return file and weight of FILE:WEIGHT.

    Raises:
        ConfigError: no weight.
    """
    name, _, weight = item.rpartition(":")
    try:
        return Path(name), float(weight)
    except ValueError:
        raise _usage_error(
            f"--merge {item} has no weight", "write mychar.safetensors:0.6"
        ) from None


def _open(path: Path, args: argparse.Namespace) -> OpenedFile:
    """Read a file, and log what there is to know about it.

    Raises:
        EmbeddingFileError: it is not an embedding, or there is no usable word in it.
    """
    from coinage.embeddings.pairs import half_note, open_embedding, other_half

    opened = open_embedding(path, key=args.key, second=args.second)
    opened.usable_word()
    notes = list(opened.notes)
    if not args.second:
        notes.append(half_note(path, opened, other_half(path, opened)))
    for note in notes:
        if note:
            log.info("note: %s: %s", path, note)
    for warning in opened.warnings:
        log.warning("%s: %s", path, warning)
    return opened


def _lengths(args: argparse.Namespace, word: Word) -> Mapping[str, float]:
    """Return the length of vectors that --rescale asks for, by key.

    Raises:
        ConfigError: it asks for none.
        CoinageError: the model cannot be read, or has other text encoders than the word.
    """
    if args.rescale == "vocab":
        if not args.model:
            hint = "or give a length, such as --rescale 0.4"
            raise _usage_error("--rescale vocab needs --model", hint)
        from coinage.embeddings.convert import vocabulary_lengths

        family = detect_family(args.model) or DEFAULT.name
        cache = args.tokenizer_cache_dir
        model = ModelConfig(source=args.model, family=family, tokenizer_cache=cache)
        return vocabulary_lengths(word, model)
    try:
        length = float(args.rescale)
    except ValueError:
        length = 0
    if not 0 < length < LONGEST_VECTOR:
        hint = "a number such as 0.4, or vocab with --model"
        raise _usage_error(f"--rescale {args.rescale} is not a length", hint)
    return dict.fromkeys(word.vectors, length)
