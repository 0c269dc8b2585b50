"""Tell what a newer copy of another trainer has that docs/compared.toml does not know.

Prints the options that are new or gone since the version in the table, and the files that the table
names and the copy has not; ends with 1 if there are any. Source files are parsed and never run.
With `--accept`, the options of the copy are kept in tools/peer_options.json as those of the commit that
the table names: first bring the table up to date.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE, KEPT = ROOT / "docs" / "compared.toml", ROOT / "tools" / "peer_options.json"


def flags(tree: ast.Module) -> Iterator[str]:
    """Yield the flags that `add_argument` gets."""
    for call in _calls(tree, "add_argument"):
        for argument in call.args:
            match argument:
                case ast.Constant(value=str(text)) if text.startswith("--"):
                    yield text


def fields(tree: ast.Module) -> Iterator[str]:
    """Yield the annotated fields of classes, as `Class.field`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield f"{node.name}.{line.target.id}"


def appended(tree: ast.Module) -> Iterator[str]:
    """Yield the first text of each tuple that a class appends to a list, as `Class.text`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for call in _calls(node, "append"):
                match call.args:
                    case [ast.Tuple(elts=[ast.Constant(value=str(text)), *_])]:
                        yield f"{node.name}.{text}"


def parameters(tree: ast.Module, functions: Sequence[str]) -> Iterator[str]:
    """Yield the parameters of the named functions, as `function.parameter`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                yield f"{node.name}.{argument.arg}"


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=attribute)) if attribute == name:
                yield node


def options_of(peer: Mapping[str, Any], checkout: Path) -> set[str]:
    """Return the names of a trainer's options, from the files that the table names."""
    functions = peer.get("functions", [])
    kinds: dict[str, Callable[[ast.Module], Iterator[str]]] = {
        "flags": flags,
        "fields": fields,
        "appended": appended,
        "parameters": lambda tree: parameters(tree, functions),
    }
    found: set[str] = set()
    for kind, names_in in kinds.items():
        for path in peer.get(kind, []):
            file = checkout / path
            if file.is_file():
                found |= set(names_in(ast.parse(file.read_text(encoding="utf-8"))))
    return found


def files_of(table: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return each file of a trainer that the table names, and the rows that it is the source of."""
    files: dict[str, list[str]] = {}
    for section in table["sections"]:
        for row in section["rows"]:
            for path in row.get(peer["key"], [])[2:]:
                files.setdefault(path, []).append(row["feature"])
    for kind in ("flags", "fields", "appended", "parameters"):
        for path in peer.get(kind, []):
            files.setdefault(path, []).append("the list of options")
    return files


def changes(
    table: Mapping[str, Any], peer: Mapping[str, Any], known: Sequence[str], checkout: Path
) -> list[str]:
    """Return a line for each option that is new or gone, and each file that is gone."""
    options = options_of(peer, checkout)
    lines = [f"new option: {name}" for name in sorted(options - set(known))]
    lines += [f"gone: {name}" for name in sorted(set(known) - options)]
    for path, rows in sorted(files_of(table, peer).items()):
        if not (checkout / path).exists():
            lines.append(f"no file {path}, the source of: {'; '.join(rows)}")
    return lines


def accept(peer: Mapping[str, Any], checkout: Path, kept: Path = KEPT) -> None:
    """Keep the options of a copy as those of the version in the table."""
    stored = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    stored[peer["key"]] = {"commit": peer["commit"], "options": sorted(options_of(peer, checkout))}
    kept.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None, table_file: Path = TABLE, kept: Path = KEPT) -> int:
    table = tomllib.loads(table_file.read_text(encoding="utf-8"))
    peers = {peer["key"]: peer for peer in table["peers"]}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("peer", choices=sorted(peers), help="key of the trainer in the table")
    parser.add_argument("checkout", type=Path, help="folder with a copy of its repository")
    parser.add_argument("--accept", action="store_true", help="keep the options of the copy")
    args = parser.parse_args(argv)
    peer = peers[args.peer]
    if not options_of(peer, args.checkout):
        print(f"error: {args.checkout} has no options of {peer['name']}", file=sys.stderr)
        return 2
    if args.accept:
        accept(peer, args.checkout, kept)
        return 0
    stored = json.loads(kept.read_text(encoding="utf-8"))[args.peer]
    found = changes(table, peer, stored["options"], args.checkout)
    print(f"{peer['name']}: the table has {peer['version']} ({peer['commit'][:8]})")
    print(*(found or ["nothing has changed"]), sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
