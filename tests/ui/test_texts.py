"""The page's texts: whole in each language, and none that is missing or not used."""

import re
from pathlib import Path

import pytest

from coinage.ui.security import MOST_EMBEDDING, MOST_IMAGE
from coinage.ui.texts import LANGUAGES, LOCALES, choose_language, texts_of

UI = LOCALES.parent
SCRIPTS = sorted((UI / "static").glob("*.js"))
TEMPLATES = sorted((UI / "templates").glob("*.html"))
PLACEHOLDER = re.compile(r"\{(\w+)\}")
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
# The same in every language
NAMES = {"repeat.toml", "crops.bucket", "caption.tokens", "step.of"}


def in_source(pattern: str) -> set[str]:
    found: set[str] = set()
    for path in (*SCRIPTS, *TEMPLATES):
        found |= set(re.findall(pattern, path.read_text(encoding="utf-8")))
    return found


def asked() -> set[str]:
    keys = in_source(r"""\bt\(\s*"([\w.]+)\"""") | in_source(r"""texts\[["']([\w.]+)["']\]""")
    for key in in_source(r"""\bcount\(\s*"([\w.]+)\""""):
        keys |= {f"{key}.one", f"{key}.other"}
    return keys


def test_all_languages_have_the_same_keys_and_placeholders() -> None:
    english = texts_of("en")
    for language in LANGUAGES[1:]:
        texts = texts_of(language)
        assert list(texts) == list(english)
        for key, text in texts.items():
            assert set(PLACEHOLDER.findall(text)) == set(PLACEHOLDER.findall(english[key])), key


def test_no_text_is_empty_or_left_untranslated() -> None:
    for language in LANGUAGES:
        assert all(text.strip() for text in texts_of(language).values())
    for key, text in texts_of("ja").items():
        assert key in NAMES or JAPANESE.search(text), key


def test_every_text_that_is_asked_for_is_there() -> None:
    keys = asked()
    assert len(keys) > 200
    assert keys - set(texts_of("en")) == set()


def test_every_text_is_used() -> None:
    # A key may also stand in a choice, as in t(done ? "copied" : "copy.failed")
    quoted = asked() | in_source(r'"([\w.]+)"')
    assert set(texts_of("en")) - quoted == set()


def test_no_sentence_stands_in_a_script() -> None:
    """What people read comes from the texts; scripts hold names and addresses."""
    for path in SCRIPTS:
        for text in re.findall(r'text: "([^"]*)"', path.read_text(encoding="utf-8")):
            assert not re.search(r"[A-Za-z]", text), f"{path.name}: {text}"


@pytest.mark.parametrize(
    ("accepted", "forced", "language"),
    [
        ("", None, "en"),
        ("ja", None, "ja"),
        ("ja-JP,ja;q=0.9,en;q=0.5", None, "ja"),
        ("en-GB,en;q=0.9,ja;q=0.8", None, "en"),
        ("de-DE,de;q=0.9", None, "en"),
        ("de,ja;q=0.3,en;q=0.2", None, "ja"),
        ("en;q=0.4, ja;q=0.7", None, "ja"),
        ("ja;q=0,en", None, "en"),
        ("ja;q=high,en", None, "en"),
        ("ja;q=7,en;q=0.1", None, "en"),
        ("ja", "en", "en"),
        ("en", "ja", "ja"),
        ("ja", "tlh", "ja"),
        (",;=,", None, "en"),
    ],
)
def test_the_language_is_that_of_the_browser(
    accepted: str, forced: str | None, language: str
) -> None:
    assert choose_language(accepted, forced) == language


def test_colours_are_those_of_the_report() -> None:
    report = (Path(UI).parent / "report" / "templates" / "report.css").read_text(encoding="utf-8")
    tokens = (UI / "static" / "tokens.css").read_text(encoding="utf-8").strip()
    assert report.startswith(tokens)


def test_the_largest_files_are_those_of_the_server() -> None:
    """The page refuses them at once, since a server can only break off while they are sent."""
    for name, most in (("upload.js", MOST_IMAGE), ("files_page.js", MOST_EMBEDDING)):
        script = (UI / "static" / name).read_text(encoding="utf-8")
        (factor,) = re.findall(r"LARGEST = (\d+) \* 2 \*\* 20", script)
        assert int(factor) * 2**20 == most


def test_files_and_lines_are_short() -> None:
    for path in (*SCRIPTS, *TEMPLATES, *(UI / "static").glob("*.css")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path.name
    for path in SCRIPTS:
        long = [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 110]
        assert long == [], path.name


def test_nothing_is_read_as_html_and_nothing_stands_in_line() -> None:
    """Texts of people are never read as HTML, and the content policy lets nothing run in line."""
    for path in SCRIPTS:
        script = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in script, f"{path.name}: {word}"
    for path in TEMPLATES:
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"\s(style|on\w+)=", page), path.name
        assert not re.search(r"<style|<script(?![^>]*(src=|application/json))", page), path.name
        assert not re.search(r"(src|href)=\"(https?:)?//", page), path.name
