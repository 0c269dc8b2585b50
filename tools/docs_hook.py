"""Hook of mkdocs: translated pages have the anchors of the English ones; no page loads from elsewhere.

Names of flags are never broken at their dashes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markdown import Markdown
from mkdocs.exceptions import PluginError

# What a browser fetches by itself; links that a reader follows are not meant
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link\b(?![^>]*rel=\"?canonical))\b[^>]*"
    r"(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)
UNTRANSLATED = {"ja": '!!! note "このページは英語で書かれています"\n    日本語訳はまだありません。'}
# A flag in the text of a page; tags and blocks of code are passed over
FLAG = re.compile(r"(<pre\b.*?</pre>|<[^>]*>)|(?<![\w-])(--[a-z]\w*)", re.DOTALL)
FENCED_OR_HEADING = re.compile(r"^```.*?^```|^#{1,6} [^\n]+$", re.MULTILINE | re.DOTALL)


def anchors_of(text: str) -> list[str]:
    """The anchors of a page's headings, as the site has them, in their order."""
    reader = Markdown(extensions=["attr_list", "md_in_html", "pymdownx.superfences", "toc"])
    reader.convert(text)
    waiting, anchors = list(reader.toc_tokens), []
    while waiting:
        heading = waiting.pop(0)
        anchors.append(heading["id"])
        waiting = [*heading["children"], *waiting]
    return anchors


def with_anchors_of(english: str, translated: str) -> str:
    """The translated page, each heading with the anchor of the English one in its place.

    Raises:
        ValueError: they have not the same number of headings.
    """
    anchors = iter(anchors_of(english))

    def add(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith("```") else f"{found[0]} {{#{next(anchors)}}}"

    try:
        text = FENCED_OR_HEADING.sub(add, translated)
    except StopIteration:
        raise ValueError("more headings than the English page has") from None
    if left := list(anchors):
        raise ValueError(f"fewer headings than the English page has; no {', '.join(left)}")
    return text


def with_note(markdown: str, language: str) -> str:
    """An English page for readers of another language, which says so below its title."""
    title, rest = re.fullmatch(r"(# [^\n]+\n)?(.*)", markdown, re.DOTALL).groups("")
    return f"{title}\n{UNTRANSLATED[language]}\n\n{rest}"


def with_whole_flags(html: str) -> str:
    """The page, with each flag marked so that no line ends between its dashes."""
    return FLAG.sub(lambda found: found[1] or f'<span class="flag">{found[2]}</span>', html)


def on_page_content(html: str, **_: object) -> str:
    """Return the body of a page, with its flags marked."""
    return with_whole_flags(html)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Return the text of a page, a translated one with the anchors of the English page.

    Raises:
        PluginError: a translated page has other headings than the English one.
    """
    path = Path(page.file.abs_src_path)
    if not path.name.endswith(".ja.md"):
        language = page.file.locale_alternate_of
        return markdown if language == "en" else with_note(markdown, language)
    try:
        english = path.with_name(path.name.replace(".ja.md", ".md")).read_text(encoding="utf-8")
        return with_anchors_of(english, markdown)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Return the page as it is.

    Raises:
        PluginError: it fetches something from another server.
    """
    if fetched := FETCHED.findall(output):
        raise PluginError(f"{page.file.src_uri} loads from another server: {', '.join(fetched)}")
    return output
