"""The help in Japanese: complete, true to the English one, and only where it is wanted."""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
from rich.cells import cell_len

from coinage.cli import japanese_help
from coinage.cli.language import can_show, language_of
from coinage.cli.main import COMMANDS, main
from coinage.cli.parse import Parser, build_parser, parse
from coinage.cli.train import train_command
from coinage.settings.flags import FLAGS, Flag
from coinage.settings.help_texts import HelpTexts, help_in, japanese

KANA = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
# What is typed, or names a file, has such a sign in it, and stays as it is
TYPED = re.compile(r"--|[\d_{}<>\[\]#]|\w\.\w|^\.\w")
ENCODINGS = ("utf-8", "euc_jp", "shift_jis", "cp932")


def parsers() -> list[Parser]:
    """Those of the two scripts, and of all commands."""
    scripts = [build_parser(name, name) for name in ("sd", "sdxl", "coinage")]
    own = [name for name in COMMANDS if name != "train"]
    modules = [import_module(f"coinage.cli.cmd_{name}") for name in own]
    commands = [getattr(m, f"{name}_parser")() for m, name in zip(modules, own, strict=True)]
    return [*scripts, import_module("coinage.cli.main").command_parser(), *commands]


class Recorded(dict[str, str]):
    """A table that knows which of its texts were asked for."""

    def __init__(self, table: Mapping[str, str]) -> None:
        super().__init__(table)
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Look up a text."""
        (self.used if key in self else self.missing).add(key)
        return super().get(key, default)


@pytest.fixture(scope="module")
def recorded() -> Iterator[HelpTexts]:
    """The Japanese texts, after all help pages were made of them."""
    tables = {f.name: Recorded(getattr(japanese(), f.name)) for f in fields(HelpTexts)}
    texts = HelpTexts(**tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(japanese_help, "japanese", lambda: texts)
        patch.setenv("COLUMNS", "100")
        for parser in parsers():
            japanese_help.japanese_help(parser)
        for flag in FLAGS:  # as the page and flags.ja.md show it
            texts.text(help_of(flag))
            texts.group(flag.group)
        yield texts


def help_of(flag: Flag) -> str:
    return f"{flag.help} ({flag.note})" if flag.note else flag.help


@pytest.mark.parametrize("table", ["groups", "texts", "defaults", "notes"])
def test_every_text_has_a_translation_and_none_is_left_over(
    recorded: HelpTexts, table: str
) -> None:
    texts = getattr(recorded, table)
    assert texts.keys() == texts.used
    # A default that is a value, such as 0.5 or ddim, is the same everywhere
    missing = [key for key in texts.missing if not re.fullmatch(r"[\w.,~/+-]+", key)]
    assert not missing


def entries() -> list[tuple[str, str]]:
    texts = japanese()
    tables = (texts.groups, texts.texts, texts.defaults, texts.notes)
    return [pair for table in tables for pair in table.items()]


def test_each_translation_keeps_what_is_typed() -> None:
    for english, text in entries():
        words = [word.lstrip("\"'(").rstrip("\"',;:).") for word in re.split(r"\s|-bit\b", english)]
        lost = [word for word in words if TYPED.search(word) and word not in text]
        assert not lost, english


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.choices], ids=lambda flag: flag.dest)
def test_each_translation_keeps_the_choices_that_the_help_names(flag: Flag) -> None:
    in_english, in_japanese = help_in("en", flag), help_in("ja", flag)
    named = [str(c) for c in flag.choices if re.search(rf"[(\[ ]?\b{c}[):]", in_english)]
    assert all(choice in in_japanese for choice in named)
    assert KANA.search(in_japanese)


def test_each_translation_is_japanese_and_can_be_written_in_its_old_encodings() -> None:
    for english, text in entries():
        assert KANA.search(text) or re.fullmatch(r"[\w+.、。]+", text), english
        for encoding in ENCODINGS:
            text.encode(encoding)
        # Full-width signs beside Japanese, as the rest of the docs has them
        assert not re.search(f"{KANA.pattern}[,.!?]", text), text
        assert not re.search(f"{KANA.pattern}[A-Za-z0-9]|[A-Za-z0-9]{KANA.pattern}", text), text


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_no_line_is_too_wide(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for parser in parsers():
        parser.epilog = None  # examples are typed as they stand
        lines = japanese_help.japanese_help(parser).splitlines()
        wide = [line for line in lines if cell_len(line) > columns]
        # What argparse does not break: a flag with a long name and its choices
        assert not KANA.search("".join(wide))


@pytest.mark.parametrize(
    ("words", "environment", "language"),
    [
        ("", {}, "en"),
        ("", {"LANG": "ja_JP.UTF-8"}, "ja"),
        ("", {"LANG": "ja_JP.eucJP"}, "ja"),
        ("", {"LANG": "ja"}, "ja"),
        ("", {"LANG": "ja_JP.UTF-8@x"}, "ja"),
        ("", {"LANG": "jam_JM.UTF-8"}, "en"),
        ("", {"LANG": "de_DE.UTF-8"}, "en"),
        ("", {"LANG": "C"}, "en"),
        ("", {"LANG": ""}, "en"),
        ("", {"LC_ALL": "POSIX", "LANG": "ja_JP.UTF-8"}, "en"),
        ("", {"LC_ALL": "", "LANG": "ja_JP.UTF-8"}, "ja"),
        ("", {"LC_ALL": "ja_JP.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "ja"),
        ("", {"LC_MESSAGES": "ja_JP.UTF-8", "LANG": "en_US.UTF-8"}, "ja"),
        ("", {"LC_MESSAGES": "C.UTF-8", "LANG": "ja_JP.UTF-8"}, "en"),
        ("", {"LANGUAGE": "ja:en", "LANG": "en_US.UTF-8"}, "ja"),
        ("", {"LANGUAGE": "en:ja", "LANG": "ja_JP.UTF-8"}, "en"),
        ("", {"LANGUAGE": "de:ja", "LANG": "de_DE.UTF-8"}, "ja"),
        ("", {"LANGUAGE": "de:C:ja", "LANG": "ja_JP.UTF-8"}, "en"),
        ("", {"LANGUAGE": "de", "LANG": "ja_JP.UTF-8"}, "ja"),
        ("", {"LANGUAGE": "ja", "LANG": "C"}, "en"),  # gettext leaves LANGUAGE out there
        ("", {"LANGUAGE": "ja", "LC_ALL": "C.UTF-8"}, "en"),
        ("", {"LANGUAGE": "ja"}, "en"),
        ("--lang ja", {"LANG": "C"}, "ja"),
        ("--lang=ja --help", {"LANG": "de_DE"}, "ja"),
        ("--help --lang en", {"LANG": "ja_JP.UTF-8"}, "en"),
        ("--lang", {"LANG": "ja_JP.UTF-8"}, "ja"),
        ("--lang fr", {"LANG": "ja_JP.UTF-8"}, "ja"),
    ],
)
def test_the_language_of_the_help(words: str, environment: dict[str, str], language: str) -> None:
    assert language_of(words.split(), environment) == language


def printed(run: Callable[[], int], encoding: str = "utf-8") -> str:
    """What a command prints to a console of an encoding."""
    console = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", console)
        with pytest.raises(SystemExit) as ended:
            run()
    assert ended.value.code == 0
    console.flush()
    return console.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("encoding", "in_japanese"),
    [("utf-8", True), ("euc_jp", True), ("cp932", True), ("cp437", False), ("ascii", False)],
)
def test_a_console_that_has_no_japanese_signs_shows_english(
    encoding: str, in_japanese: bool
) -> None:
    for command in ("train", "dataset", "doctor"):
        text = printed(lambda: main([command, "--help", "--lang", "ja"]), encoding)  # noqa: B023
        assert bool(KANA.search(text)) == in_japanese
        assert ("options:" in text) != in_japanese
        assert "?" not in text.replace("prompt?", "")
    assert can_show("学習", sys.stdout) or sys.stdout.encoding != "utf-8"


@pytest.mark.parametrize(
    "words",
    [
        "help --lang ja",
        "--help --lang=ja",
        "--lang ja",
        "--lang ja help",
        "help train --lang ja",
        "--lang ja train --help",
        "--lang=ja help demo",
        "dataset --lang ja --help",
        "ui --lang ja --help",
    ],
)
def test_lang_stands_anywhere(words: str) -> None:
    assert printed(lambda: main(words.split())).startswith("使い方: coinage")


@pytest.mark.parametrize("script", ["sd", "sdxl"])
def test_the_scripts_too(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.delenv("LANGUAGE", raising=False)
    text = printed(lambda: train_command(script, ["--help"]))
    assert "学習率" in text
    assert all(flag.name in text for flag in FLAGS if script == "sdxl" or not flag.sdxl_only)


def test_lang_changes_nothing_but_the_help() -> None:
    words = ["--train_data_dir=images", "--token_string=x"]
    assert parse("coinage", [*words, "--lang", "ja"], "x") == parse("coinage", words, "x")


def test_english_help_reads_no_translation() -> None:
    """And a run neither: what only Japanese help needs is not imported."""
    code = """if True:
        import sys, contextlib
        from coinage.cli.main import main
        with contextlib.suppress(SystemExit):
            main(["train", "--help"])
        print("coinage.settings.help_texts" in sys.modules, "coinage.cli.japanese_help" in sys.modules)
    """
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False False\n")


def test_argparse_prints_the_words_that_are_translated() -> None:
    """Its own words are keys of the table: they must be those of this Python."""
    text = argparse.ArgumentParser(prog="x").format_help()
    assert "options:" in text
    assert "show this help message and exit" in text
