"""The page that compares trainers has a source for each cell, and its tool finds what is new in a peer."""

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tools import compared_page, peer_changes

TABLE = """
[[peers]]
key = "other"
name = "Other"
repository = "somebody/other"
version = "v1"
commit = "0123456789abcdef0123456789abcdef01234567"
date = 2026-01-01
flags = ["train.py"]
fields = ["config.py"]
appended = ["config.py"]
parameters = ["train.py"]
functions = ["teach"]

[[sections]]
name = "Words"

[[sections.rows]]
feature = "Several | vectors"
coinage = ["yes", "a|b", "index.md"]
other = ["part", "two", "train.py", "lib/more.py"]

[[sections.rows]]
feature = "Another thing"
coinage = ["no", "not yet: it is hard"]
other = ["yes", "", "train.py"]
better = ["other"]
"""
TRAIN = """
raise SystemExit("a file of a peer was run")
parser.add_argument("--steps", "--max_steps", default="--not-this")
parser.add_argument("position")
def teach(images, /, rate, *, seed): ...
def other(nothing): ...
"""
CONFIG = """
class Config:
    rate: float = 1.0
    name = "not annotated"
    def defaults(self):
        data.append(("decay", 0.9, float, False))
        data.append("not a tuple")
"""
OPTIONS = ["--max_steps", "--steps", "Config.decay", "Config.rate"]
OPTIONS += ["teach.images", "teach.rate", "teach.seed"]


@pytest.fixture
def table() -> dict[str, Any]:
    return tomllib.loads(TABLE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    (folder / "lib").mkdir(parents=True)
    for name, text in {"train.py": TRAIN, "config.py": CONFIG, "lib/more.py": ""}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_table_of_this_repository_is_whole() -> None:
    data = tomllib.loads(compared_page.DATA.read_text(encoding="utf-8"))
    assert compared_page.mistakes(data) == []
    assert compared_page.PAGE.read_text(encoding="utf-8") == compared_page.page_text(data)


def test_the_kept_options_are_those_of_the_versions_in_the_table() -> None:
    data = tomllib.loads(compared_page.DATA.read_text(encoding="utf-8"))
    kept = json.loads(peer_changes.KEPT.read_text(encoding="utf-8"))
    assert {key: row["commit"] for key, row in kept.items()} == {
        peer.key: peer.commit for peer in compared_page.peers_of(data)
    }
    assert all(len(row["options"]) > 20 for row in kept.values())


def test_a_cell_shows_its_mark_text_and_sources(table: dict[str, Any]) -> None:
    page = compared_page.page_text(table)
    row = r"| Several | vectors | [✓][index.md] a\|b | [(✓)][other/train.py] two [2][other/lib/more.py] |"
    assert row.replace("Several |", r"Several \|") in page
    assert "| Another thing | – not yet: it is hard | **[✓][other/train.py]** |" in page
    address = "https://github.com/somebody/other/blob/0123456789abcdef0123456789abcdef01234567"
    assert f'[other/lib/more.py]: {address}/lib/more.py "lib/more.py"' in page
    assert "- **Other**: Another thing." in page


@pytest.mark.parametrize(
    ("at", "changed", "message"),
    [
        (0, {"other": ["yes", "two"]}, "Several | vectors: other has no source"),
        (0, {"other": ["perhaps", "", "a.py"]}, "other: not a mark, a text and files"),
        (0, {"others": ["yes", "", "a.py"]}, "unknown key others"),
        (0, {"coinage": ["yes", "", "gone.md"]}, "no page gone.md"),
        (1, {"coinage": ["no", ""]}, "others have it, and our cell does not say why"),
        (1, {"coinage": ["part", ""]}, "others have it, and our cell does not say why"),
        (0, {"coinage": ["yes", ""], "better": ["other"]}, "others are better, and our cell"),
        (1, {"better": ["another"]}, "another is better without a cell"),
    ],
)
def test_a_mistake_in_the_table_is_named(
    table: dict[str, Any], at: int, changed: dict[str, Any], message: str
) -> None:
    assert compared_page.mistakes(table) == []
    broken = copy.deepcopy(table)
    broken["sections"][0]["rows"][at] |= changed
    (found,) = compared_page.mistakes(broken)
    assert message in found


def test_the_options_of_a_copy_are_read_and_not_run(table: dict[str, Any], checkout: Path) -> None:
    assert sorted(peer_changes.options_of(table["peers"][0], checkout)) == OPTIONS


def test_what_is_new_and_gone_in_a_copy_is_told(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, kept = tmp_path / "compared.toml", tmp_path / "options.json"
    file.write_text(TABLE, encoding="utf-8")
    words = ["other", str(checkout)]
    assert peer_changes.main([*words, "--accept"], file, kept) == 0
    assert json.loads(kept.read_text())["other"]["options"] == OPTIONS
    assert peer_changes.main(words, file, kept) == 0
    assert capsys.readouterr().out.endswith("nothing has changed\n")

    (checkout / "lib/more.py").unlink()
    newer = TRAIN.replace("--steps", "--epochs")
    (checkout / "train.py").write_text(newer, encoding="utf-8")
    assert peer_changes.main(words, file, kept) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Other: the table has v1 (01234567)",
        "new option: --epochs",
        "gone: --steps",
        "no file lib/more.py, the source of: Several | vectors",
    ]


def test_a_folder_of_something_else_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peer_changes.main(["onetrainer", str(tmp_path)]) == 2
    assert "has no options of OneTrainer" in capsys.readouterr().err
