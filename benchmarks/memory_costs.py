"""Count what each phase of a run takes, and write it to `coinage.models.costs`.

Usage: `python benchmarks/memory_costs.py [FAMILY ...]`, minutes of computing. To be
run again after a change in what is computed where, or in what precision.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from coinage.models.attention import plain_attention
from coinage.models.base import Components
from coinage.models.costs import COSTS, Arithmetic, Cost, Costs
from coinage.models.facts import FACTS
from coinage.models.families import FAMILIES
from coinage.models.quiet import quiet_libraries
from coinage.training.model_check import SIDE
from memory import Built, Tracker, as_on_cuda, components, known, predict, train_step
from random_models import RELEASED
from throughput import SIDES

FILE = Path(__file__).parents[1] / "src" / "coinage" / "models" / "costs.py"
ARITHMETIC: dict[Arithmetic, tuple[torch.dtype, bool]] = {
    "float32": (torch.float32, False),
    "half": (torch.bfloat16, False),
    "8 bits": (torch.bfloat16, True),
}


@contextmanager
def counting(parts: Components, model: Built) -> Iterator[Tracker]:
    """Count what is allocated, the weights aside, under the model's autocast."""
    modules = (*parts.text_encoders, parts.denoiser)
    with as_on_cuda(model.dtype), Tracker(known(*modules)) as tracker:
        yield tracker


def measured(parts: Components, model: Built, side: int, batch: int) -> int:
    """Bytes of a pass without gradient at most."""
    with torch.no_grad(), counting(parts, model) as tracker:
        predict(parts, model.family, side, batch)
    return tracker.peak


def first_look(parts: Components, model: Built) -> int:
    """Bytes of the gradient with plain attention at most, of a small part of one picture."""
    with ExitStack() as stack:
        stack.enter_context(plain_attention(parts))
        tracker = stack.enter_context(counting(parts, model))
        side = SIDE * FACTS[model.family].latent_scale
        predict(parts, model.family, side, 1).float().square().sum().backward()
    for row in parts.rows():
        row.grad = None
    return tracker.peak


def text(parts: Components, model: Built) -> int:
    """Bytes of a prompt that is encoded at most."""
    with torch.no_grad(), counting(parts, model) as tracker:
        sizes = torch.zeros(1, 6, dtype=torch.int64)
        FAMILIES[model.family].encode(parts, ["a photo of zibu"], sizes)
    return tracker.peak


def step_cost(parts: Components, model: Built) -> Cost:
    """Bytes of a step at most, as a line through two sizes of pictures and two of batches."""
    side, scale = SIDES[model.family], FACTS[model.family].latent_scale
    one, three = (train_step(parts, model, side, batch).peak for batch in (1, 3))
    fixed = max(0, one - (three - one) // 2)
    small = train_step(parts, model, side // 2, 1).peak - fixed
    pixels = (side // scale) ** 2
    chunk = max(0, (4 * small - (one - fixed)) // 3)  # a quarter of the pixels, and as much text
    return Cost((one - fixed - chunk) // pixels, chunk, fixed)


def costs(family: str, dtype: torch.dtype, *, eight_bits: bool) -> Costs:
    """Everything that `coinage.models.costs` tells of a released model."""
    of_step, looks = [], []
    for checkpointed in (False, True):
        model = Built(family, RELEASED / family, dtype, checkpointed, eight_bits)
        parts = components(model)
        of_step.append(step_cost(parts, model))
        looks.append(first_look(parts, model))
    scale, side = FACTS[family].latent_scale, SIDES[family]
    return Costs(
        kept=of_step[0],
        checkpointed=of_step[1],
        measured=round(measured(parts, model, side, 4) / 4 / (side // scale) ** 2),
        first_look=(looks[0], looks[1]),
        text=text(parts, model),
    )


def main() -> None:
    """Count the families that are named, or all, and rewrite their rows of the table."""
    quiet_libraries()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    rows = {family: dict(costs) for family, costs in COSTS.items()}
    for family in sys.argv[1:] or FACTS:
        rows[family] = {}
        for name, (dtype, eight_bits) in ARITHMETIC.items():
            rows[family][name] = costs(family, dtype, eight_bits=eight_bits)
            print(family, name, rows[family][name], flush=True)
    source = FILE.read_text(encoding="utf-8")
    head, _, rest = source.partition("COSTS: ")
    tail = rest[rest.index("\n\n\ndef ") :]
    table = f"COSTS: Mapping[str, Mapping[Arithmetic, Costs]] = {rows!r}"
    FILE.write_text(head + table + tail, encoding="utf-8")
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--quiet", str(FILE)], check=True)


if __name__ == "__main__":
    main()
