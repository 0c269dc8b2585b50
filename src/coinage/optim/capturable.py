"""Have AdamW and Directional step as a CUDA graph can record it: their counts and rates are on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from coinage.optim.directional import Directional
from coinage.optim.factory import RATE_SCALE


def keep_counts_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Move the counts of steps of AdamW or Directional to where the rows are, if they are not there yet.

    Directional's are float64 then, so that its steps stay the same; AdamW's are float32, as torch's.
    """
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    # torch warns of each step that is taken outside of a graph, as the first ones are
    optimizer._warned_capturable_if_run_uncaptured = True  # noqa: SLF001
    for row, state in optimizer.state.items():
        count = state["step"]
        if isinstance(count, Tensor):
            state["step"] = count.to(row.device)
        else:
            state["step"] = torch.full((), count, dtype=torch.float64, device=row.device)


def has_state(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer has a state for every parameter: its first step makes it."""
    return all(
        row in optimizer.state for group in optimizer.param_groups for row in group["params"]
    )


def rate_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
    """Return an optimizer's rate, a float32 number on a device that is not waited for."""
    return torch.full((), float(optimizer.param_groups[0]["lr"]), device=device)


@contextmanager
def at_rate(optimizer: torch.optim.Optimizer, rate: Tensor | None) -> Iterator[None]:
    """Have an optimizer step with a rate that is a tensor; None: with its own."""
    groups = optimizer.param_groups
    own = [group["lr"] for group in groups]
    try:
        for group in groups if rate is not None else ():
            scale = group.get(RATE_SCALE, 1.0)
            group["lr"] = rate if scale == 1 else rate * scale
        yield
    finally:
        for group, value in zip(groups, own, strict=True):
            group["lr"] = value


def state_to_save(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state, without a trace of graphs: every device can go on from it."""
    saved = optimizer.state_dict()
    if type(optimizer) not in (torch.optim.AdamW, Directional):
        return saved
    state = {
        number: _with_plain_count(optimizer, entry) for number, entry in saved["state"].items()
    }
    groups = [
        {key: False if key == "capturable" else value for key, value in group.items()}
        for group in saved["param_groups"]
    ]
    return {**saved, "state": state, "param_groups": groups}


def _with_plain_count(optimizer: torch.optim.Optimizer, entry: dict[str, Any]) -> dict[str, Any]:
    count = entry["step"]
    if isinstance(optimizer, Directional):
        return {**entry, "step": int(count)}
    return {**entry, "step": count.cpu()}
