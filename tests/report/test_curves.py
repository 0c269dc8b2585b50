"""Curves are short however long a run is, and still true."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.report.curves import MOST_POINTS, CurveKeeper


def entries(count: int) -> list[dict[str, object]]:
    return [
        {
            "step": i,
            "loss": 0.1 + (i % 7) / 10,
            "lr": 1e-3 * i,
            "bands": [0.5, None],
            "norms": [float(i)],
            "angles": [i / count],
        }
        for i in range(1, count + 1)
    ]


@given(st.integers(1, 5000))
def test_curves_are_short_and_keep_what_they_stand_for(count: int) -> None:
    keeper = CurveKeeper(2, 1)
    for entry in entries(count):
        keeper.add(entry)
    curves = keeper.curves()
    assert len(curves.step) <= 2 * MOST_POINTS
    assert curves.step == sorted(set(curves.step))
    assert curves.step[-1] == count
    assert curves.norms[-1] == [pytest.approx(count, rel=1e-3)]
    assert curves.rate[-1] == pytest.approx(1e-3 * count, rel=1e-3)
    lengths = [now - before for before, now in zip([0, *curves.step], curves.step, strict=False)]
    assert len({*lengths[:-1]}) <= 1, "all points stand for as many steps, but for the last"
    mean = (
        sum(
            value * length
            for value, length in zip(curves.loss, lengths, strict=True)
            if value is not None
        )
        / count
    )
    assert mean == pytest.approx(
        sum(0.1 + (i % 7) / 10 for i in range(1, count + 1)) / count, rel=1e-3
    )
    assert all(
        low <= loss <= high
        for low, loss, high in zip(curves.low, curves.loss, curves.high, strict=True)
    )  # type: ignore[operator]
    assert {tuple(band) for band in curves.bands} == {(0.5, None)}


def test_lines_of_an_earlier_version_leave_gaps() -> None:
    keeper = CurveKeeper(2, 3)
    keeper.add({"step": 1, "loss": 0.5, "lr": 0.1, "grad_norm": None})
    curves = keeper.curves()
    assert (curves.bands, curves.norms, curves.angles) == (
        [[None, None]],
        [[None] * 3],
        [[None] * 3],
    )


def test_many_vectors_make_fewer_points() -> None:
    keeper = CurveKeeper(1, 150)
    for step in range(1, 3000):
        keeper.add(
            {"step": step, "loss": math.pi, "lr": 0.1, "norms": [1.0] * 150, "angles": [2.0] * 150}
        )
    assert len(keeper.curves().step) <= 200
