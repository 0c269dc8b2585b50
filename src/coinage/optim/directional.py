"""Train the direction of a word, and leave its length alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LEAST_LENGTH = 1e-20  # keeps what has no gradient from dividing by zero


class Directional(torch.optim.Optimizer):
    """Adam on the sphere: each row moves by at most about `lr` radians a step, and keeps its length.

    A word's length says little about what it means, and the length that other optimizers add makes
    prompts ignore their other words (Directional Textual Inversion, ICLR 2026). As there, a row
    keeps its length, the gradient's part along the row is left out, the step is an angle, and a
    weak pull may lead back to where the row started. There the step is the last gradient, always of
    full size; here it is Adam's (Kingma and Ba 2015, algorithm 1), so that gradients which agree
    make a full step, and noise a quarter of one.

    Args:
        params: [n, D] float32 each; a row of zeros stays as it is.
        lr: radians per step where all gradients agree, >= 0. As Adam's rate times sqrt(D) over the
            row's length.
        betas: decay of the means of the gradient and of its square, 0 <= b < 1.
        kappa: pull to the start, as a share of a full step, >= 0.
        length: of every row; None: as it starts.
        rowwise: divide a row's gradient by its own length's mean, not each number's. With betas of
            0, 0: as published.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.999),
        kappa: float = 0.0,
        length: float | None = None,
        rowwise: bool = False,
    ) -> None:
        betas_fit = all(0 <= beta < 1 for beta in betas)
        length_fits = length is None or length > 0
        if not (lr >= 0 and kappa >= 0 and betas_fit and length_fits):
            raise ValueError("lr and kappa must not be negative, betas lie in 0..1, length above 0")
        defaults = {
            "lr": lr,
            "betas": betas,
            "kappa": kappa,
            "length": length,
            "rowwise": rowwise,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with every row that has a gradient."""
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
    """Turn [n, D] rows by one step, and keep their lengths."""
    if not state:
        state.update(_first_state(rows, group["length"]))
    state["step"] += 1
    first, second = group["betas"]
    now = rows / rows.norm(dim=1, keepdim=True).clamp(min=LEAST_LENGTH)
    along = tangent(gradient, now)
    mean, square = state["mean"], state["square"]
    mean.mul_(first).add_(along, alpha=1 - first)
    square.mul_(second).addcmul_(along, along, value=1 - second)
    if group["rowwise"]:
        square = square.mean(dim=1, keepdim=True)
    size = (square / (1 - second ** state["step"])).sqrt().clamp(min=LEAST_LENGTH)
    step = mean / (1 - first ** state["step"]) / size / rows.shape[1] ** 0.5
    step = tangent(step - group["kappa"] * state["start"], now)
    turned = now - group["lr"] * step
    rows.copy_(state["length"] * turned / turned.norm(dim=1, keepdim=True).clamp(min=LEAST_LENGTH))


def _first_state(rows: Tensor, length: float | None) -> dict[str, Any]:
    """Return the optimizer's state before the first step of [n, D] rows."""
    lengths = rows.norm(dim=1, keepdim=True)
    goal = lengths
    if length is not None:
        goal = torch.full_like(lengths, length) * (lengths > 0)
    return {
        "step": 0,
        "length": goal,
        "start": rows / lengths.clamp(min=LEAST_LENGTH),
        "mean": torch.zeros_like(rows),
        "square": torch.zeros_like(rows),
    }


def tangent(vectors: Tensor, at: Tensor) -> Tensor:
    """Return the parts of [n, D] vectors that lie in the sphere's tangents at n unit vectors."""
    return vectors - (vectors * at).sum(dim=1, keepdim=True) * at
