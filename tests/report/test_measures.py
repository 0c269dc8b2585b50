"""The numbers that sum a run up."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.report import measures
from coinage.report.record import Curves, Record, Row


@given(st.lists(st.none() | st.floats(0, 10), max_size=60))
def test_smoothing_stays_within_the_values_and_keeps_gaps(values: list[float | None]) -> None:
    smooth = measures.smoothed(values)
    assert [value is None for value in smooth] == [value is None for value in values]
    known = [value for value in values if value is not None]
    assert all(
        min(known) - 1e-9 <= value <= max(known) + 1e-9 for value in smooth if value is not None
    )


def test_smoothing_by_hand() -> None:
    # 20 values: about 2 back, so each weighs 1 - 2/3 = 1/3 of the one after it
    smooth = measures.smoothed([3.0, 0.0, *[None] * 4, *[0.0] * 18])
    assert smooth[0] == pytest.approx(3)
    assert smooth[1] == pytest.approx(3 * (1 / 3) / (1 + 1 / 3))


def test_turned_is_the_mean_of_the_vectors_and_length_their_middle() -> None:
    rows = [Row(key="clip_l", number=1), Row(key="clip_g", number=1), Row(key="odd", number=1)]
    curves = Curves(
        step=[1, 2], angles=[[1, 3, 5], [10, None, 40]], norms=[[0.4, 0.8], [0.8, 0.8, 9.0]]
    )
    record = Record(
        rows=rows, curves=curves, vocabulary={"clip_l": (0.3, 0.4, 0.5), "clip_g": (0.7, 0.8, 0.9)}
    )
    assert measures.mean_angles(record) == [3, 25]
    assert measures.relative_lengths(record) == [1, 1.5]


def test_an_empty_run_measures_nothing() -> None:
    record = Record()
    assert measures.last_loss(record) is None
    assert measures.fixed_loss(record) is None
    assert measures.works_in(record) is None
    assert measures.images_per_second(record) is None
    assert measures.last_known(measures.mean_angles(record)) is None


def test_runs_of_one_name_are_numbered() -> None:
    assert measures.names_of(
        [Record(name="a"), Record(name="b"), Record(name="a"), Record(token="w"), Record()]
    ) == [
        "a",
        "b",
        "a (2)",
        "w",
        "run",
    ]


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (["sweep/s1/zibu", "sweep/s2/zibu"], ["s1", "s2"]),
        (["s1/zibu", "s2/zibu", "s10/zibu"], ["s1", "s2", "s10"]),
        (["out/lr=1e-3/seed1/zibu", "out/lr=1e-4/seed2/zibu"], ["seed1", "seed2"]),
        (["a/x/zibu", "a/y/zibu", "b/x/zibu"], ["a/x", "a/y", "b/x"]),
        (["a/zibu", "a/copy"], ["zibu", "copy"]),
        (["old/deep/a/zibu", "new/b/zibu"], ["a", "b"]),
        (["zibu", "below/zibu"], ["x", "below"]),
    ],
)
def test_runs_of_one_name_are_told_apart_by_their_folders(
    paths: list[str], told: list[str]
) -> None:
    places = [Path("/x") / f"{path}-report.html" for path in paths]
    assert measures.names_of([Record(name="zibu")] * len(paths), places) == [
        f"zibu ({word})" for word in told
    ]


def test_runs_of_one_name_are_told_apart_by_their_seeds() -> None:
    runs = [Record(name="zibu", command=f"python train.py \\\n  --seed={seed}") for seed in (1, 22)]
    assert measures.names_of(runs) == ["zibu (seed 1)", "zibu (seed 22)"]
    assert measures.names_of([*runs, runs[0]]) == ["zibu", "zibu (2)", "zibu (3)"]
