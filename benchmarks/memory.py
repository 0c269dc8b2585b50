"""Memory of a training step without a GPU: `python benchmarks/memory.py`, or with `--only sdxl`.

A forward and a backward through models of the released sizes, on torch's `meta` device, where
tensors have sizes and no
numbers: every allocation is counted, nothing is computed. What CUDA would do is acted out: its
autocast (which norms leave in float32), and its attention kernels, which keep no table of all
pairs. Not seen are the allocator's rounding and what cuDNN and cuBLAS take for themselves.
`coinage.checks.footprint` has its constants from this table.
"""

from __future__ import annotations

import argparse
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from coinage.checks.footprint import GB, activations
from coinage.config import ModelConfig
from coinage.demo.run import MODEL
from coinage.models import eight_bit, frozen
from coinage.models.facts import FACTS
from coinage.models.families import FAMILIES, Components
from coinage.models.placement import checkpoint_gradients, lower_linear_layers
from coinage.models.quiet import quiet_libraries
from coinage.text.clip_tokenizer import read_tokenizer
from coinage.text.placeholder import RowFormat, Tokenizer
from random_models import RELEASED, meta_part, part_names
from throughput import SIDES

LOWER = ((F, "linear"), (F, "conv2d"), (torch, "matmul"), (torch, "bmm"), (torch, "baddbmm"))
HIGHER = ((F, "group_norm"), (F, "layer_norm"), (F, "mse_loss"), (F, "interpolate"), (F, "softmax"))
MOST_FLASH = 256  # widest attention head of the flash kernels


@contextmanager
def as_on_cuda(dtype: torch.dtype) -> Iterator[None]:
    """Have all devices do what CUDA does under autocast to `dtype`, and its attention.

    The operations are those of torch/include/ATen/autocast_mode.h.

    In float32 there is no autocast, nor within `torch.autocast(..., enabled=False)`.
    """
    acted = [None if dtype == torch.float32 else dtype]

    def low() -> torch.dtype | None:
        return acted[-1]

    def high() -> torch.dtype | None:
        return torch.float32 if acted[-1] else None

    @contextmanager
    def autocast(*_: Any, enabled: bool = True, **__: Any) -> Iterator[None]:
        acted.append(acted[0] if enabled else None)
        try:
            yield
        finally:
            acted.pop()

    def as_it_is_now(*_: Any, **__: Any) -> tuple[dict[str, bool], dict[str, bool]]:
        now = {"enabled": acted[-1] is not None}
        return now, now

    with ExitStack() as stack:
        for names, wanted in ((LOWER, low), (HIGHER, high)):
            for owner, name in names:
                stack.enter_context(
                    patch.object(owner, name, casting(getattr(owner, name), wanted))
                )
        stack.enter_context(
            patch.object(F, "scaled_dot_product_attention", casting(attention, low))
        )
        stack.enter_context(patch.object(frozen, "as_autocast", lambda x: _cast(x, low())))
        for owner in (torch, torch.amp):
            stack.enter_context(patch.object(owner, "autocast", autocast))
        stack.enter_context(patch.object(torch.amp, "is_autocast_available", lambda _: True))
        # Checkpointing computes again as it did in the forward pass
        stack.enter_context(
            patch.object(torch.utils.checkpoint, "_get_autocast_kwargs", as_it_is_now)
        )
        yield


