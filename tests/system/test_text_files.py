"""Text files as others leave them, and how counts and names are written."""

import os
from pathlib import Path

import pytest

from coinage.errors import CoinageError
from coinage.system.text_files import SLASHES, read_json, read_text, read_toml
from coinage.wording import counted, few, visible


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_any_marked_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes('name = "ミク"\n'.encode(encoding))
    assert read_toml(path) == {"name": "ミク"}


BROKEN = {
    "a folder": (None, "this is a folder"),
    "utf-16 without a mark": (
        "name = 1".encode("utf-16-le") + "é".encode("utf-16-le"),
        "not text in UTF-8",
    ),
    "utf-16 of plain letters": ("name = 1".encode("utf-16-le"), "it looks like UTF-16"),
    "utf-16, the other way round": ("name = 1".encode("utf-16-be"), "it looks like UTF-16"),
    "utf-32 with its mark": (
        "name = 1".encode("utf-32"),
        "it looks like UTF-16, or is not text at all",
    ),
    "ansi": ('name = "é"'.encode("cp1252"), "byte 0xe9 at position 8"),
    "no toml": (b"name", "not valid TOML"),
    "deep": (b"a = " + b"[" * 100_000, "nested too deeply"),
    "long number": (b"a = " + b"1" * 5000, "too many digits"),
    "too large": (b"#" * 300, "too large"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_error(tmp_path: Path, kind: str) -> None:
    data, what = BROKEN[kind]
    path = tmp_path / "a.toml"
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)
    with pytest.raises(CoinageError) as caught:
        read_toml(path, "--config_file", most=200_000 if kind != "too large" else 256)
    (problem,) = caught.value.problems
    assert problem.what.startswith("--config_file: ")
    assert what in problem.what


@pytest.mark.parametrize("name", ["nothing.toml", "a" * 300, "a\0b"])
def test_a_file_that_cannot_be_there_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CoinageError):
        read_text(tmp_path / name)


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CoinageError, match="not a regular file"):
            read_text(path)


@pytest.mark.parametrize(
    "line", [r'a = "C:\Users\me"', r'a = "D:\qain"', r'a = "C:\x"', 'a = "C:\\"']
)
def test_a_backslash_in_double_quotes_gets_a_hint(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"b = 1\n{line}\n")
    with pytest.raises(CoinageError) as caught:
        read_toml(path)
    assert caught.value.problems[0].hint == SLASHES


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", '"\\'])
def test_json_that_cannot_be_parsed_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CoinageError):
        read_json(path)


def test_counts_and_lists() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1500)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,500 images",
    ]
    assert counted(2, "batch", "batches") == "2 batches"
    assert few("abc") == "a, b, c"
    assert few("abcde") == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ミク é", "plain ミク é"),
        ("\x1b]0;PWN\x07", r"\x1b]0;PWN\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("D:\train\new\r", r"D:\train\new\r"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_escapes(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_messages_own_newlines_can_stay() -> None:
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
