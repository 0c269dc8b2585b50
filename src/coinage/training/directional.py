"""Training the direction of a word, and leaving its length alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LEAST = 1e-12  # keeps a row without gradient from dividing by zero


class Directional(torch.optim.Optimizer):
    """Moves each row over the sphere on which it starts, by at most about `lr` radians a step.

    A word's length says nothing about what it means, and the length that other optimizers add makes prompts ignore their
    other words (Directional Textual Inversion, ICLR 2026). As there, a row keeps its length, the gradient's part along the row
    is left out, the step is an angle, and a weak pull leads back to where the row started. Here the step is not the last
    gradient but the mean of the last ones, divided by the root mean square of their lengths, as Adam's for each number
    (Kingma and Ba 2015): where gradients agree it is a full step, where they are noise a quarter of one.

    Args:
        params: [n, D] float32 each; a row of zeros stays as it is.
        lr: radians per step, > 0.
        betas: decay of the mean gradient and of the mean square of its length, 0 <= b < 1.
        kappa: pull to the start, as a share of a full step, >= 0.
        length: of every row; None: as it starts.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.16,
        betas: tuple[float, float] = (0.9, 0.999),
        kappa: float = 0.0,
        length: float | None = None,
    ) -> None:
        if not (lr >= 0 and all(0 <= beta < 1 for beta in betas) and kappa >= 0 and (length is None or length > 0)):
            raise ValueError("lr and kappa must not be negative, betas lie in 0..1, length above 0")
        super().__init__(params, {"lr": lr, "betas": betas, "kappa": kappa, "length": length})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every row that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for rows in group["params"]:
                if rows.grad is not None:
                    _turn(rows, rows.grad, self.state[rows], group)
        return loss


def _turn(rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        lengths = rows.norm(dim=1, keepdim=True)
        state["step"] = 0
        state["length"] = lengths if group["length"] is None else torch.full_like(lengths, group["length"]) * (lengths > 0)
        state["start"] = rows / lengths.clamp(min=LEAST)
        state["mean"], state["square"] = torch.zeros_like(rows), torch.zeros_like(lengths)
    state["step"] += 1
    first, second = group["betas"]
    now = rows / rows.norm(dim=1, keepdim=True).clamp(min=LEAST)
    along = tangent(gradient, now)
    mean, square = state["mean"], state["square"]
    mean.copy_(tangent(mean, now)).mul_(first).add_(along, alpha=1 - first)
    square.mul_(second).add_(along.square().sum(dim=1, keepdim=True), alpha=1 - second)
    size = (square / (1 - second ** state["step"])).sqrt().clamp(min=LEAST)
    step = mean / (1 - first ** state["step"]) / size - group["kappa"] * tangent(state["start"], now)
    turned = now - group["lr"] * step
    rows.copy_(state["length"] * turned / turned.norm(dim=1, keepdim=True).clamp(min=LEAST))


def tangent(vectors: Tensor, at: Tensor) -> Tensor:
    """The parts of [n, D] vectors that lie in the sphere's tangents at n unit vectors."""
    return vectors - (vectors * at).sum(dim=1, keepdim=True) * at
