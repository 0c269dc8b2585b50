"""Read the headers of images, and remember their sizes in the image folder (cache_info)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from coinage.data.headers import MAX_PIXELS, Header, read_header
from coinage.data.parallel_reads import read_many
from coinage.data_config import SubsetConfig
from coinage.errors import CoinageError, Findings
from coinage.system.files import write_bytes
from coinage.system.text_files import MEGABYTE, read_json

# Another name for another format: sizes.json knew fewer of the places of an orientation.
SIZES_FILE = Path(".coinage") / "sizes-2.json"
MOST_BYTES = 256 * MEGABYTE  # of a file of sizes; millions of images
LARGEST_NUMBER = 2**63
ORIENTATIONS = 8

Stamp = tuple[int, int]  # time of change in ns, bytes


def read_headers(
    paths: Sequence[str], subset: SubsetConfig, findings: Findings
) -> dict[str, Header]:
    """Return the header of each readable image, by path.

    Args:
        paths: of images.
        subset: of the images; with `cache_sizes`, headers that are remembered are not read again.
        findings: gets an error for each image that cannot be read.
    """
    stored = _load(subset)
    stamps = _stamps(paths) if subset.cache_sizes else {}
    headers: dict[str, Header] = {}
    for path, stamp in stamps.items():
        known = _header_in(stored.get(_name(path, subset)), stamp)
        if known:
            headers[path] = known
    unknown = [path for path in dict.fromkeys(paths) if path not in headers]
    for path, header in zip(unknown, read_many(read_header, unknown), strict=True):
        if isinstance(header, Header):
            headers[path] = header
        else:
            reason = str(header).replace(path, "").strip(" '") or type(header).__name__
            findings.error(f"unreadable image: {reason}", path, "replace or remove the file")
    if unknown and stamps:
        for path in unknown:
            if path in headers and path in stamps:
                image = headers[path]
                line = [*stamps[path], *image.stored_wh, image.orientation]
                stored[_name(path, subset)] = line
        _save(stored, subset, findings)
    return headers


def _header_in(line: Sequence[int] | None, stamp: Stamp) -> Header | None:
    """Return the header in a line of the file; None where it is of another image or impossible."""
    if line is None:
        return None
    changed, size, width, height, orientation = line
    if (changed, size) != stamp or width * height > MAX_PIXELS or orientation > ORIENTATIONS:
        return None
    return Header((width, height), orientation)


def _stamps(paths: Sequence[str]) -> dict[str, Stamp]:
    """Return the stamp of each file that is there."""
    stamps = {}
    for path, status in zip(paths, read_many(os.stat, paths), strict=True):
        if isinstance(status, os.stat_result):
            stamps[path] = (status.st_mtime_ns, status.st_size)
    return stamps


def _name(path: str, subset: SubsetConfig) -> str:
    """Return an image's key in the file: its path inside the image folder."""
    return os.path.relpath(path, subset.image_dir)


def _load(subset: SubsetConfig) -> dict[str, list[int]]:
    """Return what an earlier run stored: name to time, bytes, width, height, orientation."""
    if not subset.cache_sizes or subset.image_dir is None:
        return {}
    try:
        data = read_json(subset.image_dir / SIZES_FILE, most=MOST_BYTES)
    except CoinageError:
        return {}
    if not isinstance(data, dict):
        return {}
    return {name: line for name, line in data.items() if _is_line(line)}


def _is_line(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 5:
        return False
    return all(type(number) is int and 0 < number < LARGEST_NUMBER for number in value)


def _save(stored: Mapping[str, Sequence[int]], subset: SubsetConfig, findings: Findings) -> None:
    if subset.image_dir is None:
        return
    try:
        write_bytes(subset.image_dir / SIZES_FILE, json.dumps(stored).encode())
    except CoinageError as error:
        problem = error.problems[0]
        findings.warn(f"image sizes are not remembered: {problem.what}", problem.where)
