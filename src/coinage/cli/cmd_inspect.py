"""`coinage inspect`: what an embedding file is, what it has learned, and where it works."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinage.cli.parse import Parser
from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.hub_files import detect_family
from coinage.terminal.messages import print_json, print_line, print_table
from coinage.wording import counted

if TYPE_CHECKING:
    from coinage.models.vocabulary import Vocabulary

EXAMPLES = """\
examples:
  coinage inspect mychar.safetensors
  coinage inspect downloaded.pt --model path/to/model
  coinage inspect mychar.safetensors --model path/to/model --json
"""
SHOWN_ROWS = 8


def inspect_parser() -> Parser:
    """The parser of `coinage inspect`."""
    parser = Parser(
        prog="coinage inspect",
        description="Tell what an embedding file is, what it has learned, and where it works.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="An embedding file of any tool.")
    parser.add_argument("--model", help="A model, whose words the vectors are compared with.")
    parser.add_argument(
        "--tokenizer_cache_dir",
        type=Path,
        help="Folder of tokenizers, for a model in a single file.",
    )
    parser.add_argument("--key", help="Which word to look at, of a file with several.")
    parser.add_argument("--second", type=Path, help="The other file of an SDXL word of diffusers'.")
    parser.add_argument("--json", action="store_true", help="Print all of it as JSON.")
    return parser


def inspect_command(argv: Sequence[str]) -> None:
    """Run `coinage inspect`.

    Raises:
        CoinageError: the file is no embedding, or the model cannot be read.
    """
    args = inspect_parser().parse_args(argv)
    from coinage.embeddings.inspection import inspect
    from coinage.embeddings.reading import open_embedding

    found = open_embedding(args.file, key=args.key, second=args.second)
    family, vocabularies = _model(args)
    told = inspect(args.file, found, vocabularies, family)
    if args.json:
        print_json(told)
    else:
        print_inspection(told)


def _model(args: argparse.Namespace) -> tuple[str | None, Mapping[str, Vocabulary]]:
    if args.model is None:
        return None, {}
    from coinage.models.vocabulary import read_vocabularies

    family = detect_family(args.model)
    if family is None:
        raise CoinageError(
            "--model: not a Stable Diffusion model, or one that cannot be told",
            args.model,
            "give a file, a diffusers folder or a hub id",
        )
    return family, read_vocabularies(
        ModelConfig(source=args.model, family=family, tokenizer_cache=args.tokenizer_cache_dir)
    )


def print_inspection(told: dict[str, Any]) -> None:
    """All of it as text and tables on stdout."""
    vectors = counted(told["vectors"], "vector")
    token = f", trained as {told['token']}" if told["token"] else ""
    print_line(f"{told['file']}: {told['family_name']}, {vectors}{token}")
    print_line(f"format: {told['layout']['name']}, {told['dtype']}, {told['bytes']} bytes")
    for encoder in told["encoders"]:
        _print_encoder(encoder)
    if told["metadata"]:
        print_line()
        for key, value in told["metadata"].items():
            print_line(f"{key}: {value}")
    hashes = told["hash"]
    state = (
        ""
        if not hashes["stored"]
        else " (as its header says)"
        if hashes["stored"].endswith(hashes["tensors"] or "?")
        else " (NOT what its header says)"
    )
    print_line()
    print_line(
        f"file sha256 {hashes['file'][:10]} (AutoV2)"
        + (f", tensors {hashes['tensors'][:12]} (AutoV3){state}" if hashes["tensors"] else "")
    )
    _print_tools(told["tools"])
    for note in told["notes"]:
        print_line(f"note: {note}")
    for warning in told["warnings"]:
        print_line(f"warning: {warning}")


def _print_encoder(encoder: dict[str, Any]) -> None:
    words = encoder.get("vocabulary")
    print_line()
    print_line(f"{encoder['key']}, {encoder['width']} wide")
    if words:
        typical = f"typical vector length in this model: {words['median']:.3f}"
        print_line(f"{typical} (90 % lie between {words['from']:.3f} and {words['to']:.3f})")
    columns, rows = ["vector", "length"], []
    told = encoder["rows"][0]
    for name, key in (
        ("times a word's", "ratio"),
        ("from init word", "degrees_from_init_word"),
        ("nearest words", "nearest"),
    ):
        if key in told:
            columns.append(name)
    for number, row in enumerate(encoder["rows"][:SHOWN_ROWS], 1):
        cells = [str(number), f"{row['norm']:.3f}"]
        cells += [f"{row['ratio']:.2f}"] if "ratio" in row else []
        cells += (
            [f"{row['degrees_from_init_word']:.1f} degrees"]
            if "degrees_from_init_word" in told
            else []
        )
        cells += (
            [", ".join(f"{near['word']} {near['cosine']:.2f}" for near in row["nearest"])]
            if "nearest" in row
            else []
        )
        rows.append(cells)
    print_table(columns, rows)
    if len(encoder["rows"]) > SHOWN_ROWS:
        print_line(f"... {len(encoder['rows']) - SHOWN_ROWS} more")


def _print_tools(tools: Sequence[dict[str, Any]]) -> None:
    if not tools:
        return
    print_line()
    rows = [
        (tool["tool"], "yes" if tool["loads"] else "no", tool["write"], tool["why"])
        for tool in tools
    ]
    print_table(("works in", "", "write", ""), rows)
