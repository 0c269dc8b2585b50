"""Charts hold only coordinates that can be drawn, whatever the numbers."""

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coinage.report.charts import (
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    WIDTH,
    Area,
    Level,
    Line,
    line_chart,
    linear_scale,
    log_scale,
    nice_step,
    number,
    thinned,
)

ANY = st.none() | st.floats() | st.floats(0, 1)
STEPS = st.integers(0, 10**7) | st.floats()
POINTS = st.lists(st.tuples(STEPS, ANY), max_size=12)


def places(svg: str) -> list[tuple[float, float]]:
    """All coordinates in a chart; what is no number at all is an error here."""
    found = []
    for element in ET.fromstring(svg).iter():  # noqa: S314 - our own
        x, y = (float(element.get(name, "0")) for name in ("x", "y"))
        found += [
            (x, y),
            (x + float(element.get("width", "0")), y + float(element.get("height", "0"))),
        ]
        shape = re.sub(r"[MZ ]+", " ", element.get("d", "")).replace("h0", "")
        for word in shape.split():
            x, y, *end = map(float, re.split(r",|H", word))
            found += [(x, y), *((one, y) for one in end)]
    return found


@given(
    POINTS,
    st.lists(st.tuples(STEPS, ANY, ANY), max_size=5),
    st.none() | st.tuples(st.floats(), st.floats(), st.floats()),
    st.booleans(),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_all_coordinates_are_inside(points, ranges, level, spread, zero) -> None:
    line = Line(name="<loss>", points=points, dots=True)
    svg = line_chart(
        [line, Line(name="one", points=[(3, 0.5)])],
        label='"quoted" & <said>',
        unit="<unit>",
        areas=[Area(name="range", points=ranges)],
        level=Level(name="words", low=level[0], middle=level[1], high=level[2]) if level else None,
        spread=spread,
        zero=zero,
    )
    assert "nan" not in svg.lower()
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(svg))


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, None)],
        [(1, 0.5)],
        [(1, 0.5), (2, 0.5)],
        [(0, 0.0)],
        [(1, 1.0), (2, None), (3, 2.0)],
    ],
)
def test_few_and_constant_values(points: list[tuple[float, float | None]]) -> None:
    svg = line_chart([Line(name="a", points=points)], label="a")
    drawn = sum(y is not None for _, y in points)
    assert ('class="line s0"' in svg) == bool(drawn)
    lines = [e.get("d", "") for e in ET.fromstring(svg).iter() if e.get("class") == "line s0"]  # noqa: S314
    assert sum(len(re.findall(r"[\d.]+,[\d.]+", line)) for line in lines) == drawn


def test_a_gap_breaks_the_line_and_a_lone_point_is_a_dot() -> None:
    svg = line_chart([Line(name="a", points=[(0, 1), (1, 2), (2, None), (3, 1)])], label="a")
    shape = re.search(r'class="line s0" d="([^"]+)"', svg)
    assert shape
    assert shape[1].count("M") == 2
    assert shape[1].endswith("h0")


def test_the_plot_is_used_from_edge_to_edge() -> None:
    svg = line_chart(
        [Line(name="a", points=[(step, step / 100) for step in range(101)])], label="a"
    )
    shape = re.search(r'class="line s0" d="M([^"]+)"', svg)
    assert shape
    assert shape[1].startswith(f"{LEFT},204")
    assert shape[1].endswith(f"{RIGHT},28")


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.none() | st.floats(-1e9, 1e9)), max_size=1000),
    st.integers(1, 50),
)
def test_thinned_keeps_the_end_and_the_range(points, most) -> None:
    few = thinned(points, most=most)
    assert len(few) == min(len(points), most)
    if points:
        assert few[-1][0] == points[-1][0]
    ys = [y for _, y in points if y is not None]
    assert all(min(ys) - 1e-3 <= y <= max(ys) + 1e-3 for _, y in few if y is not None)
    assert [y for _, y in thinned(points, max, 1)] == ([max(ys)] if ys else [None] * bool(points))


def test_long_curves_are_thinned() -> None:
    svg = line_chart([Line(name="a", points=[(i, math.sin(i)) for i in range(10_000)])], label="a")
    assert len(svg) < 20 * MOST_POINTS


@given(st.floats(1e-12, 1e12), st.integers(2, 8))
def test_nice_steps(span: float, parts: int) -> None:
    step = nice_step(span, parts)
    assert span / step <= parts * 1.001
    assert span / step > parts / 2.6
    assert number(step, 2).rstrip("0").replace(".", "").replace(",", "").lstrip("0").split("e")[
        0
    ].rstrip("0") in {"1", "2", "25", "5"}
    assert nice_step(span, parts, whole=True).is_integer()


@given(st.floats(1e-25, 1e25), st.floats(1.0, 1e4))
def test_log_scales(low: float, ratio: float) -> None:
    scale = log_scale([low, low * ratio], 200, 0)
    assert scale.place(low) >= scale.place(low * ratio)
    assert all(0 <= scale.place(tick) <= 200 for tick in scale.ticks)


def test_ticks_are_round() -> None:
    assert linear_scale([0.03, 0.19], 0, 100).ticks == pytest.approx((0, 0.05, 0.1, 0.15, 0.2))
    assert linear_scale([0, 300], 0, 100, whole=True, snap=False).ticks == (0, 100, 200, 300)
    assert log_scale([0.01, 1], 0, 100).ticks == pytest.approx((0.01, 0.1, 1))


def test_numbers_as_people_write_them() -> None:
    written = [0, 0.125, 1600, 5e-4, 2.5e-7, -3, 0.1, 123456, 1e6, math.inf, 12.3456]
    assert [number(value) for value in written] == [
        "0",
        "0.125",
        "1,600",
        "5e-4",
        "2.5e-7",
        "-3",
        "0.1",
        "123,456",
        "1e6",
        "–",
        "12.3",
    ]
