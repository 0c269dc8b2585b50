"""Captions of a word's images: changed together, read from tag files, counted in tokens. Imports no torch."""

from __future__ import annotations

import json
import re
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coinage.data.folder import stem_of, suffix_of
from coinage.data.metadata import caption_of as caption_in
from coinage.data.metadata import read_entries
from coinage.data_config import CaptionRules
from coinage.errors import CoinageError, Findings
from coinage.models.facts import DEFAULT
from coinage.models.tokenizer_files import local_tokenizer
from coinage.system.text_files import decoded
from coinage.text.clip_tokenizer import ClipTokenizer, read_tokenizer
from coinage.text.placeholder import (
    CHUNK,
    Placeholder,
    WordEncoder,
    clip_rows,
    encodable,
    word_pattern,
)
from coinage.ui.image_list import Pictures, pictures_of, write_caption
from coinage.ui.models import Model
from coinage.ui.site import Site
from coinage.ui.web import in_thread, read_as
from coinage.ui.workspace import NotFoundError, WordFolder

CAPTION_FILES = (".txt", ".caption")
TAG_FILES = (".json", ".jsonl")
# Keys under which boorus and their downloaders keep tags, the plainest first
TAG_KEYS = ("tags", "tag_string", "tag_string_general")
GENERAL = "general"  # group of tags that describe what is seen
MOST_TEXTS, LONGEST_TEXT = 10_000, 10_000
MOST_PATTERN = 200  # characters
MOST_SECONDS = 5.0  # for all captions of a word
# What can take forever: a repeated group, and what refers to a group
RISKY = re.compile(r"[)\]}?][*+{]|[*+}][*+{]|\)\?|\\\d|\(\?")
REPEAT = re.compile(r"[*+]|\{\d*,?\d*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What the page asks of all captions: find and replace, then prefix and suffix."""

    find: str = ""
    replace: str = ""
    prefix: str = ""
    suffix: str = ""
    regex: bool = False


def pattern_of(changes: Changes) -> re.Pattern[str] | None:
    """Return what is looked for; None for nothing.

    A pattern may repeat one thing once, and no group, so that it cannot take forever on any text.

    Raises:
        CoinageError: it is not such a pattern.
    """
    text = changes.find
    if not text:
        return None
    if not changes.regex:
        return re.compile(re.escape(text))
    bare = re.sub(r"\\[^\d]", "x", text)
    bare = re.sub(r"\[[^\]]*\]", "x", bare)
    if len(text) > MOST_PATTERN or RISKY.search(bare) or len(REPEAT.findall(bare)) > 1:
        what = "this pattern could take too long"
        hint = r"repeat one thing once at most, such as \d+, and no group; or search for plain text"
        raise CoinageError(what, hint=hint)
    try:
        return re.compile(text)
    except re.error as error:
        raise CoinageError(f"this is no pattern: {error}", hint="search for plain text") from None


def changed_caption(caption: str, changes: Changes, pattern: re.Pattern[str] | None) -> str:
    """Return a caption with the changes made; a prefix or suffix that it has already is not added.

    What a pattern finds is replaced by the plain text `replace`.

    Raises:
        CoinageError: the caption is too long for a pattern.
    """
    if pattern and changes.regex and len(caption) > LONGEST_TEXT:
        raise CoinageError("a caption is too long for a pattern", hint="search for plain text")
    text = pattern.sub(lambda _: changes.replace, caption) if pattern else caption
    if changes.prefix and not text.startswith(changes.prefix):
        text = changes.prefix + text
    if changes.suffix and not text.endswith(changes.suffix):
        text = text + changes.suffix
    return text.strip()


def change_all(folder: WordFolder, changes: Changes) -> int:
    """Change the captions of all images of a word; return how many have changed.

    Raises:
        CoinageError: the pattern is none; a caption cannot be written.
    """
    pattern = pattern_of(changes)
    pictures = pictures_of(folder)
    changed = {}
    end = time.monotonic() + MOST_SECONDS
    for image in pictures.ids:
        before = pictures.captions.get(image, "")
        after = changed_caption(before, changes, pattern)
        if after != before:
            changed[image] = after
        if time.monotonic() > end:
            raise CoinageError("this takes too long", hint="search for plain text")
    for image, text in changed.items():
        write_caption(folder, image, text)
    return len(changed)


# Files of captions and tags


def captions_in(data: bytes, name: str) -> dict[str, str]:
    """Return the captions of a file by the names of their images without suffix.

    Read are caption files (.txt, .caption), also comma lists of taggers; .json files of one image's tags as
    boorus' downloaders write them; and metadata files of many images (.json, .jsonl).

    Raises:
        CoinageError: it is none of them.
    """
    suffix = suffix_of(name)
    if suffix not in (*CAPTION_FILES, *TAG_FILES):
        hint = "give .txt, .caption, .json or .jsonl files"
        raise CoinageError("this is no file of captions", hint=hint)
    try:
        text = decoded(data)
    except UnicodeError as error:
        raise CoinageError(f"{error}", hint="save it as UTF-8") from None
    if suffix in CAPTION_FILES:
        line = next((line.strip() for line in text.splitlines() if line.strip()), "")
        return {_key(name): line}
    tags = _tags_of_one(text) if suffix == ".json" else None
    return {_key(name): tags} if tags is not None else _from_metadata(data, suffix)


def _key(name: str) -> str:
    """Return an image's name as it is compared: without folders, suffixes, letter case, composed accents."""
    bare = re.split(r"[/\\]", name)[-1]
    stem = stem_of(bare)
    inner = suffix_of(stem)
    if inner in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".gif"):
        stem = stem_of(stem)  # 1.png.txt
    return unicodedata.normalize("NFC", stem).casefold()


