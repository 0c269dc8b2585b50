"""Lines are broken by columns: a Japanese sign takes two, and has no spaces beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from coinage.terminal.wrapping import wrapped

SIGNS = st.text(st.sampled_from("abc --x=1 {a|b}学習率です、。（）「」ー"), max_size=60)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a word of ours", 7, ["a word", "of ours"]),
        ("学習率を下げる", 8, ["学習率を", "下げる"]),
        ("学習率を、下げる", 8, ["学習率", "を、下げ", "る"]),  # no line begins with a comma
        ("値は「高い」です", 6, ["値は", "「高", "い」で", "す"]),  # and none ends with a bracket
        ("値は --clip_skip です", 12, ["値は", "--clip_skip", "です"]),
        ("既定値: 1。", 7, ["既定値:", "1。"]),
        ("フォルダー名", 8, ["フォル", "ダー名"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("  ", 10, []),
    ],
)
def test_where_lines_break(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines


@given(SIGNS, st.integers(12, 30))
def test_no_line_is_too_wide_and_no_sign_is_lost(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
