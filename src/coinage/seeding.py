"""Make random generators whose key names their purpose.

A draw depends only on its key and not on when it is made, so workers, batch sizes, previews and
resuming cannot change a run.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


MAX_SEED = 2**31  # the first seed that is too large to be drawn


def draw_seed() -> int:
    """Draw a seed for what is not to be repeated, from the system's own source of chance."""
    return random.SystemRandom().randrange(MAX_SEED)


def key_for(*parts: int | str) -> int:
    """Return a 63-bit seed made from the parts, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng_for(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator for one purpose: `rng_for(seed, "caption", epoch, position)`."""
    return np.random.Generator(np.random.Philox(key_for(*parts)))


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a torch CPU generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(key_for(*parts))
