"""Find the changes that make a run fit into a GPU's memory. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from coinage.checks.footprint import Footprint, footprint, in_gb
from coinage.config import ModelConfig, TrainConfig
from coinage.data.buckets import Fit, Size, bucket_sizes, fit
from coinage.data.sample import Sample
from coinage.data_config import DatasetConfig
from coinage.errors import Problem
from coinage.models.facts import FACTS, ModelSizes
from coinage.settings.low_memory import in_low_memory
from coinage.text.prompts import Prompt

SIDES = (1536, 1280, 1024, 896, 768, 640, 512, 384, 256)  # of pictures, in pixels; what is tried


@dataclass(frozen=True, slots=True)
class Planned:
    """A run before it starts: everything that its memory depends on.

    Attributes:
        config: of the run.
        samples: all images.
        prompts: of previews.
        owners: for each dataset the number of its word, where several words share a step.
    """

    config: TrainConfig
    samples: Sequence[Sample]
    prompts: Sequence[Prompt] = ()
    owners: tuple[int, ...] = ()

    def needs(self, sizes: ModelSizes) -> Footprint:
        """Return the GPU memory that it needs, with a model of these sizes."""
        return footprint(self.config, sizes, self.samples, self.prompts, self.owners)


def side_by_side(runs: Sequence[Planned]) -> Planned:
    """Return runs that share a model and take their steps together, as one."""
    samples: list[Sample] = []
    datasets: list[DatasetConfig] = []
    prompts: list[Prompt] = []
    owners: list[int] = []
    for number, run in enumerate(runs):
        for sample in run.samples:
            samples.append(replace(sample, dataset=len(datasets) + sample.dataset))
        datasets += run.config.data.datasets
        prompts += run.prompts
        owners += [number] * len(run.config.data.datasets)
    config = _with_datasets(runs[0].config, datasets)
    num_vectors = sum(run.config.word.num_vectors for run in runs)
    config = replace(config, word=replace(config.word, num_vectors=num_vectors))
    return Planned(config, samples, prompts, tuple(owners))


def _with_datasets(config: TrainConfig, datasets: Sequence[DatasetConfig]) -> TrainConfig:
    return replace(config, data=replace(config.data, datasets=tuple(datasets)))


@dataclass(frozen=True, slots=True)
class Change:
    """A change that saves memory: the flags that ask for it, and its effect."""

    flag: str
    apply: Callable[[Planned], Planned]


@dataclass(frozen=True, slots=True)
class Advice:
    """The changes that make a run fit; if none do, those that bring it lowest.

    Attributes:
        flags: how to ask for the changes.
        planned: the run with them.
        needs: its memory then.
        fits: it is small enough.
    """

    flags: tuple[str, ...]
    planned: Planned
    needs: Footprint
    fits: bool

    def __str__(self) -> str:
        if not self.flags:
            return "it fits as it is" if self.fits else "no setting makes it smaller"
        flags, memory = ", ".join(self.flags), in_gb(self.needs.total)
        if self.fits:
            return f"{flags}: about {memory}"
        return f"even with {flags} it needs about {memory}"


def memory_problem(planned: Planned, sizes: ModelSizes, free: int) -> Problem | None:
    """Return a problem if a run does not fit into so many free bytes, with what makes it fit."""
    needs = planned.needs(sizes)
    if needs.total <= free:
        return None
    what = f"the GPU has {in_gb(free)} free, but the run needs {needs.shown()}"
    return Problem(what, hint=str(advice(planned, sizes, free)))


def advice(planned: Planned, sizes: ModelSizes, free: int) -> Advice:
    """Return the first changes, in the order of `ways`, with which a run fits into so many free bytes."""
    chosen: list[Change] = []
    for options in ways(planned):
        for change in options:
            if _changed(planned, [*chosen, change]).needs(sizes).total <= free:
                return _least(planned, sizes, [*chosen, change], free)
        chosen += options[-1:]
    return _least(planned, sizes, chosen, free)


def ways(planned: Planned) -> list[list[Change]]:
    """Return the possible changes, the cheapest first.

    Returns:
        For each kind of change the degrees of it, the gentlest first.
    """
    config = planned.config
    model, data = config.model, config.data
    facts = FACTS[model.family]
    varies = any(sample.subset.images.vary_pixels for sample in planned.samples)
    options: list[list[Change]] = []
    if model.precision == "no":
        options.append([_of_model("--mixed_precision bf16", _in_bf16)])
    if not model.gradient_checkpointing:
        options.append([_of_model("--gradient_checkpointing", _with_checkpointing)])
    if not data.cache_latents and not varies:
        options.append([Change("--cache_latents", _cached)])
    if data.vae_batch_size > 1:
        options.append([Change("--vae_batch_size 1", _encoded_one_by_one)])
    if not model.fp8_unet:
        options.append([_of_model("--fp8_base", _in_fp8)])
    if not model.low_memory:
        options.append(
            [
                Change("--low_memory", partial(_in_low_memory, streamed=False)),
                Change(
                    f"--low_memory (which keeps {facts.network}'s weights off the GPU where need be)",
                    partial(_in_low_memory, streamed=True),
                ),
            ]
        )
    if planned.prompts:
        options.append([Change("--sample_every_n_steps 0", _without_previews)])
    options.append(_smaller_batches(data.datasets, config.optim.accumulation))
    options.append(_smaller_pictures(data.datasets, facts.side // 2))
    return options


def _changed(planned: Planned, changes: Sequence[Change]) -> Planned:
    for change in changes:
        planned = change.apply(planned)
    return planned


def _least(planned: Planned, sizes: ModelSizes, changes: list[Change], free: int) -> Advice:
    """Return the changes without those that neither fitting nor the lowest memory depends on."""
    limit = max(free, _changed(planned, changes).needs(sizes).total)
    for change in reversed(changes):
        others = [other for other in changes if other is not change]
        if _changed(planned, others).needs(sizes).total <= limit:
            changes = others
    result = _changed(planned, changes)
    needs = result.needs(sizes)
    return Advice(tuple(change.flag for change in changes), result, needs, needs.total <= free)


def _of_model(flag: str, change: Callable[[ModelConfig], ModelConfig]) -> Change:
    """Return a change of the model's settings."""

    def apply(run: Planned) -> Planned:
        return replace(run, config=replace(run.config, model=change(run.config.model)))

    return Change(flag, apply)


