"""What is measured at every step, kept in few points however long a run is. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coinage.report.record import Curves

FEWEST, MOST = 100, 500  # points, half of what is kept at most
NUMBERS = 20_000  # lengths and angles kept, about


@dataclass(slots=True)
class _Point:
    """Some steps in a row: sums over them, and how it stood after the last."""

    step: int
    count: int
    loss: float
    low: float
    high: float
    rate: float
    bands: list[tuple[float, int]]
    norms: Sequence[float | None]
    angles: Sequence[float | None]

    def joined(self, later: _Point) -> _Point:
        bands = [(a + b, m + n) for (a, m), (b, n) in zip(self.bands, later.bands, strict=True)]
        low, high = min(self.low, later.low), max(self.high, later.high)
        counts = self.count + later.count, self.loss + later.loss
        return _Point(later.step, *counts, low, high, later.rate, bands, later.norms, later.angles)


class CurveKeeper:
    """Takes the journal's entries, and gives curves of evenly long stretches; when there are too many, two become one.

    Args:
        bands: parts of the timesteps.
        rows: trained vectors of all text encoders.
    """

    def __init__(self, bands: int, rows: int) -> None:
        self._bands, self._rows = bands, rows
        self._most = 2 * min(max(NUMBERS // (2 * max(rows, 1)), FEWEST), MOST)
        self._stride = 1
        self._points: list[_Point] = []

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take one update: `step`, `loss`, `lr`, and where they are known `bands`, `norms` and `angles`."""
        bands = [
            (0.0, 0) if loss is None else (loss, 1)
            for loss in entry.get("bands") or [None] * self._bands
        ]
        loss, unknown = float(entry["loss"]), [None] * self._rows
        norms, angles = entry.get("norms") or unknown, entry.get("angles") or unknown
        point = _Point(
            int(entry["step"]), 1, loss, loss, loss, float(entry["lr"] or 0.0), bands, norms, angles
        )
        if self._points and self._points[-1].count < self._stride:
            self._points[-1] = self._points[-1].joined(point)
        else:
            self._points.append(point)
        if len(self._points) > self._most:
            pairs = zip(self._points[::2], [*self._points[1::2], None], strict=False)
            self._points = [first.joined(second) if second else first for first, second in pairs]
            self._stride *= 2

    def curves(self) -> Curves:
        """The curves so far, rounded to what a picture can show."""
        points = self._points
        return Curves(
            step=[p.step for p in points],
            loss=[_short(p.loss / p.count) for p in points],
            low=[_short(p.low) for p in points],
            high=[_short(p.high) for p in points],
            rate=[_short(p.rate) for p in points],
            bands=[
                [_short(total / count) if count else None for total, count in p.bands]
                for p in points
            ],
            norms=[_shorts(p.norms) for p in points],
            angles=[_shorts(p.angles) for p in points],
        )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _shorts(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else _short(value) for value in values]
