"""Count the kernels of a training step without a GPU: `python benchmarks/launches.py`, two minutes.

A forward and a backward through models of the released sizes in bf16, on torch's `meta` device,
where tensors have sizes and no numbers. Every operation that is no view counts as one kernel, which
is what a GPU would at least launch. `around all` is a step with autocast around the UNet too, and
`unjoined` one of a UNet as diffusers has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from coinage.models.base import Components
from coinage.models.facts import FACTS
from coinage.models.families import FAMILIES
from coinage.models.fewer_kernels import join_kernels
from memory import Built, as_on_cuda, attention, components
from random_models import RELEASED

FREE = {"aten::_unsafe_view", "aten::empty", "aten::empty_like", "aten::new_empty", "aten::detach"}


class Kernels(TorchDispatchMode):
    """Counts what a GPU would compute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves(made) if isinstance(x, Tensor)]  # noqa: SLF001
        on_device = any(tensor.is_meta for tensor in tensors)
        name = func._schema.name  # noqa: SLF001
        self.count += on_device and not func.is_view and name not in FREE
        return made


@contextmanager
def its_attention() -> Iterator[None]:
    """Attention as a GPU has it, and nothing else."""
    with patch.object(F, "scaled_dot_product_attention", attention):
        yield


def kernels(parts: Components, family: str, *, around_all: bool, batch: int = 1) -> int:
    """Operations of a forward and a backward pass."""
    facts = FACTS[family]
    small = facts.side // facts.latent_scale
    latents = torch.zeros(batch, facts.latent_channels, small, small, device="meta")
    timesteps = torch.zeros(batch, dtype=torch.int64, device="meta")
    sizes = torch.zeros(batch, 6, dtype=torch.int64)
    with Kernels() as seen:
        with as_on_cuda(torch.bfloat16):
            cond = FAMILIES[family].encode(parts, ["a photo of zibu"] * batch, sizes)
        with as_on_cuda(torch.bfloat16) if around_all else its_attention():
            answer = FAMILIES[family].predict(parts, latents, timesteps, cond)
            F.mse_loss(answer.float(), torch.empty_like(answer, dtype=torch.float32)).backward()
    return int(seen.count)


def counted(family: str) -> Sequence[int]:
    """Kernels with autocast around all; with the UNet in its own precision; and with it joined."""
    parts = components(Built(family, RELEASED / family, torch.bfloat16, False, False))
    before = kernels(parts, family, around_all=True)
    plain = kernels(parts, family, around_all=False)
    join_kernels(parts.denoiser)
    return before, plain, kernels(parts, family, around_all=False)


def main() -> None:
    """Print the table."""
    for family in ("sd1", "sd2", "sdxl"):
        before, plain, joined = counted(family)
        saved = 1 - joined / before
        print(
            f"{family}: {before} around all, {plain} unjoined, {joined} joined ({saved:.0%} fewer)"
        )


if __name__ == "__main__":
    main()
