"""Whether a state's file holds what a run needs, told before the first step: it may be damaged, or anybody's."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coinage.optim.factory import choose_optimizer
from coinage.runs.states import Summary

if TYPE_CHECKING:
    from coinage.training.run import Run

TRIAL_GRADIENT = 1e-3  # small, and not 0, by which some optimizers divide
NEEDED = ("rows", "optimizer", "schedule", "scaler", "measured")


def check_content(content: object, summary: Summary, rows: Sequence[Tensor]) -> None:
    """See that a state's parts are there, of their types, and as large as the run's.

    Args:
        content: of the tensors' file.
        summary: of the state.
        rows: of the run, one [N, D] for each text encoder.

    Raises:
        ValueError: which part is not as it should be.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a table of parts")  # noqa: TRY004 - of a file, not of a call
    missing = [name for name in NEEDED if name not in content]
    _see(not missing, f"it lacks {', '.join(missing)}")
    place = (summary.step, summary.epoch, summary.done)
    _see(content.get("place", place) == place, "its two files tell different steps")
    _see(_are_rows(content["rows"], rows), "the vectors are not those of such a run, or not finite")
    best = content.get("best")
    _see(best is None or _is_best(best, rows), "the best word so far is not as it was saved")
    _see(_is_measured(content["measured"]), "the losses that were measured are not numbers")
    _see(
        isinstance(content["scaler"], dict) and all(map(_is_number, content["scaler"].values())),
        "the loss scaler's state is broken",
    )
    starts = content.get("starts", [])
    _see(
        isinstance(starts, list | tuple) and all(map(_is_start, starts)),
        "the init words that were measured are not as they were saved",
    )
    _see(isinstance(content.get("init_word"), str | None), "the init word is not a text")
    _see(
        not any(tensor.isnan().any() for tensor in tensors_in(content["optimizer"])),
        "the optimizer's state is not finite",
    )


def try_optimizer(run: Run, content: Mapping[str, Any]) -> None:
    """Make one step with copies of the run's rows, optimizer and schedule, as the state has them.

    Whatever kind of optimizer it is: numbers that it cannot use make it fail here, not in the run's first step.

    Raises:
        Exception: whatever they raise.
        ValueError: a tensor is larger or smaller than the optimizer's own, or the rate is not a number.
    """
    rows = []
    for own, values in zip(run.rows, content["rows"], strict=True):
        row = torch.nn.Parameter(values.to(own.device, own.dtype, copy=True))
        row.grad = torch.full_like(row, TRIAL_GRADIENT)
        rows.append(row)
    fresh, optimizer = (choose_optimizer(run.config.optim)(rows) for _ in range(2))
    fresh.step()
    due, found = fresh.state_dict()["state"], content["optimizer"]["state"]
    for number, entry in due.items():
        for key, tensor in entry.items():
            other = found.get(number, {}).get(key)
            if (
                isinstance(tensor, Tensor)
                and isinstance(other, Tensor)
                and tensor.shape != other.shape
            ):
                shapes = f"{list(other.shape)}, and needs {list(tensor.shape)}"
                raise ValueError(f"the optimizer's {key} has the shape {shapes}")
    tried = copy.deepcopy(dict(content))  # a step changes it
    optimizer.load_state_dict(tried["optimizer"])
    schedule = copy.copy(run.schedule)
    schedule.optimizer = optimizer
    schedule.load_state_dict(tried["schedule"])
    optimizer.step()
    schedule.step()
    _see(all(map(_is_finite, schedule.get_last_lr())), "the learning rate is not a number")


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


def _see(right: bool, otherwise: str) -> None:
    if not right:
        raise ValueError(otherwise)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real | Tensor) and math.isfinite(float(value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_rows(found: object, rows: Sequence[Tensor]) -> bool:
    """Whether there are as many tensors as there are rows, each of the same shape, with finite numbers."""
    if not isinstance(found, list | tuple) or len(found) != len(rows):
        return False
    for values, row in zip(found, rows, strict=True):
        if not isinstance(values, Tensor) or values.layout is not torch.strided or values.is_meta:
            return False
        if (
            values.shape != row.shape
            or not values.is_floating_point()
            or not values.isfinite().all()
        ):
            return False
    return True


def _is_best(found: object, rows: Sequence[Tensor]) -> bool:
    if not isinstance(found, dict) or set(found) != {"step", "epoch", "loss", "rows"}:
        return False
    counts = _is_count(found["step"]) and _is_count(found["epoch"])
    return counts and _is_finite(found["loss"]) and _are_rows(found["rows"], rows)


def _is_measured(found: object) -> bool:
    """Whether it is a table of steps with one to four numbers each; one alone is of an earlier version."""
    if not isinstance(found, dict) or not all(map(_is_count, found)):
        return False
    entries = [values if isinstance(values, tuple) else (values,) for values in found.values()]
    return all(1 <= len(values) <= 4 and all(map(_is_number, values)) for values in entries)


def _is_start(found: object) -> bool:
    if not isinstance(found, list | tuple) or len(found) != 3:
        return False
    return isinstance(found[0], str) and _is_number(found[1]) and _is_number(found[2])
