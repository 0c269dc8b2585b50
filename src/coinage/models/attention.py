"""Plain attention in place of fused kernels, for a while or for good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from coinage.models.base import Components


@contextmanager
def plain_attention(parts: Components) -> Iterator[None]:
    """Use plain attention for a while."""
    encoders: Sequence[Any] = parts.text_encoders
    processors: dict[str, Any] = dict(parts.denoiser.attn_processors)
    implementations = [encoder.config._attn_implementation for encoder in encoders]  # noqa: SLF001
    use_plain_attention(parts)
    try:
        yield
    finally:
        parts.denoiser.set_attn_processor(processors)
        for encoder, implementation in zip(encoders, implementations, strict=True):
            encoder.set_attn_implementation(implementation)


def use_plain_attention(parts: Components) -> None:
    """Make denoiser and text encoders compute attention step by step, without fused kernels."""
    parts.denoiser.set_attn_processor(_plain_processors(parts.denoiser))
    for encoder in parts.text_encoders:
        encoder.set_attn_implementation("eager")


class _StepByStep:
    """Has another processor of diffusers compute without fused kernels."""

    def __init__(self, processor: Any) -> None:
        self.inner = processor

    def __call__(self, attn: Any, *args: Any, **more: Any) -> Any:
        """Return what the other one does."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.inner(attn, *args, **more)


def _plain_processors(denoiser: Any) -> Any:
    """Return what makes a denoiser's attention plain: one processor for all, or one for each layer.

    diffusers has a plain one for UNets; those of transformers differ from family to family.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    if isinstance(denoiser, UNet2DConditionModel):
        return AttnProcessor()
    return {name: _StepByStep(one) for name, one in denoiser.attn_processors.items()}


def attention_of(parts: Components) -> list[str]:
    """Return the names of what computes attention in UNet and text encoders, each with its package first."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kinds = {type(processor) for processor in parts.denoiser.attn_processors.values()}
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in kinds}
    for encoder in parts.text_encoders:
        chosen = encoder.config._attn_implementation  # noqa: SLF001
        function = ALL_ATTENTION_FUNCTIONS.get(chosen)
        # Each model has its own plain attention
        names.add(f"{function.__module__}.{chosen}" if function else f"transformers.{chosen}")
    return sorted(names)
