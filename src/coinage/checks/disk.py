"""Estimate how much a run writes, and check that the disk has room for it. Imports no torch."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from coinage.checks.plan import Draft
from coinage.config import TrainConfig
from coinage.data.batches import length_of
from coinage.data.sample import LATENTS, Sample
from coinage.errors import Findings, Problem
from coinage.models.facts import FACTS, FamilyFacts
from coinage.system.launch import process_count
from coinage.wording import sized

MOMENT = 2 * 4  # bytes of a number of the latents: mean and deviation, float32
MASK = 4  # bytes of a latent pixel
HEADER = 1024  # bytes of a file beside its tensors, at most
STATE = 8 * 1024  # bytes of a state beside the rows and their two moments, about


def saves(config: TrainConfig, steps: int, epochs: int) -> int:
    """Return how many embeddings a run writes at most, the last one and the best one included."""
    count = 1 + config.save.keep_best
    if config.save.every_n_steps:
        count += steps // config.save.every_n_steps
    epochs_between = config.save.epochs_between(epochs)
    if epochs_between:
        count += (epochs - 1) // epochs_between
    return count


def latent_bytes(sample: Sample, facts: FamilyFacts) -> int:
    """Return the bytes of an image's latents, and of those of its mirror image where it is flipped."""
    pixels = math.prod(sample.fit.bucket_wh) // facts.latent_scale**2
    mask = MASK if sample.mask else 0
    return sample.latents * pixels * (facts.latent_channels * MOMENT + mask)


def saved_bytes(config: TrainConfig, count: int) -> int:
    """Return the bytes of so many embeddings and their states, older ones that are deleted included."""
    rows = config.word.num_vectors * FACTS[config.model.family].vector_width * 4
    states = count - config.save.keep_best if config.state.save else int(config.state.at_end)
    return count * (rows + HEADER) + states * (3 * rows + STATE)


def written(config: TrainConfig, samples: Sequence[Sample]) -> Counter[Path]:
    """Return the bytes that a run writes at most, by folder: embeddings, states and latents.

    Log, report and previews are not counted.
    """
    by_folder: Counter[Path] = Counter()
    steps, epochs = length_of(config, samples, process_count())
    embeddings = saves(config, steps, epochs)
    by_folder[config.save.output_dir] = saved_bytes(config, embeddings)
    if config.data.cache_to_disk:
        facts = FACTS[config.model.family]
        for sample in samples:
            folder = config.data.cache_dir or sample.path.parent / LATENTS
            by_folder[folder] += latent_bytes(sample, facts) + sample.latents * HEADER
    return by_folder


def check_disk(drafts: Sequence[Draft], findings: Findings) -> None:
    """Warn of disks that have no room for what the words write together."""
    findings.warnings += disk_problems(*((draft.config, draft.samples) for draft in drafts))


def disk_problems(*runs: tuple[TrainConfig, Sequence[Sample]]) -> list[Problem]:
    """Return a warning for each disk that has no room for what runs side by side would write there.

    Args:
        runs: each one's settings, and its images.
    """
    try:
        return _disk_problems(runs)
    except OSError:
        return []


def _disk_problems(runs: Sequence[tuple[TrainConfig, Sequence[Sample]]]) -> list[Problem]:
    outputs = {config.save.output_dir for config, _ in runs}
    by_folder: Counter[Path] = Counter()
    for config, samples in runs:
        by_folder += written(config, samples)
    by_disk: dict[int, dict[Path, int]] = {}
    for folder, size in by_folder.items():
        place = _existing(folder)
        if place:
            by_disk.setdefault(place.stat().st_dev, {})[folder] = size
    problems = []
    for sizes in by_disk.values():
        free = shutil.disk_usage(_existing(next(iter(sizes))) or ".").free
        needed = sum(sizes.values())
        if needed > free:  # only then it matters that latents may be there from an earlier run
            needed -= _stored_latents(sizes, outputs)
        if needed > free:
            largest = max(sizes, key=lambda folder: sizes[folder])
            problems.append(_problem(needed, free, largest, latents=largest not in outputs))
    return problems


def _stored_latents(sizes: Mapping[Path, int], outputs: Container[Path]) -> int:
    """Return how many of the bytes that folders of latents shall have are there already."""
    stored = 0
    for folder, size in sizes.items():
        if folder not in outputs:
            stored += min(size, _bytes_in(folder))
    return stored


def _problem(size: int, free: int, folder: Path, *, latents: bool) -> Problem:
    way = "choose another --output_dir, or save less often"
    if latents:
        way = (
            "name another folder with --cache_dir, or use --cache_latents to keep latents in memory"
        )
    what = f"the run writes about {sized(size)}, but the disk has only {sized(free)} free"
    return Problem(what, str(folder), f"free some space, {way}")


def _existing(folder: Path) -> Path | None:
    """Return the folder, or the nearest one above it that is there already."""
    for path in (folder.absolute(), *folder.absolute().parents):
        if path.is_dir():
            return path
    return None


def _bytes_in(folder: Path) -> int:
    """Return the bytes of the latents in a folder and those below it."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors") if path.is_file())
