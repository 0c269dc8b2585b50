"""Check before the first step that a state's file holds what a run needs: it may be damaged, or anybody's."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coinage.runs.states import Summary

if TYPE_CHECKING:
    from coinage.training.run import Run

TRIAL_GRADIENT = 1e-3  # small, and not 0, by which some optimizers divide
NEEDED = ("rows", "optimizer", "schedule", "scaler", "measured")


def check_content(content: object, summary: Summary, rows: Sequence[Tensor]) -> None:
    """Check that a state's parts are there, of their types, and as large as the run's.

    Args:
        content: of the tensors' file.
        summary: of the state.
        rows: of the run, one [N, D] for each text encoder.

    Raises:
        ValueError: a part is wrong; the message names it.
    """
    if not isinstance(content, dict):
        raise ValueError("its content is not a dictionary")  # noqa: TRY004 - of a file, not of a call
    missing = [name for name in NEEDED if name not in content]
    _require(not missing, f"{', '.join(missing)} missing")
    place = (summary.step, summary.epoch, summary.done)
    _require(content.get("place", place) == place, "its two files are of different steps")
    _require(
        _are_rows(content["rows"], rows),
        "the vectors do not fit this run or are not finite",
    )
    best = content.get("best")
    _require(best is None or _is_best(best, rows), "the best word so far is damaged")
    _require(_are_measurements(content["measured"]), "the measured losses are not numbers")
    _require(_are_scores(content.get("scores", {})), "the measured scores are damaged")
    _require(_is_scaler(content["scaler"]), "the state of the loss scaler is damaged")
    _require(
        _are_init_words(content.get("starts", [])),
        "the measured init words are damaged",
    )
    _require(isinstance(content.get("init_word"), str | None), "the init word is not text")
    tensors = tensors_in(content["optimizer"])
    _require(not any(t.isnan().any() for t in tensors), "the optimizer's state is not finite")


def try_optimizer(run: Run, content: Mapping[str, Any]) -> None:
    """Make one step with copies of the run's rows, optimizer and schedule, as the state has them.

    Whatever kind of optimizer it is: numbers that it cannot use make it fail here, not in the run's
    first step.

    Raises:
        Exception: whatever they raise.
        ValueError: a tensor is larger or smaller than the optimizer's own, or the rate is not a number.
    """
    rows = []
    for row, values in zip(run.trained_rows, compress(content["rows"], run.learns_in), strict=True):
        copied = torch.nn.Parameter(values.to(row.device, row.dtype, copy=True))
        copied.grad = torch.full_like(copied, TRIAL_GRADIENT)
        rows.append(copied)
    fresh, optimizer = run.make_optimizer(rows), run.make_optimizer(rows)
    fresh.step()
    _compare_shapes(fresh.state_dict()["state"], content["optimizer"]["state"])
    copied_content = copy.deepcopy(dict(content))  # a step changes it
    optimizer.load_state_dict(copied_content["optimizer"])
    schedule = copy.copy(run.schedule)
    schedule.optimizer = optimizer
    schedule.load_state_dict(copied_content["schedule"])
    optimizer.step()
    schedule.step()
    rates_are_numbers = all(map(_is_finite, schedule.get_last_lr()))
    _require(rates_are_numbers, "the learning rate is not a number")


def _compare_shapes(wanted: Mapping[int, Any], saved: Mapping[int, Any]) -> None:
    """Compare the tensors of two optimizers' states, by parameter and name.

    Raises:
        ValueError: two shapes differ.
    """
    for number, entry in wanted.items():
        for key, tensor in entry.items():
            other = saved.get(number, {}).get(key)
            both = isinstance(tensor, Tensor) and isinstance(other, Tensor)
            if both and tensor.shape != other.shape:
                shapes = f"{list(other.shape)}, and needs {list(tensor.shape)}"
                raise ValueError(f"the optimizer's {key} has the shape {shapes}")


def tensors_in(content: object) -> Iterator[Tensor]:
    """Yield every tensor of floating-point numbers within tables and lists."""
    if isinstance(content, Tensor) and content.is_floating_point():
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from tensors_in(value)


def _require(right: bool, otherwise: str) -> None:
    if not right:
        raise ValueError(otherwise)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real | Tensor) and math.isfinite(float(value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_rows(saved: object, rows: Sequence[Tensor]) -> bool:
    """Return whether there are as many tensors as rows, each of the same shape, with finite numbers."""
    if not isinstance(saved, list | tuple) or len(saved) != len(rows):
        return False
    for values, row in zip(saved, rows, strict=True):
        if not isinstance(values, Tensor) or values.layout is not torch.strided or values.is_meta:
            return False
        if values.shape != row.shape or not values.is_floating_point():
            return False
        if not values.isfinite().all():
            return False
    return True


def _is_best(best: object, rows: Sequence[Tensor]) -> bool:
    if not isinstance(best, dict) or {*best} - {"score"} != {"step", "epoch", "loss", "rows"}:
        return False
    counts = _is_count(best["step"]) and _is_count(best["epoch"])
    value = best.get("score", best["loss"])
    is_number = _is_number(best["loss"]) and _is_finite(value)
    return counts and is_number and _are_rows(best["rows"], rows)


def _are_scores(scores: object) -> bool:
    """Return whether it is a table of steps with a finite number each."""
    if not isinstance(scores, dict):
        return False
    return all(map(_is_count, scores)) and all(map(_is_finite, scores.values()))


def _are_measurements(measured: object) -> bool:
    """Return whether it is a table of steps with one to four numbers each; earlier versions wrote one."""
    if not isinstance(measured, dict) or not all(map(_is_count, measured)):
        return False
    for values in measured.values():
        numbers = values if isinstance(values, tuple) else (values,)
        if not 1 <= len(numbers) <= 4 or not all(map(_is_number, numbers)):
            return False
    return True


def _is_scaler(scaler: object) -> bool:
    return isinstance(scaler, dict) and all(map(_is_number, scaler.values()))


def _are_init_words(starts: object) -> bool:
    return isinstance(starts, list | tuple) and all(map(_is_init_word, starts))


def _is_init_word(start: object) -> bool:
    if not isinstance(start, list | tuple) or len(start) != 3:
        return False
    return isinstance(start[0], str) and _is_number(start[1]) and _is_number(start[2])
