"""Choose the charts of a run and of several runs: lines, colours, words. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coinage.report.charts import Area, Level, Line, Point, line_chart, number
from coinage.report.fit import pick_evenly
from coinage.report.measures import (
    Values,
    column,
    last_known,
    mean_angles,
    median_of,
    relative_lengths,
    smoothed,
)
from coinage.report.record import Record
from coinage.wording import counted

HUES = 8  # classes s0 to s7 of the style sheet
MOST_NAMED = 6  # vectors with a line and a name each; of more, each text encoder's median is named
MOST_TRACES = 24  # of these vectors are drawn faintly behind it
NOISE_HUES = 4  # classes n0 to n3, from little noise to much


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """A line of a legend: its name, its CSS class, and its last value as text, "" for none."""

    name: str
    style: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart with its title, a sentence on how to read it, and its legend, lines first."""

    title: str
    note: str
    svg: str
    legend: list[LegendEntry]


def vector_names(record: Record) -> list[str]:
    """Return the name of each vector: `vector 2`, and with several text encoders `clip_l 2`."""
    keys = _keys(record)
    if len(record.rows) == 1:
        return ["the word"]
    if len(keys) == len(record.rows):
        return [row.key for row in record.rows]
    if len(keys) == 1:
        return [f"vector {row.number}" for row in record.rows]
    return [f"{row.key} {row.number}" for row in record.rows]


def _keys(record: Record) -> list[str]:
    """Return the keys of the text encoders, in order."""
    return list(dict.fromkeys(row.key for row in record.rows))


def movement_figures(record: Record) -> list[Figure]:
    """Return charts of how the word has changed: its direction, its length per text encoder."""
    figures = []
    if last_known(mean_angles(record)) is not None:
        lines = _vector_lines(record, record.curves.angles, range(len(record.rows)))
        note = "0° is where the word started."
        note += " Two words that have nothing in common are about 90° apart."
        figures.append(_figure("Change from start", note, lines, "degrees", zero=True))
    keys = _keys(record)
    for key in keys:
        places = [place for place, row in enumerate(record.rows) if row.key == key]
        lines = _vector_lines(record, record.curves.norms, places)
        if not any(map(_is_drawn, lines)):
            continue
        title = f"Length in {key}" if len(keys) > 1 else "Length"
        level = _usual_lengths(record, key)
        note = ""
        if level:
            note = "If the line rises far above the grey band, the word will overpower the prompt."
        figures.append(_figure(title, note, lines, "length", level=level))
    return figures


def _usual_lengths(record: Record, key: str) -> Level | None:
    lengths = record.vocabulary.get(key)
    if not lengths:
        return None
    low, middle, high = lengths
    return Level(name="9 of 10 of the model's words", low=low, middle=middle, high=high)


def learning_figures(record: Record) -> list[Figure]:
    """Return charts of the loss, the loss by amount of noise, and the learning rate."""
    curves = record.curves
    figures = []
    smooth = Line(name="smoothed", points=_over_steps(record, smoothed(curves.loss)), style="s0")
    fixed = Line(name=record.measured_on, points=_measured(record), style="s1", dots=True)
    if _is_drawn(smooth) or _is_drawn(fixed):
        ranges = zip(curves.step, curves.low, curves.high, strict=False)
        points = [(float(step), low, high) for step, low, high in ranges]
        area = Area(name="least to largest", points=points)
        raw = Line(name="mean", points=_over_steps(record, curves.loss), style="s0", trace=True)
        note = "The loss is very noisy by nature: judge by the previews."
        figures.append(_figure("Loss", note, [raw, smooth, fixed], "loss", areas=[area]))
    bands = _band_lines(record)
    if any(map(_is_drawn, bands)):
        note = "Fine detail is learned where there is little noise,"
        note += " composition where there is much."
        figures.append(_figure("Loss by noise", note, bands, "loss, smoothed"))
    if last_known(curves.rate) is not None:
        rate = Line(name="learning rate", points=_over_steps(record, curves.rate), style="s0")
        figures.append(_figure("Learning rate", "", [rate], "learning rate", zero=True))
    return figures


