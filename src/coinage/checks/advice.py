"""What makes a run fit into a GPU's memory, or that it does not fit. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from coinage.checks.footprint import Footprint, footprint, in_gb
from coinage.config import DatasetConfig, ModelConfig, TrainConfig
from coinage.data.buckets import Size, bucket_sizes, fit
from coinage.data.sample import Sample
from coinage.errors import Problem
from coinage.models.facts import FACTS, ModelSizes
from coinage.text.prompts import Prompt

SIDES = (1536, 1280, 1024, 896, 768, 640, 512, 384, 256)  # of pictures, in pixels; what is tried


@dataclass(frozen=True, slots=True)
class Planned:
    """A run as it would be: what its memory depends on."""

    config: TrainConfig
    samples: Sequence[Sample]
    prompts: Sequence[Prompt] = ()
    owners: tuple[int, ...] = ()  # the word that each dataset is for, where several share a step

    def needs(self, sizes: ModelSizes) -> Footprint:
        """Its GPU memory, with a model of these sizes."""
        return footprint(self.config, sizes, self.samples, self.prompts, self.owners)


def side_by_side(runs: Sequence[Planned]) -> Planned:
    """Return runs that share a model and take their steps together, as one."""
    samples: list[Sample] = []
    datasets: list[DatasetConfig] = []
    owners: list[int] = []
    for number, run in enumerate(runs):
        samples += [
            replace(sample, dataset=len(datasets) + sample.dataset) for sample in run.samples
        ]
        datasets += run.config.data.datasets
        owners += [number] * len(run.config.data.datasets)
    config = runs[0].config
    word = replace(config.word, num_vectors=sum(run.config.word.num_vectors for run in runs))
    config = replace(config, word=word, data=replace(config.data, datasets=tuple(datasets)))
    return Planned(
        config, samples, [prompt for run in runs for prompt in run.prompts], tuple(owners)
    )


@dataclass(frozen=True, slots=True)
class Change:
    """A way to need less: how the user asks for it, and what it does."""

    flag: str
    apply: Callable[[Planned], Planned]


@dataclass(frozen=True, slots=True)
class Advice:
    """Changes that make a run fit; where nothing does, those that bring it lowest."""

    flags: tuple[str, ...]
    planned: Planned
    needs: Footprint
    fits: bool

    def __str__(self) -> str:
        if not self.flags:
            return "it fits as it is" if self.fits else "no setting makes it smaller"
        flags = ", ".join(self.flags)
        return (
            f"{flags}: about {in_gb(self.needs.total)}"
            if self.fits
            else f"even with {flags} it is about {in_gb(self.needs.total)}"
        )


def memory_problem(planned: Planned, sizes: ModelSizes, free: int) -> Problem | None:
    """Find out that a run does not fit into so many free bytes, and what makes it fit."""
    needs = planned.needs(sizes)
    if needs.total <= free:
        return None
    return Problem(
        f"the GPU has {in_gb(free)} free, but the run needs {needs.shown()}",
        hint=str(advice(planned, sizes, free)),
    )


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
    """Return what can be changed, what costs least first; for each the ways to do it, the gentlest first."""
    config = planned.config
    model, data = config.model, config.data
    varies = any(sample.subset.images.vary_pixels for sample in planned.samples)
    return [
        []
        if model.precision != "no"
        else [_model("--mixed_precision bf16", lambda m: replace(m, precision="bf16"))],
        []
        if model.gradient_checkpointing
        else [
            _model("--gradient_checkpointing", lambda m: replace(m, gradient_checkpointing=True))
        ],
        [] if data.cache_latents or varies else [Change("--cache_latents", _cached)],
        [] if data.vae_batch_size == 1 else [Change("--vae_batch_size 1", _one_by_one)],
        [] if model.fp8_unet else [_model("--fp8_base", lambda m: replace(m, fp8_unet=True))],
        [Change("--sample_every_n_steps 0", lambda run: replace(run, prompts=()))]
        if planned.prompts
        else [],
        _smaller_batches(data.datasets, config.optim.accumulation),
        _smaller_pictures(data.datasets, FACTS[model.family].side // 2),
    ]


def _changed(planned: Planned, changes: Sequence[Change]) -> Planned:
    for change in changes:
        planned = change.apply(planned)
    return planned


def _least(planned: Planned, sizes: ModelSizes, changes: list[Change], free: int) -> Advice:
    """Return the changes without those that are not needed to fit, or to come as low as they do."""
    limit = max(free, _changed(planned, changes).needs(sizes).total)
    for change in reversed(changes):
        others = [other for other in changes if other is not change]
        if _changed(planned, others).needs(sizes).total <= limit:
            changes = others
    result = _changed(planned, changes)
    needs = result.needs(sizes)
    return Advice(tuple(change.flag for change in changes), result, needs, needs.total <= free)


def _model(flag: str, change: Callable[[ModelConfig], ModelConfig]) -> Change:
    return Change(
        flag, lambda run: replace(run, config=replace(run.config, model=change(run.config.model)))
    )


def _cached(run: Planned) -> Planned:
    return replace(
        run, config=replace(run.config, data=replace(run.config.data, cache_latents=True))
    )


def _one_by_one(run: Planned) -> Planned:
    return replace(run, config=replace(run.config, data=replace(run.config.data, vae_batch_size=1)))


def _smaller_batches(datasets: Sequence[DatasetConfig], accumulation: int) -> list[Change]:
    """Return smaller batches, of which more make a step."""
    largest = max(dataset.batch_size for dataset in datasets)
    changes = []
    for parts in (k for k in range(2, largest + 1) if largest % k == 0):
        batches = [-(-dataset.batch_size // parts) for dataset in datasets]
        shown = " and ".join(str(size) for size in dict.fromkeys(batches))

        def smaller(
            run: Planned, batches: Sequence[int] = batches, accumulation: int = accumulation * parts
        ) -> Planned:
            config = run.config
            given = tuple(
                replace(d, batch_size=size)
                for d, size in zip(config.data.datasets, batches, strict=True)
            )
            optim = replace(config.optim, accumulation=accumulation)
            return replace(
                run, config=replace(config, data=replace(config.data, datasets=given), optim=optim)
            )

        changes.append(
            Change(
                f"batch size {shown} with --gradient_accumulation_steps {accumulation * parts}",
                smaller,
            )
        )
    return changes


def _smaller_pictures(datasets: Sequence[DatasetConfig], least: int) -> list[Change]:
    """Return lower resolutions, for the datasets that are above them."""
    largest = max(math.isqrt(math.prod(dataset.resolution_wh)) for dataset in datasets)
    return [
        Change(f"resolution {side}", lambda run, side=side: _at(run, side))  # type: ignore[misc]
        for side in SIDES
        if least <= side < largest
    ]


def _at(run: Planned, side: int) -> Planned:
    """Return the run with its images fitted anew, to at most `side` times `side` pixels."""
    config = run.config
    datasets = tuple(
        replace(d, resolution_wh=(side, side)) if math.prod(d.resolution_wh) > side**2 else d
        for d in config.data.datasets
    )
    buckets = [bucket_sizes(dataset.resolution_wh, dataset.buckets) for dataset in datasets]
    known: dict[tuple[int, Size], Sample] = {}
    samples = []
    for sample in run.samples:
        dataset = datasets[sample.dataset]
        key = sample.dataset, sample.image_wh
        if key not in known:
            found = fit(
                sample.image_wh, dataset.resolution_wh, dataset.buckets, buckets[sample.dataset]
            )
            known[key] = replace(sample, fit=found or sample.fit)
        samples.append(replace(sample, fit=known[key].fit))
    return replace(
        run, config=replace(config, data=replace(config.data, datasets=datasets)), samples=samples
    )