def _tags_of_one(text: str) -> str | None:
    """Return the tags of a file about one image; None if it is not one."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    for key in ("caption", "text"):
        if isinstance(data.get(key), str):
            return str(data[key])
    for key in TAG_KEYS:
        tags = _tag_list(data.get(key))
        if tags:
            return ", ".join(tags)
    return None


def _tag_list(value: Any) -> list[str]:
    """Return tags of a text, a list, scores by tag, or lists by group; underscores become spaces."""
    parts: list[Any]
    if isinstance(value, str):
        parts = value.split(",") if "," in value else value.split()
    elif isinstance(value, dict) and all(isinstance(v, list) for v in value.values()):
        groups = value.values() if GENERAL not in value else (value[GENERAL],)
        parts = [tag for group in groups for tag in group]
    elif isinstance(value, dict | list):
        parts = [tag.get("name") if isinstance(tag, dict) else tag for tag in value]
    else:
        return []
    tags = [tag.strip() for tag in parts if isinstance(tag, str) and tag.strip()]
    return [tag.replace("_", " ") if len(tag) > 3 else tag for tag in tags]


def _from_metadata(data: bytes, suffix: str) -> dict[str, str]:
    """Return the captions of a metadata file of many images."""
    findings = Findings()
    captions = {}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"metadata{suffix}"
        path.write_bytes(data)
        for entry in read_entries(path, findings):
            caption, _ = caption_in(entry, CaptionRules(), findings)
            if caption:
                captions[_key(entry.name)] = caption
    if not captions:
        reason = findings.errors[0].what if findings.errors else "it has no captions"
        raise CoinageError(reason, hint='write "1.png": {"caption": "..."}')
    return captions


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file of captions.

    Attributes:
        changed: number of captions that were written.
        missing: names of images in the file that the word does not have.
    """

    changed: int
    missing: list[str] = field(default_factory=list)


def take_captions(folder: WordFolder, data: bytes, name: str) -> Taken:
    """Give images of a word the captions of a file, matched by name.

    Raises:
        CoinageError: it is no file of captions, or none of its images is here.
    """
    captions = captions_in(data, name)
    by_key = _by_key(pictures_of(folder))
    missing = [key for key in captions if key not in by_key]
    if len(missing) == len(captions):
        hint = "add the images first; the names must be the same"
        raise CoinageError("it belongs to none of the images", hint=hint)
    count = 0
    for key, caption in captions.items():
        for image in by_key.get(key, ()):
            write_caption(folder, image, caption)
            count += 1
    return Taken(count, missing)


