"""Let several processes train one word: each has the rows, and gradients are added up once per step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from coinage.errors import TrainingError
from coinage.seeding import draw_seed
from coinage.system.launch import process_count

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a run. All take the same steps, each with its share of the batches.

    No wrapper, no sharding: what is exchanged is the rows' gradient, a few kilobytes.
    """

    rank: int = 0
    count: int = 1
    objects: Any = (
        None  # the torch.distributed group that exchanges what is no tensor; None: that of all
    )

    @property
    def main(self) -> bool:
        """True in the process that writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `count`-th item, from this process's number on."""
        return items[self.rank :: self.count]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors of equal shapes in all processes by their sums."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, item: T) -> list[T]:
        """Return the item of every process, in order."""
        items: list[Any] = [item] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(items, item, group=self.objects)
        return items

    def shared_seed(self) -> int | None:
        """Return a drawn seed that all processes get; None for a single process."""
        return self.gather(draw_seed())[0] if self.count > 1 else None

    def check_same(self, rows: Sequence[Tensor]) -> None:
        """Check that all processes have learned the same.

        Raises:
            TrainingError: they have not.
        """
        if self.count == 1:
            return
        mine = torch.cat([row.detach().float().cpu().flatten() for row in rows])
        furthest = max(float((mine - other).abs().max()) for other in self.gather(mine))
        if not furthest <= 1e-3 * float(mine.abs().max()):
            what = f"the processes ended with different embeddings (by {furthest:g})"
            raise TrainingError(what, hint="use the same kind of device for all processes")


ALONE = Processes()


def start_processes(timeout_minutes: int | None) -> tuple[Processes, torch.device]:
    """Join the processes that a launcher started, if it did.

    Args:
        timeout_minutes: to wait for the others; None: torch's own.

    Returns:
        The processes, and the device of this one.

    Raises:
        TrainingError: the others cannot be reached, or do not come.
    """
    from accelerate import PartialState

    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # what it would shard is a few kilobytes
    options: dict[str, Any] = {}
    if timeout_minutes:
        options["timeout"] = timedelta(minutes=timeout_minutes)
    on_cpu = process_count() > 1 and not torch.accelerator.is_available()
    try:
        state = PartialState(cpu=on_cpu, **options)
    except torch.distributed.DistError as error:
        reason = str(error).splitlines()[0]
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            reason = f"the other processes did not connect within {timeout_minutes or 10} minutes"
        hint = (
            "check that all are started and can reach MASTER_ADDR and MASTER_PORT; "
            "a larger --ddp_timeout waits longer"
        )
        raise TrainingError(reason, hint=hint) from error
    if state.num_processes != process_count():
        what = (
            f"the launcher started {process_count()} processes, but {state.num_processes} connected"
        )
        raise TrainingError(what, hint="start them with accelerate launch or torchrun")
    objects = group_on_cpu(timeout_minutes) if state.num_processes > 1 else None
    return Processes(state.process_index, state.num_processes, objects), state.device


def device_of(number: int) -> torch.device:
    """Return the device of a process that trains alone beside others.

    Args:
        number: of the process, among those of its machine. GPUs are taken in turn.
    """
    device = start_processes(None)[1]
    if device.type == "cuda":
        device = torch.device("cuda", number % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def group_on_cpu(timeout_minutes: int | None) -> Any:
    """Return a group of all processes that exchanges objects in the computer's memory.

    Other backends than gloo, which None stands for, take as much of each GPU's memory as all objects
    together: cached latents may be gigabytes.

    Args:
        timeout_minutes: to wait for the others; None: torch's own.
    """
    if torch.distributed.get_backend() == "gloo" or not torch.distributed.is_gloo_available():
        return None
    timeout = timedelta(minutes=timeout_minutes) if timeout_minutes else None
    return torch.distributed.new_group(backend="gloo", timeout=timeout)
