"""Peak memory and seconds to load a model: `python benchmarks/loading.py model.safetensors --precision bf16`.

Prints the size of the loaded weights, the peak above what the imports take, and their ratio. `make
full-size-check ARGS="--keep"` writes models of the released sizes to try it on.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from coinage.config import ModelConfig
from coinage.models.families import FAMILIES
from coinage.models.hub_files import detect_family
from coinage.models.quiet import quiet_libraries

GB = 2**30
# Before measuring
IMPORTED = (
    diffusers,
    transformers,
    AutoencoderKL,
    UNet2DConditionModel,
    CLIPTextModel,
    CLIPTokenizer,
)


def resident() -> float:
    """Memory of this process now, GB (Linux)."""
    return (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        * resource.getpagesize()
        / GB
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--precision", default="bf16", choices=("no", "fp16", "bf16"))
    parser.add_argument("--tokenizer_cache_dir", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    family = detect_family(args.model)
    if family is None:
        sys.exit(f"cannot tell the family of the model: {args.model}")
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.precision]
    before, start = resident(), time.perf_counter()
    parts = FAMILIES[family].load(
        ModelConfig(source=args.model, family=family, tokenizer_cache=args.tokenizer_cache_dir),
        dtype,
    )
    seconds = time.perf_counter() - start
    size = (
        sum(p.numel() * p.element_size() for module in parts.modules() for p in module.parameters())
        / GB
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB - before
    print(
        "| model | family | precision | weights GB | peak GB | ratio | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    print(
        f"| {Path(args.model).name} | {family} | {args.precision} | "
        f"{size:.2f} | {peak:.2f} | {peak / size:.2f} | {seconds:.1f} |"
    )


if __name__ == "__main__":
    main()
