"""Render several runs side by side on one HTML page. It needs no network; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coinage.report import measures
from coinage.report.environment import environment
from coinage.report.figures import comparison_figures, vector_names
from coinage.report.fit import MOST_BYTES, fit_pictures, fit_words, without_pictures
from coinage.report.page import MARGIN
from coinage.report.previews import pictures_of, stage_of_runs
from coinage.report.record import Record, Tool

MOST_BYTES_COMPARED = 16_000_000  # of a page of several runs


def render_comparison(records: Sequence[Record], paths: Sequence[Path] = ()) -> str:
    """Return a page with several runs side by side, below 16 MB in UTF-8.

    Args:
        records: of the runs.
        paths: of their reports, which distinguish runs of one name.
    """
    fitted = [fit_words(replace(record, images=[])) for record in records]
    names = measures.names_of(fitted, paths)
    size = len(_page([without_pictures(record) for record in fitted], names).encode())
    room = (MOST_BYTES_COMPARED - size - MARGIN) // max(1, len(records))
    room = min(room, MOST_BYTES)
    return _page([fit_pictures(record, room) for record in fitted], names)


def _page(records: Sequence[Record], names: Sequence[str]) -> str:
    runs = []
    vectors = []
    for name, record in zip(names, records, strict=True):
        runs.append(_run(name, record))
        vectors.append(list(zip(vector_names(record), record.rows, strict=True)))
    template = environment().get_template("compare.html")
    return template.render(
        runs=runs,
        stage=stage_of_runs(records),
        pictures=pictures_of(records),
        figures=comparison_figures(records, names),
        differences=differences(records),
        tools=_tools(records),
        rows=vectors,
    )


def _run(name: str, record: Record) -> dict[str, Any]:
    """Return a run's line in the table."""
    return {
        "name": name,
        "record": record,
        "loss": measures.last_loss(record),
        "turned": measures.last_known(measures.mean_angles(record)),
        "length": measures.last_known(measures.relative_lengths(record)),
        "fixed": measures.fixed_loss(record),
        "works": measures.works_in(record),
    }


def differences(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs.

    Returns:
        Pairs of the setting and its value in each run; "" where that is unknown or the default.
    """
    rows: dict[str, list[str]] = {}
    for place, record in enumerate(records):
        for name, value in _settings(record).items():
            values = rows.setdefault(name, [""] * len(records))
            values[place] = value
    return [(name, values) for name, values in rows.items() if len(set(values)) > 1]


def _settings(record: Record) -> dict[str, str]:
    """Return all settings of a run, by name."""
    settings = {
        "word": record.token,
        "model": record.model,
        "family": record.family,
        "device": record.device,
        "vectors": str(len(record.rows) or ""),
        "images": str(record.image_count or ""),
        "coinage": record.coinage,
    }
    for _, group in record.settings:
        settings |= dict(group)
    return settings


def _tools(records: Sequence[Record]) -> list[tuple[str, list[Tool | None]]]:
    """Return for every tool how each run's file does in it; None where it was not tried."""
    rows: dict[str, list[Tool | None]] = {}
    for place, record in enumerate(records):
        for tool in record.tools:
            results = rows.setdefault(tool.tool, [None] * len(records))
            results[place] = tool
    return list(rows.items())
