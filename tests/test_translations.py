"""Each translated page says what the English one says: headings, blocks, links, code, figures."""

import re
from pathlib import Path

import pytest
from tools.docs_hook import anchors_of, with_anchors_of, with_note, with_whole_flags

from tests.pages import FENCE, ROOT, english_of, is_translation, name_of
from tests.translations import HEADING, faults_of

TRANSLATIONS = sorted(
    page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if is_translation(page)
)
# Pages that a translation must stand beside: what users read first, and while they work
TRANSLATED = [
    "README.md",
    "docs/index.md",
    "docs/get-started.md",
    "docs/guides/autopilot.md",
    "docs/guides/browser.md",
    "docs/guides/containers.md",
    "docs/guides/dataset-check.md",
    "docs/guides/dataset-files.md",
    "docs/guides/datasets.md",
    "docs/guides/flux.md",
    "docs/guides/from-sd-scripts.md",
    "docs/guides/gpu.md",
    "docs/guides/logging.md",
    "docs/guides/lora.md",
    "docs/guides/low-memory.md",
    "docs/guides/mac.md",
    "docs/guides/negative-words.md",
    "docs/guides/previews.md",
    "docs/guides/python.md",
    "docs/guides/resuming.md",
    "docs/guides/scores.md",
    "docs/guides/sd3.md",
    "docs/guides/several-gpus.md",
    "docs/guides/several-words.md",
    "docs/guides/troubleshooting.md",
    "docs/guides/using-words.md",
    "docs/guides/windows.md",
    "docs/reference/commands.md",
    "docs/reference/exit-codes.md",
    "docs/reference/files.md",
    "docs/reference/flags.md",
    "docs/reference/messages.md",
]
PAGE = """# A page

Press [the button](x.md#part) once, or `coinage train` for 1,000 steps.

## Part

![alt](a.png)

- one of two
- 2.5 % at `2e-3`

```bash
make demo # a comment
```

Write `<word>` in a prompt.
"""
GOOD = """# ページ

[ボタン](x.md#part)を 1 回押すか、`coinage train` を 1000 ステップ実行します。

## 部分

![説明](a.png)

- 2 つのうちの 1 つ
- `2e-3` で 2.5 %

```bash
make demo # コメント
```

プロンプトには `<word>` と書くこと。
"""


def described(page: Path) -> str:
    """The text of a page. On GitHub, links of a translated README lead to translated pages."""
    text = page.read_text(encoding="utf-8")
    return with_english_links(text) if page.name.startswith("README") else text


def github_anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def with_english_links(text: str) -> str:
    """The text with links to English pages in place of those to translated ones."""

    def english(found: re.Match[str]) -> str:
        name, ending, anchor = found.groups()
        if not anchor:
            return f"]({name}.{ending})"
        translated = (ROOT / f"{name}.ja.md").read_text(encoding="utf-8")
        headings = [line.lstrip("# ") for line in headings_of(translated)]
        anchors = anchors_of((ROOT / f"{name}.md").read_text(encoding="utf-8"))
        there = [github_anchor(heading) for heading in headings]
        return f"]({name}.md#{anchors[there.index(anchor)]})"

    return re.sub(r"\]\(([\w/-]+)\.ja\.(md|png)(?:#([^)]+))?\)", english, text)


def headings_of(text: str) -> list[str]:
    lines = FENCE.sub("", text).splitlines()
    return [line for line in lines if HEADING.match(line)]


@pytest.mark.parametrize("page", TRANSLATIONS, ids=name_of)
def test_a_translation_follows_its_page(page: Path) -> None:
    english = english_of(page)
    assert english.is_file(), f"{name_of(page)} translates no page"
    faults = faults_of(described(english), described(page))
    assert not faults, "\n".join(faults)


