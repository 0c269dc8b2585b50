"""Muon (Jordan et al. 2024), computed in float32: torch's own computes in bfloat16, slow on many CPUs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # of the published polynomial
UPDATE = 0.2  # root mean square of an update, as of AdamW's (Liu et al. 2025, arXiv:2502.16982)


def orthogonal(matrices: Tensor) -> Tensor:
    """The matrices [N, A, B] with all singular values near 1, by Newton-Schulz rounds."""
    first, third, fifth = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix [A, B] is made orthogonal; equal shapes are computed together."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - torch calls so
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(tuple(matrix.shape), []).append(matrix)
            for shape, matrices in shapes.items():
                updates = orthogonal(
                    torch.stack([self._momentum(m, group["momentum"]) for m in matrices])
                )
                rate = group["lr"] * UPDATE * max(shape) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(updates.unbind()), alpha=-rate)

    def _momentum(self, matrix: nn.Parameter, share: float) -> Tensor:
        """Nesterov's momentum of a matrix, with its gradient taken in."""
        gradient = matrix.grad
        assert gradient is not None
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(gradient, 1 - share)
        return gradient.lerp(state["momentum"], share)
