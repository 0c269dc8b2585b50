"""What a training step costs at least: its FLOP, bytes and kernels, and the seconds of a GPU for them.

`python benchmarks/roofline.py sd1 --batch 4` prints a row for each known GPU.

The step runs on torch's `meta` device, which has shapes and no numbers, with CUDA's choice of
kernels and autocast. A matrix kernel takes the longer of its arithmetic and its traffic, every
other kernel its traffic, at the shares of the rates that large kernels usually reach; starting a
kernel takes the CPU some microseconds, and where that is more, it is what a step takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from memory import Built, as_on_cuda, components, predict
from random_models import RELEASED
from throughput import SIDES

# Of the peak, by large kernels
ARITHMETIC, TRAFFIC = 0.7, 0.85
LAUNCH = 5e-6  # seconds of the CPU for a kernel, at least
TERA = 1e12
# What starts no kernel though it is no view
FREE = ("empty", "empty_like", "empty_strided", "detach", "lift_fresh", "_unsafe_view", "set_")


@dataclass(frozen=True, slots=True)
class Rates:
    """Peaks of a GPU: FLOP a second in half precision summed in float32, and bytes a second."""

    flops: float
    bandwidth: float


# TFLOP/s without sparsity, and TB/s, by a part of the name; from the makers' data sheets
PEAKS = {
    "H200": (990, 4.8),
    "H100": (990, 3.35),
    "A100": (312, 2.0),
    "L40S": (362, 0.86),
    "L4": (121, 0.3),
    "A10G": (70, 0.6),
    "T4": (65, 0.32),
    "V100": (125, 0.9),
    "RTX 5090": (209, 1.79),
    "RTX 4090": (165, 1.01),
    "RTX 4080": (97, 0.72),
    "RTX 4070": (58, 0.5),
    "RTX 4060": (30, 0.27),
    "RTX 3090": (71, 0.94),
    "RTX 3080": (60, 0.76),
    "RTX 3070": (41, 0.45),
    "RTX 3060": (25.6, 0.36),
}


@dataclass
class Work:
    """What one step does.

    Attributes:
        matrix: (FLOP, bytes) of each matrix product, convolution and attention.
        other: bytes that all other kernels read and write.
        kernels: of both kinds.
    """

    matrix: list[tuple[float, float]] = field(default_factory=list)
    other: float = 0
    kernels: int = 0

    @property
    def flop(self) -> float:
        """Of all matrix kernels."""
        return sum(flop for flop, _ in self.matrix)

    @property
    def moved(self) -> float:
        """Bytes of all kernels."""
        return self.other + sum(size for _, size in self.matrix)

    def seconds(self, rates: Rates, *, graph: bool = False) -> float:
        """Expected time of the step.

        Args:
            rates: of the GPU.
            graph: kernels are started by a CUDA graph, which takes the CPU no time.
        """
        flops, bandwidth = ARITHMETIC * rates.flops, TRAFFIC * rates.bandwidth
        busy = self.other / bandwidth
        busy += sum(max(flop / flops, size / bandwidth) for flop, size in self.matrix)
        return busy if graph else max(busy, LAUNCH * self.kernels)


class WorkCounter(TorchDispatchMode):
    """Counts the work of all operations inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or packet.__name__ in FREE:
            return result
        size = float(sum(map(_bytes, tree_leaves((args, kwargs, result)))))
        self.work.kernels += 1
        if packet in flop_registry:
            flop = float(flop_registry[packet](*args, **kwargs, out_val=result))
            self.work.matrix.append((flop, size))
        else:
            self.work.other += size
        return result


def _bytes(value: object) -> int:
    """The bytes that a kernel reads or writes of a tensor; an expanded one is read once."""
    if not isinstance(value, Tensor):
        return 0
    numbers = 1
    for length, stride in zip(value.shape, value.stride(), strict=True):
        numbers *= length if stride or not length else 1
    return numbers * value.element_size()


def step_work(model: Built, side: int, batch: int) -> Work:
    """Count a forward and a backward pass, from captions to the gradient of the rows."""
    parts = components(model)
    counter = WorkCounter()
    with as_on_cuda(model.dtype), counter:
        prediction = predict(parts, model.family, side, batch)
        F.mse_loss(prediction.float(), torch.empty_like(prediction, dtype=torch.float32)).backward()
    return counter.work


def known_rates(name: str) -> Rates | None:
    """The peaks of a GPU by its name, such as `NVIDIA GeForce RTX 3060`; None if it is not listed."""
    words = f" {name.replace('-', ' ')} "
    for part, (flops, bandwidth) in PEAKS.items():
        if f" {part} " in words:
            return Rates(flops * TERA, bandwidth * TERA)
    return None


def measured_rates(device: str, dtype: torch.dtype, side: int = 4096) -> Rates:
    """What a device reaches in one large product and one large copy, taken for the shares of its peaks."""
    one = torch.ones(side, side, device=device, dtype=dtype)
    other = torch.empty_like(one)
    product = _fastest(lambda: torch.mm(one, one, out=other), device)
    copy = _fastest(lambda: other.copy_(one), device)
    moved = 2 * one.numel() * one.element_size()
    return Rates(2 * side**3 / product / ARITHMETIC, moved / copy / TRAFFIC)


def _fastest(work: Callable[[], object], device: str, times: int = 5) -> float:
    """Seconds of the fastest of a few calls."""
    with _finished(device):
        work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        with _finished(device):
            work()
        seconds.append(time.perf_counter() - start)
    return max(min(seconds), 1e-9)


@contextmanager
def _finished(device: str) -> Iterator[None]:
    """Wait for what is begun inside."""
    yield
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    args = parser.parse_args(argv)
    built = Built(args.model, RELEASED / args.model, checkpointed=args.gradient_checkpointing)
    work = step_work(built, SIDES[args.model], args.batch)
    print(
        f"{args.model}, {SIDES[args.model]} px, batch {args.batch}, bf16: {work.flop / TERA:.2f} TFLOP, "
        f"{work.moved / 1e9:.1f} GB moved, {work.kernels} kernels\n"
    )
    print("| GPU | busy ms | with launches ms |\n|---|---|---|")
    for name, (flops, bandwidth) in PEAKS.items():
        rates = Rates(flops * TERA, bandwidth * TERA)
        busy, whole = work.seconds(rates, graph=True), work.seconds(rates)
        print(f"| {name} | {1000 * busy:.0f} | {1000 * whole:.0f} |")


if __name__ == "__main__":
    main()