def casting(
    function: Callable[..., Any], wanted: Callable[[], torch.dtype | None]
) -> Callable[..., Any]:
    """The function, whose floating-point arguments are brought to the dtype that is wanted then."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        dtype = wanted()
        return function(
            *(_cast(value, dtype) for value in args),
            **{name: _cast(value, dtype) for name, value in kwargs.items()},
        )

    return called


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    return (
        value.to(dtype)
        if dtype and isinstance(value, Tensor) and value.is_floating_point()
        else value
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    **more: Any,
) -> Tensor:
    """What CUDA runs: flash attention in half precision, else the memory-efficient kernel."""
    causal = bool(more.get("is_causal"))
    if attn_mask is None and query.dtype.itemsize == 2 and query.shape[-1] <= MOST_FLASH:
        flash: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(  # noqa: SLF001
            query, key, value, dropout_p, causal
        )[0]
        return flash
    mask = (
        None
        if attn_mask is None
        else attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    )
    efficient: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(  # noqa: SLF001
        query, key, value, mask, query.requires_grad, dropout_p, causal
    )[0]
    return efficient


class Tracker(TorchDispatchMode):
    """Bytes of all storages that are alive, and their peak.

    Those that were there before do not count.
    """

    def __init__(self, before: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in before}  # noqa: SLF001 - what tells a storage
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):  # noqa: SLF001
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def forget() -> None:
            self._known.discard(key)
            self.live -= size

        weakref.finalize(storage, forget)


@dataclass(frozen=True, slots=True)
class Built:
    """A model as it is trained; `configs` holds its settings, laid out as a diffusers folder.

    Attributes:
        family: sd1, sd2 or sdxl.
        configs: the model's settings.
        dtype: what is computed with.
        checkpointed: with --gradient_checkpointing.
        eight_bits: with --fp8_base.
        low_memory: with --low_memory, which takes both.
    """

    family: str
    configs: Path
    dtype: torch.dtype = torch.bfloat16
    checkpointed: bool = False
    eight_bits: bool = False
    low_memory: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes of a training step, weights left out: kept for the backward pass, and the most at any time."""

    kept: int
    peak: int


def components(model: Built, chunks: int = 1) -> Components:
    """The parts that train, with a word of one vector, on the `meta` device."""
    names = [name for name in part_names(model.configs) if name.startswith("text")]
    encoders = tuple(meta_part(model.configs, name, torch.float32) for name in names)
    parts = Components(
        tokenizers=tuple(cast(Tokenizer, read_tokenizer(MODEL / "tokenizer")) for _ in names),
        text_encoders=encoders,
        vae=cast(Any, torch.nn.Module()),
        denoiser=meta_part(model.configs, FACTS[model.family].denoiser, model.dtype),
        schedule=cast(Any, None),
        keys=tuple(names),
        scheduler_config={},
        chunks=chunks,
        row_formats=tuple(
            RowFormat((), (1,), 0, facts.room)
            if facts.kind == "t5"
            else RowFormat((737,), (738,), 0)
            for facts in FACTS[model.family].text_encoders
        ),
    ).frozen()
    parts.install(
        [("zibu", 1)],
        [torch.empty(1, encoder.config.hidden_size, device="meta") for encoder in encoders],
    )
    if model.low_memory:
        for encoder in encoders:
            eight_bit.keep_in_eight_bits(encoder)
    lower_linear_layers(parts, model.dtype)
    if model.eight_bits:
        eight_bit.keep_in_eight_bits(parts.denoiser)
    if model.checkpointed:
        checkpoint_gradients(parts)
    return parts


