"""The index of messages: what it quotes is what the program prints, and it is complete where it says so."""

import ast
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from tools.messages_page import DATA, KINDS, PAGES, page

from coinage.checks.checklist import CHECKS
from coinage.cli.console import INTERRUPTED, READER_LEFT
from coinage.errors import CoinageError, ConfigError
from tests.pages import ROOT

ANY = "…"  # what differs from case to case
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
INDEX: dict[str, Any] = tomllib.loads(DATA.read_text(encoding="utf-8"))
ENTRIES: list[dict[str, str]] = [entry for group in INDEX["groups"] for entry in group["messages"]]
TEXTS = [entry["text"] for entry in ENTRIES if "text" in entry]


def literals(node: ast.AST) -> Iterator[str]:
    """The texts of a module, each whole, with … where something is put in."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else ANY for part in node.values]
        yield "".join(map(str, parts))
        # Texts of the parts that are put in
        nested = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        for part in nested:
            yield from literals(part)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"%[sd]|\{[^{}]*\}", ANY, node.value)
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from literals(child)


@pytest.fixture(scope="module")
def source() -> str:
    """All texts of the program, apart from each other."""
    modules = sorted((ROOT / "src" / "coinage").rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in modules]
    return "\0".join(text for tree in trees for text in literals(tree))


def test_each_quoted_text_is_one_of_the_program(source: str) -> None:
    assert [text for text in TEXTS if text not in source] == []
    assert "a text that the program does not have" not in source


def test_a_quoted_text_is_enough_to_be_found_by_search() -> None:
    assert [text for text in TEXTS if len(text.replace(ANY, "").strip(" :`-")) < 7] == []
    assert len(TEXTS) >= 120


def test_no_entry_stands_twice() -> None:
    about = [entry[kind] for entry in ENTRIES for kind in KINDS if kind in entry]
    assert len(set(about)) == len(about) == len(ENTRIES)


def test_every_check_is_explained_in_the_order_of_the_list() -> None:
    explained = [entry["check"] for entry in ENTRIES if "check" in entry]
    assert explained == [check.look.__name__.removeprefix("_") for check in CHECKS]


def test_every_exit_code_is_explained() -> None:
    explained = [entry["code"] for entry in ENTRIES if "code" in entry]
    failed, wrong = CoinageError.exit_code, ConfigError.exit_code
    assert explained == [*map(str, (0, failed, wrong, INTERRUPTED, READER_LEFT)), "128 + N"]
    table = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d[^|]*) \|", table, re.MULTILINE) == explained


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: next(iter(entry.values()))[:40])
def test_an_entry_is_complete_and_short(entry: dict[str, str]) -> None:
    (kind,) = entry.keys() - {"en", "ja"}
    assert kind in KINDS
    assert entry["en"].endswith(".")
    assert entry["ja"].endswith("。")
    assert JAPANESE.search(entry["ja"])
    assert len(re.findall(r"[.:;?!](?: |$)", entry["en"])) <= 5
    # As the rest of the docs has it: full-width signs, and a space beside Latin letters
    plain = re.sub(r"`[^`]*`", "`x`", entry["ja"])
    assert not re.search(
        rf"{JAPANESE.pattern}[,.!?A-Za-z0-9`]|[A-Za-z0-9`]{JAPANESE.pattern}", plain
    )


@pytest.mark.parametrize("language", PAGES)
def test_the_pages_are_written_from_the_table(language: str) -> None:
    assert PAGES[language].read_text(encoding="utf-8") == page(INDEX, language)