def _by_key(pictures: Pictures) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for image in pictures.ids:
        found.setdefault(_key(pictures.names[image]), []).append(image)
    return found


# Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Texts whose tokens are to be counted; `model` is the id of the model that will read them."""

    texts: list[str]
    word: str = ""
    vectors: int = 1
    model: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of tokens.

    Attributes:
        counts: one for each text.
        most: tokens of a caption that the model reads, as the checks have it.
        exact: counted with a CLIP vocabulary; otherwise estimated.
    """

    counts: list[int]
    most: int
    exact: bool


def count_tokens(site: Site, asked: Texts) -> Counts:
    """Count the tokens of texts, a word as so many as it has vectors.

    Without a vocabulary on this computer they are estimated; nothing is downloaded.

    Raises:
        CoinageError: too many texts, or too long ones.
    """
    too_long = any(len(text) > LONGEST_TEXT for text in asked.texts)
    if len(asked.texts) > MOST_TEXTS or too_long or not 1 <= asked.vectors <= CHUNK:
        raise CoinageError("too much text to count tokens in", hint="shorten it")
    texts = [text if encodable(text) else "" for text in asked.texts]
    model = _model(site, asked.model)
    most = CHUNK * ((model and model.facts) or DEFAULT).chunks_read(1)
    tokenizer = _tokenizer(model.source if model else "")
    if tokenizer is None:
        return Counts(_estimates(texts, asked), most, exact=False)
    words = []
    if asked.word and encodable(asked.word):
        words.append(Placeholder(asked.word, asked.vectors, len(tokenizer)))
    encoder = WordEncoder(tokenizer, words, clip_rows(tokenizer))
    return Counts([len(encoder.ids(text)) for text in texts], most, exact=True)


def _estimates(texts: Iterable[str], asked: Texts) -> list[int]:
    """Return about how many tokens texts have: one for a word or a sign, more for long or foreign words."""
    counts = []
    pattern = word_pattern([asked.word]) if asked.word else None
    for text in texts:
        words = len(pattern.findall(text)) if pattern else 0
        rest = pattern.sub(" ", text) if pattern else text
        count = words * asked.vectors
        for part in re.findall(r"[^\W\d_]+|\d|[^\w\s]", rest):
            count += 1 + len(part) // 9 if part.isascii() else len(part)
        counts.append(count)
    return counts


def _model(site: Site, model_id: str) -> Model | None:
    try:
        return site.models.find(model_id) if model_id else None
    except NotFoundError:
        return None


def _tokenizer(source: str) -> ClipTokenizer | None:
    folder = local_tokenizer(source)
    try:
        return _read(folder) if folder else None
    except CoinageError:
        return None


@lru_cache(maxsize=2)
def _read(folder: Path) -> ClipTokenizer | None:
    """Return a tokenizer; the last ones are kept, since reading one takes a tenth of a second."""
    return read_tokenizer(folder)


def routes_of(site: Site) -> list[BaseRoute]:
    """Return the addresses of captions."""

    async def changed(request: Request) -> Response:
        folder = site.workspace.word(request.path_params["id"])
        changes = await read_as(request, Changes)
        count = await in_thread(change_all, folder, changes)
        pictures = await in_thread(pictures_of, folder)
        return JSONResponse({"images": pictures.shown, "changed": count})

    async def taken(request: Request) -> Response:
        folder = site.workspace.word(request.path_params["id"])
        data = await request.body()
        name = request.query_params.get("name", "")
        result = await in_thread(take_captions, folder, data, name)
        pictures = await in_thread(pictures_of, folder)
        told = {"changed": result.changed, "missing": result.missing[:100]}
        return JSONResponse({"images": pictures.shown, **told})

    async def tokens(request: Request) -> Response:
        counts = await in_thread(count_tokens, site, await read_as(request, Texts))
        return JSONResponse({"counts": counts.counts, "most": counts.most, "exact": counts.exact})

    return [
        Route("/api/words/{id}/captions", changed, methods=["POST"]),
        Route("/api/words/{id}/captions", taken, methods=["PUT"]),
        Route("/api/tokens", tokens, methods=["POST"]),
    ]
