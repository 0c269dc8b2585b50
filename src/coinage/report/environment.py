"""Set up the templates of all pages, and the filters that write numbers and times."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from coinage.report.charts import number
from coinage.wording import counted

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment() -> Environment:
    """Return the environment of all templates.

    Text is escaped, and a name that a template is not given is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("coinage.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.filters |= {
        "number": number,
        "duration": duration,
        "moment": moment,
        "counted": counted,
    }
    return templates


def duration(seconds: float) -> str:
    """Return a time as people say it: `45 s`, `12 min 3 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(iso: str) -> str:
    """Return day and minute of a time in ISO 8601."""
    return iso[:16].replace("T", " ")
