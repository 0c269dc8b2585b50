from pathlib import Path

import pytest

from coinage.ui.workspace import (
    NotFoundError,
    Workspace,
    is_word_id,
    new_image_id,
    read_json_or,
    write_json,
)

NO_IDS = (
    "", ".", "..", "a/b", "a\\b", "../a", "A", "a b", "a.b", "con:", "-a", "a-", "a--b", "%2e%2e",
    "a\n", "a\x00", "ａ", "a" * 65,
)  # fmt: skip


@pytest.mark.parametrize("text", NO_IDS)
def test_a_path_is_no_id(text: str, tmp_path: Path) -> None:
    assert not is_word_id(text)
    with pytest.raises(NotFoundError, match="no such word"):
        Workspace(tmp_path).word(text)


def test_a_word_is_found_by_its_id(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert list(workspace.word_ids()) == []
    for name in ("zibu", "zibu-2", "Not one"):
        (workspace.words / name).mkdir(parents=True)
    assert list(workspace.word_ids()) == ["zibu", "zibu-2"]
    assert workspace.word("zibu-2").form == tmp_path / "words" / "zibu-2" / "word.json"


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    workspace = Workspace(tmp_path / "work")
    workspace.words.mkdir(parents=True)
    (workspace.words / "zibu").symlink_to(outside)
    with pytest.raises(NotFoundError):
        workspace.word("zibu")


def test_ids_of_files_and_images(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = tmp_path / "files" / "a.pt"
    assert workspace.file_id(path) == "207f2cb339cb37c3"
    assert workspace.file_id(path.with_name("b.pt")) != workspace.file_id(path)
    assert len({new_image_id() for _ in range(100)}) == 100


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    assert read_json_or(path, []) == []
    write_json(path, {"é": [1]})
    assert read_json_or(path, []) == {"é": [1]}
    assert path.read_text(encoding="utf-8") == '{\n "é": [\n  1\n ]\n}'
