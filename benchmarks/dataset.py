"""Seconds and memory to look at a dataset: `python benchmarks/dataset.py --images 10000`.

Makes small images of mixed aspect ratios with captions, then starts a fresh process for each
measurement: scan and buckets (headers and captions of every image), the epoch plan, every caption
tokenized and checked.
Cold: the files are dropped from the system's cache first (Linux only). Then it encodes some of the
images with the demo's VAE and prints images per second.

`--peer-script PATH` starts `python PATH FOLDER` beside each measurement; it must print one line of
JSON with "seconds" (scan, buckets and plan, without imports) and "peak_mb".
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

SIZES = ((64, 64), (96, 64), (64, 96), (80, 60), (128, 72), (60, 80), (100, 62), (72, 128))
WORD = "mychar"
PLACES = (
    "on a beach",
    "in the snow, at night",
    "beside a red car, seen from above",
    "in front of a brick wall, soft light",
)
MODEL = Path(__file__).parents[1] / "src" / "coinage" / "demo" / "models" / "sd1"


def make(folder: Path, count: int) -> None:
    """Write the images and their captions."""
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(
            SIZES[rng.integers(len(SIZES))], Image.Resampling.NEAREST
        )
        image.save(folder / f"{i:06d}.{('png', 'jpg')[i % 2]}")
        (folder / f"{i:06d}.txt").write_text(
            f"a photo of {WORD} number {i}, {PLACES[rng.integers(len(PLACES))]}", encoding="utf-8"
        )


def drop_from_cache(folder: Path) -> None:
    """Have the system forget the files' contents."""
    for entry in os.scandir(folder):
        handle = os.open(entry.path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def peak_mb() -> float:
    """The process's largest memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, model: str) -> dict[str, float]:
    """Time each stage in this process."""
    start = time.perf_counter()
    from coinage.checks.word import tokenizer_of
    from coinage.data.batches import plan_epoch
    from coinage.data.coverage import cover_captions
    from coinage.data.scan import scan
    from coinage.data_config import BucketConfig, DataConfig, DatasetConfig, SubsetConfig
    from coinage.errors import Findings
    from coinage.text.placeholder import WordEncoder, clip_rows, placeholders_for

    dataset = DatasetConfig(
        resolution_wh=(512, 512),
        batch_size=4,
        buckets=BucketConfig(enabled=True),
        subsets=(SubsetConfig(image_dir=folder),),
    )
    times = [time.perf_counter()]
    findings = Findings()
    samples = scan(DataConfig(datasets=(dataset,)), 0, findings)
    times.append(time.perf_counter())
    plan = plan_epoch(samples, [4], 0, 0)
    times.append(time.perf_counter())
    tokenizer = tokenizer_of(model, findings)
    if tokenizer is None:
        sys.exit(f"no tokenizer in {model}")
    (word,) = placeholders_for([(WORD, 4)], len(tokenizer))
    coverage = cover_captions(
        samples, WORD, WordEncoder(tokenizer, [word], clip_rows(tokenizer)), word, 1
    )
    times.append(time.perf_counter())
    if findings.errors or not sum(map(len, plan)) == len(samples) == len(coverage.always):
        sys.exit("the dataset was not read whole")
    scanned, planned, checked = (b - a for a, b in pairwise(times))
    return {
        "imports": times[0] - start,
        "scan": scanned,
        "plan": planned,
        "seconds": scanned + planned,
        "captions": checked,
        "all": times[-1] - start,
        "peak_mb": peak_mb(),
    }


def encode(folder: Path, count: int) -> float:
    """Images per second through the demo's VAE, read by threads, batches of 8."""
    from diffusers import AutoencoderKL

    from coinage.data.latents import Latents, Memory
    from coinage.data.scan import scan
    from coinage.data_config import DataConfig, DatasetConfig, SubsetConfig
    from coinage.errors import Findings

    dataset = DatasetConfig(resolution_wh=(64, 64), subsets=(SubsetConfig(image_dir=folder),))
    samples = scan(DataConfig(datasets=(dataset,)), 0, Findings())[:count]
    vae = AutoencoderKL.from_pretrained(MODEL / "vae").eval()
    latents = Latents(vae, samples, 8, Memory())
    start = time.perf_counter()
    latents.cache(8, lambda _: None)
    return len(samples) / (time.perf_counter() - start)


def child(script: str, *arguments: str) -> dict[str, float]:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5, help="of each kind; medians are printed")
    parser.add_argument("--encode", type=int, default=500, help="images to encode")
    parser.add_argument("--model", default=str(MODEL), help="whose tokenizer counts tokens")
    parser.add_argument("--peer-script", metavar="PATH")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.model)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.images)
        print(f"{args.images} images, medians of {args.runs} runs, seconds\n")
        print(
            "| | imports | scan, buckets | plan | both | captions tokenized, checked | all | peak MB |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for kind in ("warm", "cold") if hasattr(os, "posix_fadvise") else ("warm",):
            ours: list[dict[str, Any]] = []
            peers: list[dict[str, Any]] = []
            for _ in range(args.runs):
                for script, results, more in (
                    (__file__, ours, ("--model", args.model, "--measure")),
                    (args.peer_script, peers, ()),
                ):
                    if script is None:
                        continue
                    if kind == "cold":
                        drop_from_cache(folder)
                    results.append(child(script, *more, name))
            keys = ("imports", "scan", "plan", "seconds", "captions", "all")
            row = " | ".join(f"{median(r[key] for r in ours):.2f}" for key in keys)
            print(f"| {kind} | {row} | {median(r['peak_mb'] for r in ours):.0f} |", flush=True)
            if peers:
                both, peak = (median(r[key] for r in peers) for key in ("seconds", "peak_mb"))
                ratio = median(r["seconds"] for r in ours) / both
                print(
                    f"| peer, {kind} | | | | {both:.2f} | | | "
                    f"{peak:.0f} | (ours takes {ratio:.2f} of its time)",
                    flush=True,
                )
        print(
            f"\nlatents: {encode(folder, min(args.encode, args.images)):.0f} "
            "images/s of 64x64 on the demo model"
        )


if __name__ == "__main__":
    main()
