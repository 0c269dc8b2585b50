"""`coinage inspect`: show what an embedding file is, what it has learned, and where it works."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coinage.cli.parse import Parser
from coinage.terminal.messages import print_json, print_line, print_table
from coinage.wording import counted

EXAMPLES = """\
examples:
  coinage inspect mychar.safetensors
  coinage inspect downloaded.pt --model path/to/model
  coinage inspect mychar.safetensors --model path/to/model --json
"""
SHOWN_VECTORS = 8  # of many, in each table


def inspect_parser() -> Parser:
    """Return the parser of `coinage inspect`."""
    parser = Parser(
        prog="coinage inspect",
        description="Show what an embedding file is, what it has learned, and where it works.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, help="An embedding file of any tool.")
    add("--model", help="A model whose words the vectors are compared with.")
    cache_help = "Folder of tokenizers, for a model in a single file."
    add("--tokenizer_cache_dir", type=Path, help=cache_help)
    add("--key", help="Which word to inspect, of a file with several.")
    add("--second", type=Path, help="The other file of a word that diffusers has in two.")
    add("--json", action="store_true", help="Print everything as JSON.")
    return parser


def inspect_command(argv: Sequence[str]) -> None:
    """Run `coinage inspect`.

    Raises:
        CoinageError: the file is not an embedding, or the model cannot be read.
    """
    args = inspect_parser().parse_args(argv)
    from coinage.embeddings.inspection import inspect_file, read_model
    from coinage.embeddings.pairs import open_embedding

    opened = open_embedding(args.file, key=args.key, second=args.second)
    model = read_model(args.model, args.tokenizer_cache_dir)
    inspected = inspect_file(args.file, opened, model)
    if args.json:
        print_json(inspected)
    else:
        print_inspection(inspected)


def print_inspection(inspected: Mapping[str, Any]) -> None:
    """Print everything as text and tables on stdout."""
    vectors = counted(inspected["vectors"], "vector")
    token = f", trained as {inspected['token']}" if inspected["token"] else ""
    print_line(f"{inspected['file']}: {inspected['family_name']}, {vectors}{token}")
    layout = inspected["layout"]["name"]
    print_line(f"format: {layout}, {inspected['dtype']}, {inspected['bytes']} bytes")
    if inspected["base"]:
        print_line(_base_line(inspected["base"]))
    for encoder in inspected["encoders"]:
        _print_encoder(encoder)
    if inspected["metadata"]:
        print_line()
        for key, value in inspected["metadata"].items():
            print_line(f"{key}: {value}")
    print_line()
    print_line(_hash_line(inspected["hash"]))
    _print_tools(inspected["tools"])
    for note in inspected["notes"]:
        print_line(f"note: {note}")
    for warning in inspected["warnings"]:
        print_line(f"warning: {warning}")


def _base_line(base: Mapping[str, str | None]) -> str:
    names = {"v_prediction": "v", "epsilon": "the noise"}
    model = " ".join(filter(None, (base["name"], base["hash"] and f"({base['hash']})")))
    predicts = names.get(base["predicts"] or "")
    return f"trained on: {model}" + (f", which predicts {predicts}" if predicts else "")


def _hash_line(hashes: Mapping[str, str | None]) -> str:
    line = f"file sha256 {(hashes['file'] or '')[:10]} (AutoV2)"
    tensors, stored = hashes["tensors"], hashes["stored"]
    if not tensors:
        return line
    line += f", tensors {tensors[:12]} (AutoV3)"
    if not stored:
        return line
    agrees = stored.endswith(tensors)
    return line + (" (as its header says)" if agrees else " (NOT what its header says)")


def _print_encoder(encoder: Mapping[str, Any]) -> None:
    print_line()
    print_line(f"{encoder['key']}, {encoder['width']} wide")
    words = encoder.get("vocabulary")
    if words:
        typical = f"typical vector length in this model: {words['median']:.3f}"
        print_line(f"{typical} (90 % lie between {words['from']:.3f} and {words['to']:.3f})")
    rows = encoder["rows"]
    columns = ["vector", "length"]
    if "ratio" in rows[0]:
        columns.append("times a word's")
    if "degrees_from_init_word" in rows[0]:
        columns.append("from init word")
    if "nearest" in rows[0]:
        columns.append("nearest words")
    cells = [_cells(number, row) for number, row in enumerate(rows[:SHOWN_VECTORS], 1)]
    print_table(columns, cells)
    if len(rows) > SHOWN_VECTORS:
        print_line(f"... {len(rows) - SHOWN_VECTORS} more")


def _cells(number: int, row: Mapping[str, Any]) -> list[str]:
    """Return one vector's cells, in the order of the columns."""
    cells = [str(number), f"{row['norm']:.3f}"]
    if "ratio" in row:
        cells.append(f"{row['ratio']:.2f}")
    if "degrees_from_init_word" in row:
        cells.append(f"{row['degrees_from_init_word']:.1f} degrees")
    if "nearest" in row:
        nearest = [f"{word['word']} {word['cosine']:.2f}" for word in row["nearest"]]
        cells.append(", ".join(nearest))
    return cells


def _print_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    if not tools:
        return
    print_line()
    rows = []
    for tool in tools:
        works = "yes" if tool["loads"] else "no"
        rows.append((tool["tool"], works, tool["write"], tool["why"]))
    print_table(("works in", "", "write", ""), rows)
