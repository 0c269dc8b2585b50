"""What is advised makes a run fit, and nothing of it is idle."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.checks.advice import Planned, advice, memory_problem, ways
from coinage.checks.footprint import GB, footprint
from coinage.config import ModelConfig, Precision
from coinage.data_config import ImageRules
from coinage.models.facts import FACTS
from coinage.settings.low_memory import in_low_memory
from coinage.text.prompts import Prompt
from tests.checks.test_footprint import planned
from tests.helpers import config_for
from tests.tiny_models import FAMILY_NAMES


def run_of(
    family: str, precision: Precision = "no", side: int = 1024, batch: int = 4, prompts: int = 0
) -> Planned:
    config, samples = planned(
        ModelConfig(source="nowhere", family=family, precision=precision), side, batch
    )
    return Planned(config, samples, [Prompt(text="zibu")] * prompts)


@given(
    st.sampled_from(FAMILY_NAMES),
    st.sampled_from(["no", "bf16"]),
    st.integers(1, 12),
    st.integers(0, 1),
    st.floats(0.5, 60),
)
def test_what_is_advised_fits_and_each_of_it_is_needed(
    family: str, precision: Precision, batch: int, prompts: int, free: float
) -> None:
    run, sizes, most = (
        run_of(family, precision, batch=batch, prompts=prompts),
        FACTS[family].released,
        int(free * GB),
    )
    found = advice(run, sizes, most)
    again = footprint(found.planned.config, sizes, found.planned.samples, found.planned.prompts)
    assert again == found.needs
    assert found.fits == (again.total <= most)
    changes = [change for options in ways(run) for change in options if change.flag in found.flags]
    assert [change.flag for change in changes] == list(found.flags)
    for left_out in changes if again.total > most or run.needs(sizes).total > most else []:
        lesser = run
        for change in changes:
            lesser = lesser if change is left_out else change.apply(lesser)
        assert lesser.needs(sizes).total > max(most, again.total)


@given(st.sampled_from(FAMILY_NAMES), st.integers(1, 12))
def test_what_cannot_fit_is_told_with_the_least_there_is(family: str, batch: int) -> None:
    run, sizes = run_of(family, batch=batch, prompts=1), FACTS[family].released
    found = advice(run, sizes, GB // 2)
    assert not found.fits
    assert str(found).startswith("even with --mixed_precision bf16, ")
    for options in ways(run):
        for change in options:
            assert change.apply(found.planned).needs(sizes).total >= found.needs.total - 1


def test_flags_do_what_their_advice_says(moon_dataset: Path, tmp_path: Path) -> None:
    """Each flag is passed to the command, and what it then needs is what was promised."""
    (dataset,) = config_for(moon_dataset, tmp_path).data.datasets
    _, samples = planned(ModelConfig(source="nowhere", family="sdxl"), 1024, 4)

    def with_flags(*more: str) -> Planned:
        config = config_for(moon_dataset, tmp_path, *more)
        large = replace(dataset, resolution_wh=(1024, 1024), batch_size=4)
        return Planned(
            replace(
                config,
                model=replace(config.model, family="sdxl"),
                data=replace(config.data, datasets=(large,)),
            ),
            samples,
        )

    tried = set()
    for free in range(4, 60):
        found = advice(with_flags("--vae_batch_size=4"), FACTS["sdxl"].released, free * GB)
        if found.planned.config.model.streamed:
            continue  # no flag asks for it: it is turned on where --low_memory alone is not enough
        if found.fits and all(flag.startswith("--") for flag in found.flags):
            words = " ".join(found.flags).replace("--vae_batch_size 1", "").split()
            batch = "1" if "--vae_batch_size 1" in found.flags else "4"
            assert (
                with_flags(*words, f"--vae_batch_size={batch}").needs(FACTS["sdxl"].released)
                == found.needs
            )
            tried |= set(found.flags)
    assert tried >= {"--mixed_precision bf16", "--gradient_checkpointing"}


def test_batches_and_pictures_become_smaller() -> None:
    run = run_of("sdxl", "bf16", batch=6)
    run = replace(run, config=in_low_memory(run.config, streamed=True)[0])
    needed = [advice(run, FACTS["sdxl"].released, int(free * GB)) for free in (7, 4, 3, 2.5, 2)]
    assert [found.flags for found in needed[:3]] == [
        (),
        ("batch size 3 with --gradient_accumulation_steps 2",),
        ("batch size 2 with --gradient_accumulation_steps 3",),
    ]
    config = needed[1].planned.config
    assert (config.data.datasets[0].batch_size, config.optim.accumulation) == (3, 2)
    smaller = needed[-1]
    assert smaller.flags[-1].startswith("resolution ")
    side = int(smaller.flags[-1].split()[1])
    assert {sample.fit.bucket_wh for sample in smaller.planned.samples} == {(side, side)}


def test_latents_of_pictures_that_vary_are_not_to_be_cached() -> None:
    run = run_of("sd1")
    subset = replace(run.samples[0].subset, images=ImageRules(color=True))
    varied = replace(run, samples=[replace(sample, subset=subset) for sample in run.samples])
    assert "--cache_latents" in {change.flag for options in ways(run) for change in options}
    assert "--cache_latents" not in {change.flag for options in ways(varied) for change in options}


@pytest.mark.parametrize("free", [0.5, 8, 200])
def test_the_warning(free: float) -> None:
    problem = memory_problem(run_of("sdxl"), FACTS["sdxl"].released, int(free * GB))
    if free == 200:
        assert problem is None
        return
    assert problem
    assert problem.what.startswith(f"the GPU has {free:.1f} GB free, but the run needs about 5")
    assert problem.hint.startswith(
        "even with --mixed" if free < 1 else "--mixed_precision bf16, --gradient_checkpointing, "
    )
