"""`coinage convert`: learned words in other files, at another length, mended, mixed, and in LoRAs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
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
from coinage.wording import visible

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
  coinage convert loud.pt mended.safetensors --adjust girl --model path/to/model
  coinage convert both.safetensors --merge mychar.safetensors:0.6 style.pt:0.4
  coinage convert mychar.safetensors together.safetensors --bundle lora.safetensors
  coinage convert together.safetensors parts --unbundle
"""
USAGE = """\
coinage convert IN OUT [flags]
       coinage convert OUT --merge A:0.6 B:0.4
       coinage convert WORD [WORD ...] OUT --bundle LORA
       coinage convert LORA FOLDER --unbundle"""
KEEP = 0.9  # of the angle to the init word: benchmarks/mending.py


def convert_parser() -> Parser:
    """Return the parser of `coinage convert`."""
    parser = Parser(
        prog="coinage convert",
        usage=USAGE,
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
    adjust_help = (
        "Mend a word that drowns its prompts: as long as this known word, and nearer to it."
    )
    add("--adjust", metavar="INIT_WORD", help=adjust_help)
    keep_help = f"Share of the angle to that word that stays, 0 to 1. Default: {KEEP:g}."
    add("--keep", type=float, metavar="SHARE", help=keep_help)
    add("--token", help="The word, for formats that store it.")
    add("--merge", nargs="+", metavar="FILE:WEIGHT", help="Mix several words of one model.")
    slerp_help = "Mix two along the sphere instead of along the straight line."
    add("--slerp", action="store_true", help=slerp_help)
    bundle_help = "Put words into a LoRA, so that one file has both."
    add("--bundle", type=Path, metavar="LORA", help=bundle_help)
    unbundle_help = "Write a LoRA and the words in it to files of their own, in the folder OUT."
    add("--unbundle", action="store_true", help=unbundle_help)
    add("--model", help="A model, for --rescale vocab and --adjust.")
    cache_help = "Folder of tokenizers, for a model in a single file."
    add("--tokenizer_cache_dir", type=Path, help=cache_help)
    add("--key", help="Which word to take, of a file with several.")
    add("--second", type=Path, help="The other file of a word that diffusers has in two.")
    precision_help = "Number format. Default: as in the file that is read."
    add("--save_precision", choices=PRECISIONS, help=precision_help)
    force_help = "Replace an existing file, and a word of the same name in a LoRA."
    add("--force", action="store_true", help=force_help)
    return parser


def convert_command(argv: Sequence[str]) -> None:
    """Run `coinage convert`.

    Raises:
        ConfigError: wrong flags.
        CoinageError: a file cannot be read, written, or hold what is asked for.
    """
    args = convert_parser().parse_args(argv)
    sources, out = _files(args)
    _check_adjust(args)
    _check_lora(args, sources)
    if args.unbundle:
        _unbundle(sources[0], out, args)
    elif args.bundle:
        _bundle(sources, out, args)
    else:
        _convert(sources[0] if sources else None, out, args)


def _convert(source: Path | None, out: Path, args: argparse.Namespace) -> None:
    """Write one word, or the mix of --merge, to one file; for diffusers perhaps to two."""
    from coinage.embeddings.formats import writer_for
    from coinage.embeddings.saving import encode_word, write_files
    from coinage.embeddings.writing import precision_of

    named = [("--token", args.token), ("the name of the file", out.stem)]
    Findings(errors=encoding_problems(named)).raise_errors()
    writer_for(out, args.to)  # or its error, before anything is read
    if source is None:
        word, precision = _mixed(args), "float"
    else:
        opened = _open(source, args)
        word, precision = opened.word, precision_of(opened.dtype)
    word = _changed(word, args)
    files = encode_word(word, out, to=args.to, precision=args.save_precision or precision)
    if source is not None:
        _keep_source(source, list(files))
    write_files(files, overwrite=args.force)
    _tell_written(files)


def _bundle(sources: Sequence[Path], out: Path, args: argparse.Namespace) -> None:
    """Write a LoRA with words in it."""
    from coinage.embeddings.bundles import NamedWord, bundle, read_lora
    from coinage.embeddings.writing import precision_of

    Findings(errors=encoding_problems([("--token", args.token)])).raise_errors()
    for path in (*sources, args.bundle):
        _keep_source(path, [out])
    lora = read_lora(args.bundle)
    words = []
    for path in sources:
        opened = _open(path, args)
        word = _changed(opened.word, args)
        precision = args.save_precision or precision_of(opened.dtype)
        words.append(NamedWord(word.token or path.stem, word, precision, str(path)))
    notes = bundle(lora, words, out, replace=args.force, overwrite=args.force)
    for note in notes:
        log.info("note: %s", note)
    names = dict.fromkeys([*lora.words, *(word.name for word in words)])
    log.info("words in it: %s", ", ".join(map(visible, names)))
    _tell_written([out])


def _unbundle(source: Path, out: Path, args: argparse.Namespace) -> None:
    """Write a LoRA and its words to files of their own."""
    from coinage.embeddings.bundles import unbundle

    _tell_written(unbundle(source, out, overwrite=args.force))


def _tell_written(paths: Iterable[Path]) -> None:
    for path in paths:
        log.info("wrote %s", path)


def _changed(word: Word, args: argparse.Namespace) -> Word:
    """Return the word at the length, in the direction and under the name that are asked for."""
    if args.rescale:
        from coinage.embeddings.convert import rescaled

        word = rescaled(word, _lengths(args, word))
    if args.adjust is not None:
        word = _mended(word, args)
    return replace(word, token=args.token) if args.token else word


def _mended(word: Word, args: argparse.Namespace) -> Word:
    """Return the word as --adjust and --keep ask for it, and tell how long it was and is."""
    from coinage.embeddings.mending import adjusted_to

    keep = KEEP if args.keep is None else args.keep
    mended = adjusted_to(word, args.adjust, keep, _model(args))
    before, after = word.vectors.values(), mended.vectors.values()
    for key, old, new in zip(mended.vectors, before, after, strict=True):
        long, now = float(old.norm(dim=1).mean()), float(new.norm(dim=1).mean())
        log.info("%s: the vectors were %.2f long and are %.2f, as %s", key, long, now, args.adjust)
    return mended


def _check_adjust(args: argparse.Namespace) -> None:
    """Stop if a word cannot be mended with these flags.

    Raises:
        ConfigError: they do not go together, or a value is out of range.
    """
    if args.adjust is not None:
        if args.rescale:
            raise _usage_error("--adjust also sets the length", "leave out --rescale")
        if not args.model:
            raise _usage_error("--adjust needs --model", "give the model that the word is for")
    if args.keep is not None:
        if args.adjust is None:
            raise _usage_error("--keep needs --adjust INIT_WORD")
        if not 0 <= args.keep <= 1:
            raise _usage_error(f"--keep {args.keep:g} is out of range", "use 0 to 1")


def _check_lora(args: argparse.Namespace, sources: Sequence[Path]) -> None:
    """Stop if flags do not go together with a LoRA.

    Raises:
        ConfigError: they do not.
    """
    if args.bundle and args.to:
        raise _usage_error("--to cannot be combined with --bundle")
    if len(sources) > 1 and (args.token or args.key or args.second):
        what = "--token, --key and --second are for one word"
        raise _usage_error(what, "put one word after the other into the LoRA")
    if args.unbundle:
        names = (
            "to",
            "rescale",
            "adjust",
            "token",
            "merge",
            "bundle",
            "key",
            "second",
            "save_precision",
        )
        used = [f"--{name}" for name in names if getattr(args, name)]
        if used:
            raise _usage_error(f"{used[0]} cannot be combined with --unbundle")


def _files(args: argparse.Namespace) -> tuple[list[Path], Path]:
    """Return what to read, and what to write.

    Raises:
        ConfigError: files are missing, or flags do not go together.
    """
    files: list[Path] = args.files
    if args.merge and not files and ":" not in Path(args.merge[-1]).name:
        files = [Path(args.merge.pop())]
    if args.bundle and args.merge:
        raise _usage_error("--merge cannot be combined with --bundle", "merge first")
    enough = len(files) >= 2 if args.bundle else len(files) == (1 if args.merge else 2)
    if not enough:
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
    return files[:-1], files[-1]


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

        return vocabulary_lengths(word, _model(args))
    try:
        length = float(args.rescale)
    except ValueError:
        length = 0
    if not 0 < length < LONGEST_VECTOR:
        hint = "a number such as 0.4, or vocab with --model"
        raise _usage_error(f"--rescale {args.rescale} is not a length", hint)
    return dict.fromkeys(word.vectors, length)


def _model(args: argparse.Namespace) -> ModelConfig:
    family = detect_family(args.model) or DEFAULT.name
    cache = args.tokenizer_cache_dir
    return ModelConfig(source=args.model, family=family, tokenizer_cache=cache)
