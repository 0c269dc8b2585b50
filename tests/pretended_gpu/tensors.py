"""Tensors of the pretended GPU: numbers on the CPU under CUDA's rules.

    with pretended_gpu() as gpu:
        ...  # device="cuda", torch.cuda.is_available(), torch.autocast("cuda"), GradScaler("cuda")
    gpu.waits, gpu.kernels

What CUDA refuses is refused: operations on several devices, `.numpy()`, another device's
generators. What makes the CPU wait for the GPU is counted. Precision is the CPU's: a kernel's own
rounding, memory, `torch.compile` and collectives are not pretended. `device.load` comes
first. Copies in a stream of their own are made when another waits for them, which is as late as CUDA
might make them. A graph is recorded under the same rules; see `graphs`.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self
from unittest.mock import patch
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.pretended_gpu.device import KIND
from tests.pretended_gpu.graphs import Graph, recorded

ONLY = torch.device(KIND, 0)
NAME = "Pretended GPU"
GIGABYTES = 2**30
aten = torch.ops.aten
Operation = Any  # torch._ops.OpOverload: aten.add.Tensor, for example

COPIES = {
    aten._to_copy.default,
    aten.copy_.default,
    aten._copy_from.default,
    aten._copy_from_and_resize.default,
}
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor, aten._unsafe_index_put.default,
}  # fmt: skip
NUMBERS_TAKEN = {
    aten.fill.Tensor,
    aten.fill_.Tensor,
    aten.where.self,
    aten.lerp_.Tensor,
}  # and all that is pointwise
FREE = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.lift_fresh.default,
    aten._unsafe_view.default,
}
MISSING_ON_MAC = {torch.float64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2}
plain_data = torch._C.TensorBase.__dict__["data"]


class WaitError(RuntimeError):
    """The CPU would wait for the GPU where it must not."""


class Stream:
    """Copies that are to be made, in their order. What computes has a stream without any."""

    def __init__(self, *_: Any) -> None:
        self.due: list[Callable[[], object]] = []
        self.done = 0

    def wait_stream(self, other: "Stream") -> None:
        """Do all that another stream has to do so far."""
        other.reach(len(other.due))

    def wait_event(self, event: "Event") -> None:
        """Do all that was to be done before the event, which a CPU does not notice."""
        if event.stream is not None:
            event.stream.reach(event.place)

    def reach(self, place: int) -> None:
        """Make copies up to one, if they are not made yet."""
        while self.done < place:
            self.done += 1
            self.due[self.done - 1]()


class Event:
    """A place in a stream."""

    def __init__(self, *_: Any) -> None:
        self.stream: Stream | None = None
        self.place = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.place = stream, len(stream.due)


class Gpu:
    """What the pretended GPU has seen.

    Attributes:
        waits: how often the CPU waited for the GPU, by the kind of wait and the line of ours that
            waited.
        kernels: operations that a GPU would have started a kernel for; a graph is one.
        replays: of graphs.
    """

    def __init__(self, package: str = "coinage") -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.kernels = 0
        # Keeps pinned memory, so that no other tensor is where it was
        self._pinned: dict[int, torch.UntypedStorage] = {}
        self._package, self._refuses = package, False
        self.computing = Stream()
        self.stream = self.computing
        self.recording: Graph | None = None
        self.replays = 0
        self.graphs: WeakSet[Graph] = WeakSet()

    @contextmanager
    def within(self, stream: Stream) -> Iterator[None]:
        """Have copies made in another stream."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def reset(self) -> None:
        """Count anew."""
        self.waits.clear()
        self.kernels = 0

    def pin(self, tensor: Tensor) -> None:
        """Note that a tensor's memory is pinned: copies of it to the GPU need not wait."""
        self._pinned[tensor.data_ptr()] = tensor.untyped_storage()

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory is pinned."""
        start = tensor.untyped_storage().data_ptr()
        return start in self._pinned

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """Refuse to wait: what a CUDA graph is to hold never does.

        Raises:
            WaitError: something waits.
        """
        self._refuses = True
        try:
            yield
        finally:
            self._refuses = False

    def wait(self, kind: str) -> None:
        """Note that the CPU waits."""
        place = place_in(self._package)
        if self._refuses:
            raise WaitError(f"waits for the GPU: {kind} at {place}")
        self.waits[kind, place] += 1


def place_in(package: str) -> str:
    """The innermost line of a package that is running, as `training/loop.py:20 learn`."""
    start, frame = f"/{package}/", inspect.currentframe()
    while frame and start not in frame.f_code.co_filename:
        frame = frame.f_back
    return (
        f"{frame.f_code.co_filename.rpartition(start)[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        if frame
        else f"outside of {package}"
    )


class OnGpu(Tensor):
    """A tensor that says it is on the GPU. `host` holds its numbers, on the CPU."""

    gpu: Gpu
    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor, gpu: Gpu) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=ONLY,
        )
        made.host, made.gpu = host, gpu
        return made

    def __init__(self, host: Tensor, gpu: Gpu) -> None:
        pass

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Operation,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ):
        gpu = next(x.gpu for x in tree_flatten((args, kwargs))[0] if isinstance(x, OnGpu))
        return run(gpu, func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return plain_data.__get__(self)

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, OnGpu):
            raise TypeError("incompatible tensor type")
        host = new.host
        plain_data.__set__(self, new)
        self.host = host

    def tolist(self) -> Any:
        self.gpu.wait("tolist")
        return self.host.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            f"can't convert {ONLY} device type tensor to numpy. Use "
            "Tensor.cpu() to copy the tensor to host memory first."
        )

    def record_stream(self, _: Stream) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"on the GPU: {self.host!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        with torch.no_grad():
            made: Tensor = OnGpu(self.host.clone(), self.gpu)
        if isinstance(self, nn.Parameter):
            made = nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.detach().__reduce_ex__(protocol)  # in a file it is a tensor like any other


class Everything(TorchDispatchMode):
    """Takes every operation, those that make a tensor on the GPU included."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(
        self,
        func: Operation,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ):
        return run(self.gpu, func, args, kwargs or {})