def _in_bf16(model: ModelConfig) -> ModelConfig:
    return replace(model, precision="bf16")


def _with_checkpointing(model: ModelConfig) -> ModelConfig:
    return replace(model, gradient_checkpointing=True)


def _in_fp8(model: ModelConfig) -> ModelConfig:
    return replace(model, fp8_unet=True)


def _in_low_memory(run: Planned, streamed: bool) -> Planned:
    if run.config.model.precision == "no":
        return run  # it needs a lower one
    return replace(run, config=in_low_memory(run.config, streamed=streamed)[0])


def _cached(run: Planned) -> Planned:
    data = replace(run.config.data, cache_latents=True)
    return replace(run, config=replace(run.config, data=data))


def _encoded_one_by_one(run: Planned) -> Planned:
    data = replace(run.config.data, vae_batch_size=1)
    return replace(run, config=replace(run.config, data=data))


def _without_previews(run: Planned) -> Planned:
    return replace(run, prompts=())


def _smaller_batches(datasets: Sequence[DatasetConfig], accumulation: int) -> list[Change]:
    """Return smaller batches, of which more make a step."""
    largest = max(dataset.batch_size for dataset in datasets)
    changes = []
    for parts in range(2, largest + 1):
        if largest % parts == 0:
            sizes = [math.ceil(dataset.batch_size / parts) for dataset in datasets]
            changes.append(_batches_of(sizes, accumulation * parts))
    return changes


def _batches_of(sizes: Sequence[int], accumulation: int) -> Change:
    """Return the change to batches of these sizes, one for each dataset."""

    def apply(run: Planned) -> Planned:
        datasets = []
        for dataset, size in zip(run.config.data.datasets, sizes, strict=True):
            datasets.append(replace(dataset, batch_size=size))
        optim = replace(run.config.optim, accumulation=accumulation)
        return replace(run, config=replace(_with_datasets(run.config, datasets), optim=optim))

    shown = " and ".join(map(str, dict.fromkeys(sizes)))
    flags = f"batch size {shown} with --gradient_accumulation_steps {accumulation}"
    return Change(flags, apply)


def _smaller_pictures(datasets: Sequence[DatasetConfig], least: int) -> list[Change]:
    """Return lower resolutions, for the datasets that are above them."""
    largest = max(math.isqrt(math.prod(dataset.resolution_wh)) for dataset in datasets)
    changes = []
    for side in SIDES:
        if least <= side < largest:
            changes.append(Change(f"resolution {side}", partial(_fitted_anew, side=side)))
    return changes


def _fitted_anew(run: Planned, side: int) -> Planned:
    """Return the run with its images fitted anew, to at most `side` times `side` pixels."""
    datasets = []
    for dataset in run.config.data.datasets:
        is_larger = math.prod(dataset.resolution_wh) > side**2
        datasets.append(replace(dataset, resolution_wh=(side, side)) if is_larger else dataset)
    buckets = [bucket_sizes(dataset.resolution_wh, dataset.buckets) for dataset in datasets]
    fits: dict[tuple[int, Size], Fit] = {}
    samples = []
    for sample in run.samples:
        dataset, sizes = datasets[sample.dataset], buckets[sample.dataset]
        key = sample.dataset, sample.image_wh
        if key not in fits:
            new = fit(sample.image_wh, dataset.resolution_wh, dataset.buckets, sizes)
            fits[key] = new or sample.fit
        samples.append(replace(sample, fit=fits[key]))
    return replace(run, config=_with_datasets(run.config, datasets), samples=samples)