def test_the_user_guide_is_translated() -> None:
    translated = {name_of(english_of(page)) for page in TRANSLATIONS}
    assert [name for name in TRANSLATED if name not in translated] == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("## 部分", "### 部分", "headings: levels [1, 2] became [1, 3]"),
        ("## 部分\n\n", "", "headings: levels [1, 2] became [1]"),
        ("make demo", "make docs", "blocks: number 1 differs"),
        ("bash", "powershell", "blocks: number 1 differs"),
        ("bash", 'bash title="x.sh"', "blocks: number 1 differs"),
        ("```bash\nmake demo # コメント\n```", "", "blocks: number 1 differs"),
        ("x.md#part", "x.md#whole", "# ページ: links: x.md#part, x.md#whole"),
        ("[ボタン](x.md#part)", "ボタン", "# ページ: links: x.md#part"),
        ("a.png", "b.png", "## 部分: links: !a.png, !b.png"),
        ("`coinage train`", "`coinage ui`", "# ページ: code: coinage train, coinage ui"),
        ("`2e-3`", "`2e-4`", "## 部分: code: 2e-3, 2e-4"),
        ("1000 ス", "100 ス", "# ページ: figures: 100, 1000"),
        ("1000 ス", "１０００ ス", "# ページ: figures: 1000"),
        ("2.5 %", "25 %", "## 部分: figures: 2.5, 25"),
        ("1 回押す", "3 回押す", "# ページ: figures: 3"),
        ("- 2 つのうちの 1 つ\n", "", "## 部分: parts: "),
        ("ます。", "ます。\n\n段落です。", "# ページ: parts: text, text became text, text, text"),
        ("押すか、`", "押すか、\nまたは `", "# ページ: line break: a paragraph is one line"),
        (
            "# ページ\n\n[ボタン](x.md#part)を 1 回押すか、`coinage train` を 1000 ステップ実行します。",
            "# A page\n\nPress [the button](x.md#part) once, or `coinage train` for 1000 steps.",
            "# A page: language: not translated",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_found(good: str, bad: str, fault: str) -> None:
    assert good in GOOD
    faults = faults_of(PAGE, GOOD.replace(good, bad))
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_a_good_translation_has_no_fault() -> None:
    assert faults_of(PAGE, GOOD) == []


def test_a_change_of_the_english_page_is_found() -> None:
    assert faults_of(f"{PAGE}\nA new sentence.\n", GOOD) != []


def test_japanese_headings_have_english_anchors() -> None:
    text = with_anchors_of(PAGE, GOOD)
    assert headings_of(text) == ["# ページ {#a-page}", "## 部分 {#part}"]
    assert "make demo # コメント\n" in text


@pytest.mark.parametrize(
    ("translated", "message"),
    [(f"{GOOD}\n## 余分\n", "more headings"), ("# ページ\n", "fewer headings .* no part")],
)
def test_headings_without_a_partner_are_refused(translated: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_anchors_of(PAGE, translated)


@pytest.mark.parametrize(
    ("text", "start"),
    [("# A page\n\nText.\n", "# A page\n\n!!! note"), ('--8<-- "a.md"\n', "\n!!! note")],
)
def test_a_page_without_translation_says_so_below_its_title(text: str, start: str) -> None:
    noted = with_note(text, "ja")
    assert noted.startswith(start)
    assert noted.endswith(f"\n\n{text.removeprefix('# A page').lstrip()}")


def test_a_flag_is_marked_as_a_whole_and_nothing_else_is() -> None:
    flag = '<span class="flag">--seed</span>'
    assert with_whole_flags("<p><code>--seed 1</code>、--seed</p>") == (
        f"<p><code>{flag} 1</code>、{flag}</p>"
    )
    for same in ('<a href="x.html#--seed">a--b, --&gt;</a>', "<pre><code>--seed 1\n</code></pre>"):
        assert with_whole_flags(same) == same


def test_the_translated_readme_leads_to_translated_pages() -> None:
    text = (ROOT / "README.ja.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((docs/[\w/-]+)(\.ja)?(\.md|\.png)[#)]", text)
    assert len(linked) > 10
    assert [
        name for name, ja, end in linked if bool(ja) != (ROOT / f"{name}.ja{end}").exists()
    ] == []
