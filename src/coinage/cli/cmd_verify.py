"""`coinage verify`: whether a file does in other tools what it does here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from coinage.checks.model import model_problems
from coinage.cli.parse import Parser
from coinage.config import ModelConfig
from coinage.errors import CoinageError, Findings
from coinage.models.detect import told_family
from coinage.terminal.messages import print_json, print_line, print_table
from coinage.text.placeholder import encoding_problems

log = logging.getLogger("coinage")


def verify_parser() -> Parser:
    """The parser of `coinage verify`."""
    parser = Parser(
        prog="coinage verify",
        description="Load a file as other tools do, and compare what a prompt becomes.",
    )
    parser.add_argument("file", type=Path, help="An embedding file.")
    parser.add_argument(
        "--model", required=True, help="The model: a file, a diffusers folder or a hub id."
    )
    parser.add_argument("--token", help="The word. Default: as the file tells, or its name.")
    parser.add_argument(
        "--tokenizer_cache_dir",
        type=Path,
        help="Folder of tokenizers, for a model in a single file.",
    )
    parser.add_argument("--clip_skip", type=int, help="As in training.")
    parser.add_argument("--json", action="store_true", help="Print the table as JSON.")
    return parser


def verify_command(argv: Sequence[str]) -> None:
    """Run `coinage verify`.

    Raises:
        ConfigError: the model cannot be used.
        CoinageError: the file cannot be read, does not fit the model, or does something else, or could not be tried,
            in a tool that loads it.
    """
    args = verify_parser().parse_args(argv)
    family_name = told_family(args.model) or "sd1"
    model = ModelConfig(
        source=args.model,
        family=family_name,
        tokenizer_cache=args.tokenizer_cache_dir,
        clip_skip=args.clip_skip,
    )
    Findings(errors=model_problems(model)).raise_errors()
    import torch

    from coinage.embeddings.file import vectors_for
    from coinage.embeddings.reading import JOIN, read
    from coinage.embeddings.verify import COMPARED, usage, verify
    from coinage.models.families import FAMILIES, quiet_libraries
    from coinage.models.loading import telling
    from coinage.models.token_embedding import table_of

    quiet_libraries()
    word, family = read(args.file), FAMILIES[family_name]
    vectors = {
        key: rows
        for key in family.embedding_keys
        if (rows := vectors_for(word.vectors, key)) is not None
    }
    if len(vectors) < len(family.embedding_keys):
        what = f"the file has {', '.join(word.vectors)}, and the model takes {', '.join(family.embedding_keys)}"
        raise CoinageError(
            what, str(args.file), JOIN if family_name == "sdxl" else "give the word's own model"
        )
    word = replace(word, vectors=vectors)
    parts = family.load(model, torch.float32)
    for (key, rows), encoder in zip(vectors.items(), parts.text_encoders, strict=True):
        width = table_of(encoder).shape[1]
        if rows.shape[1] != width:
            raise CoinageError(
                f"{key} is {rows.shape[1]} wide in the file, and {width} in the model",
                str(args.file),
                "give the word's own model",
            )
    token = args.token or word.token or args.file.stem
    Findings(errors=encoding_problems([("--token", token)])).raise_errors()
    with telling("a prompt", args.model, "cannot encode"):
        checks = verify(args.file, family, parts, word, token)
    if args.json:
        print_json([asdict(check) for check in checks])
    else:
        table: list[tuple[str, ...]] = []
        for c in checks:
            shown = (
                ""
                if c.difference is None
                else f"{c.difference:.1e}" + ("" if c.same else " NOT the same")
            )
            shown = "could not be tried" if c.untried else shown
            table.append((c.tool, "yes" if c.loads else "no", shown, c.write, c.why))
        print_table(("tool", "loads", "difference", "write", ""), table)
        for line in usage(args.file, family_name, checks, token):
            print_line(line)
    told = [c for c in checks if c.tool in COMPARED]
    wrong = [c.tool for c in told if c.loads and not c.same and not c.untried]
    if wrong:
        raise CoinageError(f"the file does something else in {', '.join(wrong)}", str(args.file))
    untried = "; ".join(f"{c.tool}: {c.why}" for c in told if c.untried)
    if untried:
        raise CoinageError(f"the file could not be tried in {untried}", str(args.file))
