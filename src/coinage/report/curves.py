"""Keep what is measured at every step in few points, however long a run is. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coinage.report.record import Curves

# Half of the points that are kept at most, in runs of many vectors and of few
FEWEST_POINTS, MOST_POINTS = 100, 500
MOST_NUMBERS = 20_000  # lengths and angles kept, about


@dataclass(slots=True)
class _Point:
    """Some steps in a row: sums over them, and values after the last.

    Attributes:
        step: the last of them.
        count: how many they are.
        loss: sum of their losses.
        low, high: the least and the largest loss.
        rate: learning rate after the last.
        bands: for each part of the timesteps, sum and number of its losses.
        norms, angles: of the vectors after the last.
    """

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
        """Return one point for the steps of both."""
        bands = []
        for (loss, count), (more, others) in zip(self.bands, later.bands, strict=True):
            bands.append((loss + more, count + others))
        return _Point(
            step=later.step,
            count=self.count + later.count,
            loss=self.loss + later.loss,
            low=min(self.low, later.low),
            high=max(self.high, later.high),
            rate=later.rate,
            bands=bands,
            norms=later.norms,
            angles=later.angles,
        )


class CurveKeeper:
    """Take the journal's entries, and return curves of evenly long stretches of steps.

    When there are too many stretches, two become one.

    Args:
        bands: parts of the timesteps.
        rows: trained vectors of all text encoders.
    """

    def __init__(self, bands: int, rows: int) -> None:
        self._bands, self._rows = bands, rows
        half = MOST_NUMBERS // (2 * max(rows, 1))
        self._most = 2 * min(max(half, FEWEST_POINTS), MOST_POINTS)
        self._stride = 1
        self._points: list[_Point] = []

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take one update: `step`, `loss`, `lr`, and if known `bands`, `norms` and `angles`."""
        loss = float(entry["loss"])
        band_losses = entry.get("bands") or [None] * self._bands
        bands = []
        for band_loss in band_losses:
            bands.append((0.0, 0) if band_loss is None else (band_loss, 1))
        unknown = [None] * self._rows
        point = _Point(
            step=int(entry["step"]),
            count=1,
            loss=loss,
            low=loss,
            high=loss,
            rate=float(entry["lr"] or 0.0),
            bands=bands,
            norms=entry.get("norms") or unknown,
            angles=entry.get("angles") or unknown,
        )
        if self._points and self._points[-1].count < self._stride:
            self._points[-1] = self._points[-1].joined(point)
        else:
            self._points.append(point)
        if len(self._points) > self._most:
            self._halve()

    def _halve(self) -> None:
        """Join every two points to one; a last one without a partner stays."""
        pairs = zip(self._points[::2], self._points[1::2], strict=False)
        joined = [first.joined(second) for first, second in pairs]
        unpaired = self._points[-1:] if len(self._points) % 2 else []
        self._points = joined + unpaired
        self._stride *= 2

    def curves(self) -> Curves:
        """Return the curves so far, rounded to what a picture can show."""
        curves = Curves()
        for point in self._points:
            curves.step.append(point.step)
            curves.loss.append(_rounded(point.loss / point.count))
            curves.low.append(_rounded(point.low))
            curves.high.append(_rounded(point.high))
            curves.rate.append(_rounded(point.rate))
            curves.bands.append(_band_means(point.bands))
            curves.norms.append([_rounded(length) for length in point.norms])
            curves.angles.append([_rounded(angle) for angle in point.angles])
        return curves


def _band_means(bands: Sequence[tuple[float, int]]) -> list[float | None]:
    means = []
    for total, count in bands:
        means.append(_rounded(total / count) if count else None)
    return means


def _rounded(value: float | None) -> float | None:
    """Return a number with four digits; None stays None."""
    return None if value is None else float(f"{value:.4g}")
