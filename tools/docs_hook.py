"""Hook of mkdocs: pages of the documentation must load nothing from other servers."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

# What a browser fetches by itself; links that a reader follows are not meant
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link\b(?![^>]*rel=\"?canonical))\b[^>]*"
    r"(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Return the page as it is.

    Raises:
        PluginError: it fetches something from another server.
    """
    if fetched := FETCHED.findall(output):
        raise PluginError(f"{page.file.src_uri} loads from another server: {', '.join(fetched)}")
    return output
