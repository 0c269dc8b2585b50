"""Several processes train one word: the rows are in each, and their gradients are added up once per update."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from coinage.errors import TrainingError
from coinage.system.launch import process_count

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a run. All do the same updates, each with its share of the batches.

    No wrapper, no sharding: what is exchanged is the rows' gradient, a few kilobytes.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item, from this process's number on."""
        return items[self.rank :: self.count]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors of equal shapes in all processes by their sums."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(
            tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))

    def gather(self, item: T) -> list[T]:
        """The item of every process, in order."""
        found: list[Any] = [item] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(found, item)
        return found

    def check_same(self, rows: Sequence[Tensor]) -> None:
        """See that all processes have learned the same.

        Raises:
            TrainingError: they have not.
        """
        if self.count == 1:
            return
        mine = torch.cat([row.detach().float().cpu().flatten() for row in rows])
        furthest = max(float((mine - other).abs().max()) for other in self.gather(mine))
        if not furthest <= 1e-3 * float(mine.abs().max()):
            raise TrainingError(
                f"the processes ended with different embeddings (by {furthest:g})",
                hint="run on equal devices",
            )


ALONE = Processes()


def start_processes(timeout_minutes: int | None) -> tuple[Processes, torch.device]:
    """Join the processes that a launcher started, if it did; and the device of this one."""
    from accelerate import PartialState

    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # what it would shard is a few kilobytes
    more: dict[str, Any] = (
        {"timeout": timedelta(minutes=timeout_minutes)} if timeout_minutes else {}
    )
    try:
        state = PartialState(
            cpu=process_count() > 1 and not torch.accelerator.is_available(), **more
        )
    except torch.distributed.DistError as error:
        reason = str(error).splitlines()[0]
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            reason = f"the other processes have not come within {timeout_minutes or 10} minutes"
        hint = "see that all are started, and reach MASTER_ADDR and MASTER_PORT; --ddp_timeout waits longer"
        raise TrainingError(reason, hint=hint) from error
    if state.num_processes != process_count():
        what = (
            f"the launcher started {process_count()} processes, and {state.num_processes} have met"
        )
        raise TrainingError(what, hint="start them with accelerate launch or torchrun")
    return Processes(state.process_index, state.num_processes), state.device