def is_gpu(device: Any) -> bool:
    """Whether a device, or its name, is a GPU; None is not."""
    return device is not None and torch.device(device).type == KIND


def check_for_mac(func: Operation, tensors: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse what Metal refuses: numbers of 64 bits with a point, and 8-bit ones; pinned memory.

    Raises:
        TypeError, RuntimeError: in torch's words, or near them.
    """
    dtypes = {x.dtype for x in tensors} | {kwargs.get("dtype")}
    if dtypes & MISSING_ON_MAC:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
            f"float64. Please use float32 instead. ({func})"
        )
    if kwargs.get("pin_memory"):
        raise RuntimeError("Cannot pin memory for MPS")


def run(gpu: Gpu, func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do an operation on the CPU, under the rules of the GPU.

    Raises:
        RuntimeError: CUDA would refuse it.
        WaitError: it waits where it must not.
    """
    flat, form = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, OnGpu)]
    device = kwargs.get("device")
    if kwargs.get("pin_memory") and not is_gpu(device) and KIND == "cuda":
        made = func(*args, **{**kwargs, "pin_memory": False})
        gpu.pin(made)
        return made
    if not ours and not is_gpu(device):
        return func(*args, **kwargs)
    if KIND == "mps":
        target = kwargs.get("device")
        stays = target is None or is_gpu(target)
        check_for_mac(func, ours, kwargs if stays else {})
    gpu.kernels += not (func.is_view or func in FREE or gpu.recording)
    check(func, args, flat, ours)
    for kind in waits_of(gpu, func, args, kwargs):
        gpu.wait(kind)
    inner_args, inner_kwargs = tree_unflatten(
        [x.host if isinstance(x, OnGpu) else x for x in flat], form
    )
    deferred = gpu.stream is not gpu.computing and gpu.recording is None
    if func is aten.copy_.default and deferred:
        gpu.stream.due.append(partial(func, *inner_args))
        return args[0]
    gpu.stream.reach(len(gpu.stream.due))
    result = done(gpu, func, inner_args, in_ram(func, inner_kwargs))
    if func is aten.copy_.default:
        return args[0]
    if func is aten._to_copy.default and device is not None and not is_gpu(device):
        return result
    known = {id(x.host): x for x in ours}  # an operation in place returns what it was given

    def moved(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, OnGpu):
            return x
        return known[id(x)] if id(x) in known else OnGpu(x, gpu)

    return tree_map(moved, result)


def done(gpu: Gpu, func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do an operation on the CPU's tensors, and note it where a graph is recorded."""
    work = partial(on_cpu(func), *args, **kwargs)
    return work() if gpu.recording is None else gpu.recording.add(func, args, kwargs, work)


def check(func: Operation, args: Sequence[Any], flat: Sequence[Any], ours: Sequence[OnGpu]) -> None:
    """Refuse what CUDA refuses.

    Raises:
        RuntimeError: in CUDA's words.
    """
    for x in flat:
        if isinstance(x, torch.Generator) and not is_gpu(x.device):
            raise RuntimeError(f"Expected a '{KIND}' device type for generator but found 'cpu'")
    others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnGpu)]
    if not others or not ours or func in COPIES or func is aten.set_.source_Tensor:
        return
    if func in INDEXING and isinstance(args[0], OnGpu):
        return  # indices may come from the CPU
    takes_numbers = torch.Tag.pointwise in func.tags or func in NUMBERS_TAKEN
    if not (takes_numbers and all(x.dim() == 0 for x in others)):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but "
            f"found at least two devices, {ONLY} and cpu! ({func})"
        )


