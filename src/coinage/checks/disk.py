"""How much a run writes, and whether the disk has room for it. Imports no torch."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
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
    by_steps = steps // config.save.every_n_steps if config.save.every_n_steps else 0
    every = config.save.epochs_between(epochs)
    return by_steps + ((epochs - 1) // every if every else 0) + 1 + config.save.keep_best


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
    """Return the bytes that a run writes at most, by folder: embeddings, states, and latents kept on disk.

    Log, report and previews are not counted.
    """
    found = Counter(
        {
            config.save.output_dir: saved_bytes(
                config, saves(config, *length_of(config, samples, process_count()))
            )
        }
    )
    if config.data.cache_to_disk:
        for sample in samples:
            found[config.data.cache_dir or sample.path.parent / LATENTS] += (
                latent_bytes(sample, FACTS[config.model.family]) + sample.latents * HEADER
            )
    return found


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
    disks: dict[int, list[tuple[Path, int]]] = {}
    outputs = {config.save.output_dir for config, _ in runs}
    for folder, size in sum((written(*run) for run in runs), Counter[Path]()).items():
        place = _existing(folder)
        if place:
            disks.setdefault(place.stat().st_dev, []).append((folder, size))
    problems = []
    for entries in disks.values():
        free, size = (
            shutil.disk_usage(_existing(entries[0][0]) or ".").free,
            sum(size for _, size in entries),
        )
        if size > free:  # only then it matters that latents may be there from an earlier run
            size -= sum(
                min(planned, _bytes_in(folder))
                for folder, planned in entries
                if folder not in outputs
            )
        if size > free:
            largest = max(entries, key=lambda entry: entry[1])[0]
            problems.append(_problem(size, free, largest, latents=largest not in outputs))
    return problems


def _problem(size: int, free: int, folder: Path, *, latents: bool) -> Problem:
    ways = "name another folder with --cache_dir, or use --cache_latents to keep latents in memory"
    hint = (
        f"free some space, {ways}"
        if latents
        else "free some space, choose another --output_dir, or save less often"
    )
    return Problem(
        f"the run writes about {sized(size)}, but the disk has only {sized(free)} free",
        str(folder),
        hint,
    )


def _existing(folder: Path) -> Path | None:
    """Return the folder, or the nearest one above it that is there already."""
    return next(
        (path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), None
    )


def _bytes_in(folder: Path) -> int:
    """Return the bytes of the latents in a folder and those below it."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors") if path.is_file())
