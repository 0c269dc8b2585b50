"""Counts and rates on the device change no step of Directional, and no saved state."""

from typing import Any

import pytest
import torch

from coinage.optim.capturable import (
    at_rate,
    has_state,
    keep_counts_on_device,
    rate_on_device,
    state_to_save,
)
from coinage.optim.directional import Directional

CPU = torch.device("cpu")


def stepped(optimizer: torch.optim.Optimizer, *, on_device: bool) -> None:
    """Take three steps at falling rates, with gradients that are always the same."""
    generator = torch.Generator().manual_seed(1)
    (row,) = optimizer.param_groups[0]["params"]
    for number in range(3):
        row.grad = torch.randn(row.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = 0.3 / (1 + number)
        if on_device:
            keep_counts_on_device(optimizer)
        with at_rate(optimizer, rate_on_device(optimizer, CPU) if on_device else None):
            optimizer.step()


def row() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))


def test_directional_steps_the_same_to_the_bit() -> None:
    rows, states = [], []
    for on_device in (False, True):
        optimizer = Directional([row()], kappa=0.1)
        assert not has_state(optimizer)
        stepped(optimizer, on_device=on_device)
        assert has_state(optimizer)
        assert optimizer.param_groups[0]["lr"] == 0.3 / 3, "the schedule's own number"
        rows.append(optimizer.param_groups[0]["params"][0].detach())
        states.append(state_to_save(optimizer))
    assert torch.equal(*rows)
    assert [type(state["state"][0]["step"]) for state in states] == [int, int]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize("saved", [True, False])
def test_a_state_of_adamw_has_no_trace_of_graphs(*, saved: bool) -> None:
    """It is refused on a CPU, whose AdamW cannot be recorded."""
    optimizer = torch.optim.AdamW([row()])
    stepped(optimizer, on_device=False)
    plain = optimizer.state_dict()
    keep_counts_on_device(optimizer)
    given: dict[str, Any] = state_to_save(optimizer) if saved else optimizer.state_dict()
    other = torch.optim.AdamW([row()])
    other.load_state_dict(given)
    if saved:
        torch.testing.assert_close(given, plain, rtol=0, atol=0)
        stepped(other, on_device=False)
    else:
        with pytest.raises(AssertionError, match="capturable=True"):
            stepped(other, on_device=False)