def comparison_figures(records: Sequence[Record], names: Sequence[str]) -> list[Figure]:
    """Return charts with the same curve of several runs."""
    angles, lengths, losses, fixed_losses = [], [], [], []
    for number_of_run, (name, record) in enumerate(zip(names, records, strict=True)):
        style = f"s{number_of_run % HUES}"
        points = _over_steps(record, mean_angles(record))
        angles.append(Line(name=name, points=points, style=style))
        points = _over_steps(record, relative_lengths(record))
        lengths.append(Line(name=name, points=points, style=style))
        points = _over_steps(record, smoothed(record.curves.loss))
        losses.append(Line(name=name, points=points, style=style))
        fixed_losses.append(Line(name=name, points=_measured(record), style=style, dots=True))
    figures = [
        _figure(
            "Change from start",
            "Mean over the word's vectors.",
            angles,
            "degrees",
            zero=True,
        ),
        _figure(
            "Length",
            "Median over the word's vectors. 1 is the length of a usual word.",
            lengths,
            "× a usual word",
        ),
        _figure(
            "Loss",
            "Comparable where data and noise settings are the same.",
            losses,
            "loss, smoothed",
        ),
        _figure(
            "Loss on fixed images",
            "The same images and noise each time; held-out images where there are any.",
            fixed_losses,
            "loss",
        ),
    ]
    drawn = []
    for figure in figures:
        if any(entry.value for entry in figure.legend):
            drawn.append(figure)
    return drawn


def score_figure(title: str, note: str, scores: Sequence[tuple[str, Sequence[Point]]]) -> Figure:
    """Return a chart of scores over the steps, a line for each name with its points."""
    lines = [
        Line(name=name, points=points, style=f"s{place % HUES}", dots=True)
        for place, (name, points) in enumerate(scores)
    ]
    return _figure(title, note, lines, "score")


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
    """Return a chart and its legend; lines and areas without a point are in neither."""
    lines = [line for line in lines if _is_drawn(line)]
    legend = []
    ends = []
    for line in lines:
        if not line.trace:
            value = _last_value(line)
            legend.append(LegendEntry(name=line.name, style=line.style, value=value))
            ends.append(f"{line.name}: {value} at the end")
    for area in areas:
        if area.points:
            legend.append(LegendEntry(name=area.name, style=f"{area.style} wide"))
    if level:
        legend.append(LegendEntry(name=level.name, style="level wide"))
    svg = line_chart(
        lines,
        label=f"{title}, {unit}. {'; '.join(ends)}",
        unit=unit,
        areas=areas,
        level=level,
        zero=zero,
        spread=not zero,
    )
    return Figure(title=title, note=note, svg=svg, legend=legend)


def _is_drawn(line: Line) -> bool:
    return any(y is not None for _, y in line.points)


def _last_value(line: Line) -> str:
    value = last_known(y for _, y in line.points)
    return "" if value is None else number(value)


def _over_steps(record: Record, values: Values) -> list[Point]:
    return [(float(step), value) for step, value in zip(record.curves.step, values, strict=False)]


def _measured(record: Record) -> list[Point]:
    return [(float(step), loss) for step, loss in record.measured]


def _vector_lines(record: Record, table: Sequence[Values], places: Sequence[int]) -> list[Line]:
    """Return a line for each vector; for many, faint ones and each text encoder's median.

    Args:
        record: of the run.
        table: a value of every vector at every point.
        places: of the vectors to draw.
    """
    names, keys = vector_names(record), _keys(record)
    if len(record.rows) <= MOST_NAMED:
        lines = []
        for place in places:
            points = _over_steps(record, column(table, place))
            lines.append(Line(name=names[place], points=points, style=f"s{place % HUES}"))
        return lines
    hues = {}
    for number_of_key, key in enumerate(keys):
        hues[key] = f"s{number_of_key % HUES}"
    lines = []
    for place in pick_evenly(places, MOST_TRACES):
        points = _over_steps(record, column(table, place))
        style = hues[record.rows[place].key]
        lines.append(Line(name=names[place], points=points, style=style, trace=True))
    for key in keys:
        of_key = [place for place in places if record.rows[place].key == key]
        if of_key:
            name = f"median of {counted(len(of_key), 'vector')}"
            if len(keys) > 1:
                name += f", {key}"
            points = _over_steps(record, _medians(table, of_key))
            lines.append(Line(name=name, points=points, style=hues[key]))
    return lines


def _medians(table: Sequence[Values], places: Sequence[int]) -> list[float | None]:
    """Return the median of some columns of a table, for every line."""
    medians = []
    for line in table:
        values = [line[place] for place in places if place < len(line)]
        medians.append(median_of(values))
    return medians


def _band_lines(record: Record) -> list[Line]:
    """Return the smoothed loss of each part of the timesteps, little noise first."""
    lines = []
    count = len(record.bands)
    for band, (first, end) in enumerate(record.bands):
        name = f"{first}–{end - 1}"
        if count > 1 and band == 0:
            name = f"little noise, {name}"
        elif count > 1 and band == count - 1:
            name = f"much noise, {name}"
        style = f"s{band % HUES}"
        if count <= NOISE_HUES:
            style = f"n{band * (NOISE_HUES - 1) // max(1, count - 1)}"
        points = _over_steps(record, smoothed(column(record.curves.bands, band)))
        known = [point for point in points if point[1] is not None]  # few points have all bands
        lines.append(Line(name=name, points=known, style=style))
    return lines
