"""The charts of a run and of several runs: which lines, in which colours, with which words. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coinage.report.charts import Area, Level, Line, Point, line_chart, number
from coinage.report.fit import evenly
from coinage.report.measures import Values, column, last, middle, relative_lengths, smoothed, turned
from coinage.report.record import Record
from coinage.wording import counted

HUES = 8  # classes s0 to s7 of the style sheet
FEW = 6  # vectors that have a line and a name each; of more, each text encoder's middle is told
TRACES = 24  # the most of them that are drawn faintly behind it
NOISES = 4  # classes n0 to n3, from little noise to much


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of a legend: its name, its CSS class, and its last value in words, "" for none."""

    name: str
    style: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart with its title, a sentence on how to read it, and its legend; entries of lines come first, in their order."""

    title: str
    note: str
    svg: str
    legend: list[Entry]


def row_names(record: Record) -> list[str]:
    """What each vector is called: `vector 2`, and with several text encoders `clip_l 2`."""
    keys = {row.key for row in record.rows}
    if len(record.rows) == 1:
        return ["the word"]
    if len(keys) == len(record.rows):
        return [row.key for row in record.rows]
    return [f"{row.key if len(keys) > 1 else 'vector'} {row.number}" for row in record.rows]


def journey(record: Record) -> list[Figure]:
    """How far the word has gone: its direction, and its length in each text encoder."""
    figures = []
    if last(turned(record)) is not None:
        lines = _rows(record, record.curves.angles, range(len(record.rows)))
        note = "0° is where the word started. Two words that have nothing in common are about 90° apart."
        figures.append(_figure("Change from start", note, lines, "degrees", zero=True))
    keys = list(dict.fromkeys(row.key for row in record.rows))
    for key in keys:
        places = [i for i, row in enumerate(record.rows) if row.key == key]
        lines = _rows(record, record.curves.norms, places)
        if not any(y is not None for line in lines for _, y in line.points):
            continue
        words = record.vocabulary.get(key)
        level = (
            Level(name="9 of 10 of the model's words", low=words[0], middle=words[1], high=words[2])
            if words
            else None
        )
        note = (
            "If the line rises far above the grey band, the word will overpower the prompt."
            if words
            else ""
        )
        figures.append(
            _figure(
                f"Length{f' in {key}' if len(keys) > 1 else ''}", note, lines, "length", level=level
            )
        )
    return figures


def learning(record: Record) -> list[Figure]:
    """Loss, loss by amount of noise, learning rate."""
    curves, figures = record.curves, []
    lines = [
        Line(name="smoothed", points=_over(record, smoothed(curves.loss)), style="s0"),
        Line(
            name=record.measured_on,
            points=[(float(step), loss) for step, loss in record.measured],
            style="s1",
            dots=True,
        ),
    ]
    if any(y is not None for line in lines for _, y in line.points):
        area = Area(
            name="least to largest",
            points=[
                (float(x), a, b)
                for x, a, b in zip(curves.step, curves.low, curves.high, strict=False)
            ],
        )
        raw = Line(name="mean", points=_over(record, curves.loss), style="s0", trace=True)
        note = "The loss is very noisy by nature: judge by the previews."
        figures.append(_figure("Loss", note, [raw, *lines], "loss", areas=[area]))
    if any(value is not None for line in curves.bands for value in line):
        note = (
            "Fine detail is learned where there is little noise, composition where there is much."
        )
        figures.append(_figure("Loss by noise", note, _bands(record), "loss, smoothed"))
    if last(curves.rate) is not None:
        rate = Line(name="learning rate", points=_over(record, curves.rate), style="s0")
        figures.append(_figure("Learning rate", "", [rate], "learning rate", zero=True))
    return figures


def overlays(records: Sequence[Record], names: Sequence[str]) -> list[Figure]:
    """The same curve of several runs in one chart."""

    def lines(values: Sequence[Values]) -> list[Line]:
        runs = enumerate(zip(records, names, values, strict=True))
        return [
            Line(name=name, points=_over(record, own), style=f"s{i % HUES}")
            for i, (record, name, own) in runs
        ]

    fixed = [
        Line(
            name=name,
            points=[(float(step), loss) for step, loss in record.measured],
            style=f"s{i % HUES}",
            dots=True,
        )
        for i, (record, name) in enumerate(zip(records, names, strict=True))
    ]
    means, middles = "Mean over the word's vectors.", "Median over the word's vectors."
    found = [
        _figure(
            "Change from start",
            means,
            lines([turned(record) for record in records]),
            "degrees",
            zero=True,
        ),
        _figure(
            "Length",
            f"{middles} 1 is the length of a usual word.",
            lines([relative_lengths(r) for r in records]),
            "× a usual word",
        ),
        _figure(
            "Loss",
            "Comparable where data and noise settings are the same.",
            lines([smoothed(r.curves.loss) for r in records]),
            "loss, smoothed",
        ),
        _figure(
            "Loss on fixed images",
            "The same images and noise each time; held-out images where there are any.",
            fixed,
            "loss",
        ),
    ]
    return [figure for figure in found if any(entry.value for entry in figure.legend)]


def _figure(
    title: str,
    note: str,
    lines: Sequence[Line],
    unit: str,
    *,
    areas: Sequence[Area] = (),
    level: Level | None = None,
    zero: bool = False,
) -> Figure:
    """A chart and its legend; lines and areas without a point are in neither."""
    lines = [line for line in lines if any(y is not None for _, y in line.points)]
    areas = [area for area in areas if area.points]
    named = [line for line in lines if not line.trace]
    legend = [Entry(name=line.name, style=line.style, value=_value(line)) for line in named]
    legend += [Entry(name=area.name, style=f"{area.style} wide") for area in areas]
    legend += [Entry(name=level.name, style="level wide")] if level else []
    told = "; ".join(f"{entry.name}: {entry.value} at the end" for entry in legend if entry.value)
    svg = line_chart(
        lines,
        label=f"{title}, {unit}. {told}",
        unit=unit,
        areas=areas,
        level=level,
        zero=zero,
        spread=not zero,
    )
    return Figure(title=title, note=note, svg=svg, legend=legend)


def _value(line: Line) -> str:
    value = last(y for _, y in line.points)
    return "" if value is None else number(value)


def _over(record: Record, values: Values) -> list[Point]:
    return [(float(step), value) for step, value in zip(record.curves.step, values, strict=False)]


def _rows(record: Record, table: Sequence[Values], places: Sequence[int]) -> list[Line]:
    """A line for each vector; where there are many, faint ones and each text encoder's middle."""
    names, keys = row_names(record), list(dict.fromkeys(row.key for row in record.rows))
    if len(record.rows) <= FEW:
        return [
            Line(name=names[i], points=_over(record, column(table, i)), style=f"s{i % HUES}")
            for i in places
        ]
    hues = {key: f"s{i % HUES}" for i, key in enumerate(keys)}
    shown = [places[i] for i in evenly(len(places), TRACES)]
    lines = [
        Line(
            name=names[i],
            points=_over(record, column(table, i)),
            style=hues[record.rows[i].key],
            trace=True,
        )
        for i in shown
    ]
    for key in keys:
        own = [i for i in places if record.rows[i].key == key]
        values = [middle(line[i] for i in own if i < len(line)) for line in table]
        name = f"median of {counted(len(own), 'vector')}" + (f", {key}" if len(keys) > 1 else "")
        lines += [Line(name=name, points=_over(record, values), style=hues[key])] if own else []
    return lines


def _bands(record: Record) -> list[Line]:
    """Smoothed loss of each part of the timesteps, little noise first."""
    lines = []
    count = len(record.bands)
    for i, (first, end) in enumerate(record.bands):
        words = (
            "little noise, "
            if i == 0 and count > 1
            else "much noise, "
            if i == count - 1 and count > 1
            else ""
        )
        style = f"n{i * (NOISES - 1) // max(1, count - 1)}" if count <= NOISES else f"s{i % HUES}"
        # Few have all bands
        points = [
            point
            for point in _over(record, smoothed(column(record.curves.bands, i)))
            if point[1] is not None
        ]
        lines.append(Line(name=f"{words}{first}–{end - 1}", points=points, style=style))
    return lines