def known(*modules: torch.nn.Module) -> list[Tensor]:
    """The weights of modules."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def train_step(parts: Components, model: Built, side: int, batch: int) -> Step:
    """Run a forward and a backward pass, as `coinage.training` does."""
    with as_on_cuda(model.dtype), Tracker(known(*parts.text_encoders, parts.denoiser)) as tracker:
        prediction = predict(parts, model.family, side, batch)
        loss = F.mse_loss(prediction.float(), torch.empty_like(prediction, dtype=torch.float32))
        kept = tracker.live
        loss.backward()
    for row in parts.rows():
        row.grad = None
    return Step(kept, tracker.peak)


def predict(parts: Components, family: str, side: int, batch: int, device: str = "meta") -> Tensor:
    """What the UNet answers, from captions on."""
    facts = FACTS[family]
    small = side // facts.latent_scale
    latents = torch.zeros(batch, facts.latent_channels, small, small, device=device)
    timesteps = torch.zeros(batch, dtype=torch.int64, device=device)
    sizes = torch.zeros(batch, 6, dtype=torch.int64)
    conditioning = FAMILIES[family].encode(parts, ["a photo of zibu"] * batch, sizes)
    return FAMILIES[family].predict(parts, latents, timesteps, conditioning)


@torch.no_grad()
def vae_work(vae: Any, dtype: torch.dtype, side: int, batch: int = 1) -> tuple[int, int]:
    """Bytes at most while a VAE encodes pictures, and while it decodes them."""
    peaks = []
    small = side // 8
    for run, shape in (
        (vae.encode, (batch, 3, side, side)),
        (vae.decode, (batch, 4, small, small)),
    ):
        # Autocast is off around the VAE
        with as_on_cuda(torch.float32), Tracker(known(vae)) as tracker:
            run(torch.empty(shape, dtype=dtype, device="meta"))
        peaks.append(tracker.peak)
    return peaks[0], peaks[1]


def estimated(model: Built, side: int, batch: int, chunks: int = 1) -> int:
    """What `coinage.checks.footprint` tells of a training step."""
    config = ModelConfig(
        source="",
        family=model.family,
        precision="no" if model.dtype == torch.float32 else "bf16",
        fp8_unet=model.eight_bits,
        gradient_checkpointing=model.checkpointed,
    )
    return activations(config, FACTS[model.family].released, side * side, batch, chunks)


def variants(family: str) -> Iterator[Built]:
    """A released model, as flags would have it."""
    for dtype, eight_bits in (
        (torch.float32, False),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
    ):
        for checkpointed in (False, True):
            yield Built(family, RELEASED / family, dtype, checkpointed, eight_bits)


def print_steps(families: Sequence[str]) -> float:
    """The table of training steps; returns the largest error of the estimates."""
    print(
        "| model | px | batch | precision | flags | kept GB | peak GB | estimate GB | error % |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    worst = 0.0
    for model in (built for family in families for built in variants(family)):
        parts = components(model)
        for side, batch in (
            (SIDES[model.family] // 2, 1),
            (SIDES[model.family], 1),
            (SIDES[model.family], 4),
        ):
            step, estimate = train_step(parts, model, side, batch), estimated(model, side, batch)
            error = estimate / step.peak - 1
            worst = max(worst, abs(error))
            flags = ["gradient_checkpointing"] * model.checkpointed + [
                "fp8_base"
            ] * model.eight_bits
            start = (
                f"| {model.family} | {side} | {batch} | "
                f"{str(model.dtype).removeprefix('torch.')} | {' '.join(flags)} |"
            )
            print(
                f"{start} {step.kept / GB:.2f} | {step.peak / GB:.2f} "
                f"| {estimate / GB:.2f} | {100 * error:+.1f} |",
                flush=True,
            )
    return worst


def print_vaes(families: Sequence[str]) -> None:
    """The table of what the VAE takes, on top of its weights."""
    print(
        "\n| VAE | px | precision | encoding GB | bytes a pixel | decoding GB | bytes a pixel |\n"
        "|---|---|---|---|---|---|---|"
    )
    for family, dtype in (
        (family, dtype) for family in families for dtype in (torch.float32, torch.bfloat16)
    ):
        side = SIDES[family]
        work = vae_work(meta_part(RELEASED / family, "vae", dtype), dtype, side)
        cells = " | ".join(f"{size / GB:.2f} | {size / side**2:.0f}" for size in work)
        print(f"| {family} | {side} | {str(dtype).removeprefix('torch.')} | {cells} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=sorted(FACTS))
    args = parser.parse_args(argv)
    quiet_libraries()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    families = [args.only] if args.only else sorted(FACTS)
    worst = print_steps(families)
    print_vaes(families)
    print(f"\nthe estimates of a step are within {100 * worst:.1f} %")


if __name__ == "__main__":
    main()
