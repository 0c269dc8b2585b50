"""Memory of each phase of a run without a GPU: `python benchmarks/memory_phases.py`.

Each phase is counted on models of the released sizes on torch's `meta` device, as in `memory.py`,
and estimated as `coinage.checks.footprint` does before a run. The table is that of
docs/guides/low-memory.md, which `--write` replaces.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from coinage.checks.footprint import (
    CHECKED,
    CONTEXT,
    DRAWN,
    ENCODED,
    FIRST_LOOK,
    GB,
    MEASURED,
    WORKSPACE,
    Phase,
    evaluated_at_once,
    phases,
)
from coinage.config import LoopConfig, ModelConfig, SaveConfig, TrainConfig, WordConfig
from coinage.data.buckets import cover
from coinage.data.sample import Sample
from coinage.data_config import DataConfig, DatasetConfig, SubsetConfig
from coinage.models.base import Components
from coinage.models.facts import FACTS
from coinage.models.quiet import quiet_libraries
from coinage.models.streaming import LEAST, LIMIT, blocks_of
from coinage.models.vae import tiled
from coinage.settings.low_memory import in_low_memory
from coinage.text.prompts import Prompt
from memory import Built, Tracker, as_on_cuda, components, known, train_step, vae_work
from memory_costs import first_look, measured, text
from random_models import RELEASED, meta_part

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "low-memory.md"
TRAINED = ""  # the training steps
COLUMNS = {
    "encode": ENCODED,
    "first look": FIRST_LOOK,
    "train": TRAINED,
    "measure": MEASURED,
    "preview": DRAWN,
    "check the file": CHECKED,
}
PROMPTS = [Prompt(text="zibu")]


@dataclass(frozen=True, slots=True)
class Case:
    """A run over square pictures of the size that a model is made for, latents cached, one at a time.

    Attributes:
        name: in the table.
        config: of the run.
        samples: its pictures.
    """

    name: str
    config: TrainConfig
    samples: Sequence[Sample]


def case(family: str, name: str, **model: Any) -> Case:
    """A run in bf16."""
    side, subset = FACTS[family].side, SubsetConfig()
    dataset = DatasetConfig(resolution_wh=(side, side), batch_size=1, subsets=(subset,))
    config = TrainConfig(
        model=ModelConfig(source="nowhere", family=family, precision="bf16", **model),
        word=WordConfig(token="zibu"),
        data=DataConfig(datasets=(dataset,), cache_latents=True),
        save=SaveConfig(output_dir=Path("out")),
        loop=LoopConfig(early_stop=True),
    )
    fit = cover((side, side), (side, side))
    return Case(name, config, [Sample(Path("0.png"), "zibu", subset, 0, (side, side), fit)] * 8)


def cases(family: str) -> list[Case]:
    """The runs of the table."""
    plain = case(family, "bf16")
    low, streamed = (
        replace(plain, config=in_low_memory(plain.config, streamed=on)[0]) for on in (False, True)
    )
    return [
        plain,
        case(family, "`--gradient_checkpointing`", gradient_checkpointing=True),
        case(family, "and `--fp8_base`", gradient_checkpointing=True, fp8_unet=True),
        replace(low, name="`--low_memory`"),
        replace(streamed, name="`--low_memory`, streaming"),
    ]


def counted(run: Case) -> dict[str, Phase]:
    """What each phase takes, by its name."""
    config = run.config.model
    family, side = config.family, FACTS[config.family].side
    model = Built(
        family,
        RELEASED / family,
        torch.bfloat16,
        config.gradient_checkpointing,
        config.fp8_unet,
        config.low_memory,
    )
    parts = components(model)
    vae = meta_part(RELEASED / family, "vae", torch.bfloat16)
    vae_weights, weights = sum(t.nbytes for t in known(vae)), on_gpu(parts, config)
    passes = evaluated_at_once(config, side**2, 1)
    sampled = measured(parts, model, side, 2)
    decoded = vae_weights + decoding(vae, side, in_tiles=config.low_memory)
    return {
        ENCODED: Phase(ENCODED, vae_weights, vae_work(vae, torch.bfloat16, side)[0]),
        FIRST_LOOK: Phase(FIRST_LOOK, weights, first_look(parts, model)),
        TRAINED: Phase(TRAINED, weights, train_step(parts, model, side, 1).peak),
        MEASURED: Phase(MEASURED, weights, measured(parts, model, side, passes)),
        DRAWN: Phase(DRAWN, weights, max(sampled, decoded)),
        CHECKED: Phase(CHECKED, weights, text(parts, model)),
    }


def on_gpu(parts: Components, config: ModelConfig) -> int:
    """Bytes of the weights on the GPU."""
    tensors = {id(t): t for t in known(*parts.text_encoders, parts.denoiser)}
    if config.low_memory:
        for embedding in parts.embeddings:
            tensors.pop(id(embedding.table))
    size: int = sum(tensor.nbytes for tensor in tensors.values())
    if config.streamed:
        blocks = blocks_of(parts.denoiser, LIMIT, LEAST)
        sizes = [sum(layer.weight.nbytes for layer in block) for block in blocks]
        size += 2 * max(sizes) - sum(sizes)
    return size


def decoding(vae: Any, side: int, *, in_tiles: bool) -> int:
    """Bytes that the decoder takes beside its weights."""
    small = side // 8
    if not in_tiles or small <= 64:
        return vae_work(vae, torch.bfloat16, side)[1]
    with torch.no_grad(), tiled(vae, small), as_on_cuda(torch.float32), Tracker(known(vae)) as seen:
        vae.decode(torch.empty(1, 4, small, small, dtype=torch.bfloat16, device="meta"))
    return int(seen.peak)


def estimated(run: Case) -> dict[str, Phase]:
    """What `coinage.checks.footprint` tells of each phase, by its name."""
    found: dict[str, Phase] = {}
    sizes = FACTS[run.config.model.family].released
    for phase in phases(run.config, sizes, run.samples, PROMPTS):
        before = found.get(phase.when)
        if before is None or before.total < phase.total:
            found[phase.when] = phase
    return found


def table(families: Sequence[str]) -> tuple[str, float]:
    """The table of all phases, and the largest error of the estimates."""
    lines = [
        f"| model, batch 1 | flags | {' | '.join(COLUMNS)} | most |",
        f"|---|---|{'---|' * (len(COLUMNS) + 1)}",
    ]
    worst = 0.0
    for family in families:
        for run in cases(family):
            found, told = counted(run), estimated(run)
            rest = CONTEXT + WORKSPACE
            sizes = [(found[name].total + rest) / GB for name in COLUMNS.values()]
            for name, phase in found.items():
                worst = max(worst, abs(told[name].total / phase.total - 1))
            cells = " | ".join(f"{size:.2f}" for size in sizes)
            facts = FACTS[family]
            start = f"| {facts.display_name}, {facts.side} px | {run.name} |"
            lines.append(f"{start} {cells} | **{max(sizes):.2f}** |")
            print(lines[-1], flush=True)
    return "\n".join(lines), worst


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=sorted(FACTS))
    parser.add_argument("--write", action="store_true", help=f"Replace the table in {PAGE.name}.")
    args = parser.parse_args(argv)
    quiet_libraries()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    text_of_table, worst = table([args.only] if args.only else ["sd1", "sdxl"])
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        first, last = page.index("| model, batch 1 |"), page.rindex(" |\n") + 2
        PAGE.write_text(page[:first] + text_of_table + page[last:], encoding="utf-8")
    print(f"\nthe estimates are within {100 * worst:.1f} %")


if __name__ == "__main__":
    main()