def waits_of(
    gpu: Gpu, func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    """For what an operation makes the CPU wait."""
    if func in COPIES:
        yield from _wait_of_copy(gpu, func, args, kwargs)
    elif func in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(
            isinstance(index, OnGpu) and index.dtype in (torch.bool, torch.uint8)
            for index in indices
        ):
            yield "mask as index"
        if any(not isinstance(index, OnGpu) for index in indices):
            yield "index from the CPU"
    elif (
        torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
    ):
        yield func.name().removeprefix("aten::")


def _wait_of_copy(
    gpu: Gpu, func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    if func is aten._to_copy.default:
        source, device = args[0], kwargs.get("device")
        target = isinstance(source, OnGpu) if device is None else is_gpu(device)
        free = kwargs.get("non_blocking", False)
    else:
        source, target = args[1], isinstance(args[0], OnGpu)
        free = len(args) > 2 and args[2]
    if isinstance(source, OnGpu) and not target:
        yield "copy to the CPU"
    elif target and not isinstance(source, OnGpu) and not (free and gpu.is_pinned(source)):
        yield "copy to the GPU"


def in_ram(func: Operation, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """An operation's keywords for the CPU."""
    changed = dict(kwargs)
    if changed.get("device") is not None:
        changed["device"] = torch.device("cpu")
    if changed.get("pin_memory"):
        changed["pin_memory"] = False
    if func is aten._to_copy.default:
        changed["non_blocking"] = False
    return changed


def on_cpu(func: Operation) -> Callable[..., Any]:
    """An operation as the CPU has it.

    Two that end in another dtype than they begin with are CUDA's alone.
    """
    if func is aten._softmax.default:
        return lambda x, dim, half_to_float: func(x.float() if half_to_float else x, dim, False)
    if func is aten._softmax_backward_data.default:
        return lambda grad, output, dim, dtype: func(grad, output, dim, grad.dtype).to(dtype)
    return func


class Properties:
    """What `torch.cuda.get_device_properties` tells."""

    name, major, minor, total_memory, multi_processor_count, gcnArchName = (  # noqa: N815
        NAME,
        9,
        0,
        12 * GIGABYTES,
        1,
        "",
    )


def _answers(gpu: Gpu) -> dict[str, Callable[..., Any]]:
    """What functions of `torch.cuda` answer."""

    def always(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    memory = ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved")
    silent = (
        "set_device",
        "_lazy_init",
        "empty_cache",
        "ipc_collect",
        "manual_seed",
        "manual_seed_all",
        "reset_peak_memory_stats",
    )
    return {
        **{name: always(0) for name in (*memory, "current_device")},
        **{name: always(None) for name in silent},
        **{name: always(True) for name in ("is_available", "is_initialized", "is_bf16_supported")},
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda *_: gpu.stream,
        "stream": gpu.within,
        "device_count": always(1),
        "get_device_capability": always((Properties.major, Properties.minor)),
        "get_device_name": always(NAME),
        "get_device_properties": always(Properties()),
        "is_current_stream_capturing": lambda: gpu.recording is not None,
        "CUDAGraph": partial(Graph, gpu),
        "graph": recorded,
        "graph_pool_handle": always((0, 0)),
        "mem_get_info": always((10 * GIGABYTES, Properties.total_memory)),
        "memory_stats": always({}),
        "synchronize": lambda *_: gpu.wait("synchronize"),
    }


def _answers_of_mac(gpu: Gpu) -> dict[str, Callable[..., Any]]:
    """What functions of `torch.mps` answer."""
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "manual_seed": lambda _: None,
        "current_allocated_memory": lambda: 0,
        "driver_allocated_memory": lambda: 0,
        "synchronize": lambda: gpu.wait("synchronize"),
    }


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attention step by step: where torch is not built for Macs, it finds no fused one and stops."""
    assert not enable_gqa
    result: Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale
    )[0]
    return result


@contextmanager
def _answering(gpu: Gpu) -> Iterator[None]:
    """Have the device's own module of torch answer, and no other device."""
    if KIND == "cuda":
        with patch.multiple(torch.cuda, **_answers(gpu)):
            yield
        return
    with (
        patch.multiple(torch.mps, **_answers_of_mac(gpu)),
        patch.object(nn.functional, "scaled_dot_product_attention", _attention),
        patch.multiple(
            torch.backends.mps, is_available=lambda: True, is_built=lambda: True,
            is_macos_or_newer=lambda *_: True, is_macos13_or_newer=lambda *_: True,
        ),
    ):  # fmt: skip
        yield


@contextmanager
def pretended_gpu(package: str = "coinage") -> Iterator[Gpu]:
    """Have a GPU for a while.

    Args:
        package: whose lines are told of waits.
    """
    gpu = Gpu(package)
    lifts, overwrites = (
        torch._C._only_lift_cpu_tensors(),
        torch.__future__.get_overwrite_module_params_on_conversion(),
    )
    # torch.tensor(..., device="cuda") comes here as a copy of one on the CPU
    torch._C._set_only_lift_cpu_tensors(True)
    # A parameter cannot change its class where it is
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _answering(gpu), Everything(gpu):
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
