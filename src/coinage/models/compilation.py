"""Compile the blocks that a UNet repeats with torch.compile, for the passes that learn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from coinage.errors import reason_of
from coinage.system.full_memory import is_full

log = logging.getLogger("coinage")
# Of one block: its widths, times the sizes of pictures and batches until torch takes any of them
MOST_GRAPHS = 32


@dataclass(slots=True)
class Compiler:
    """A backend of torch.compile that is left alone once it has failed.

    Attributes:
        backend: its name.
        works: false once it could not compile something.
    """

    backend: str
    works: bool = True

    def call(
        self, compiled: Callable[..., Any], eager: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call a compiled function; the eager one where nothing is learned, or the compiler does not work.

        Passes without gradients are few and of all sizes: compiling for each would take longer than
        it saves.
        """
        if not (self.works and torch.is_grad_enabled()):
            return eager(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001 - it has no other name
            if is_full(error):
                raise
            self.give_up(error)
        return eager(*args, **kwargs)

    def give_up(self, error: Exception) -> None:
        """Say why there is no compiler, and take it no more."""
        self.works = False
        reason = reason_of(getattr(error, "inner_exception", error))
        log.warning("--torch_compile: goes on without the compiler: %s", reason)


def compile_denoiser(denoiser: nn.Module, backend: str) -> None:
    """Have the blocks that a denoiser repeats compiled when they first learn, or all of it if it names none.

    A block is compiled once for all places where it has the same width, which takes seconds where
    the whole takes minutes. From the second size of picture or batch on, the code is for any.

    Args:
        denoiser: a diffusers model; it may still be moved.
        backend: of torch.compile.
    """
    config: Any = torch._dynamo.config  # noqa: SLF001 - it has no other name
    config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
    compiler = Compiler(backend)
    for block in repeated_blocks(denoiser) or [denoiser]:
        eager = block.forward
        try:
            compiled = torch.compile(eager, backend=backend)
        except RuntimeError as error:  # not on this system, or with this version of Python
            compiler.give_up(error)
            return
        block.forward = partial(compiler.call, compiled, eager)


def repeated_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Return the modules of the classes that diffusers names as repeated in a model."""
    names = getattr(denoiser, "_repeated_blocks", None) or ()
    return [module for module in denoiser.modules() if type(module).__name__ in names]
