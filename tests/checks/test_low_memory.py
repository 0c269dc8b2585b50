"""What saves memory is turned on where it is asked for, or where a run would not fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from coinage.checks.footprint import GB
from coinage.checks.memory import fitted, needed_memory
from coinage.checks.plan import Plan
from coinage.cli.parse import parse
from coinage.config import ModelConfig
from coinage.errors import ConfigError
from coinage.settings.discover import complete
from coinage.settings.low_memory import in_low_memory
from tests.checks.test_footprint import planned
from tests.helpers import config_for, flags

CHANGES = (
    "images are encoded before the training, and the VAE leaves the GPU",
    "activations are computed twice instead of being kept",
    "the weights of the UNet or transformer are kept in 8 bits",
    "the text encoders' weights are kept in 8 bits, and their token tables off the GPU",
    "previews are decoded in tiles",
    "the loss is measured on one image at a time",
    "the weights of the UNet or transformer stay off the GPU, which gets them when it needs them",
)


def plan_of(script: str, moon_dataset: Path, out: Path, *more: str) -> Plan:
    """SDXL at 1024 pixels in bf16, as a command asks for it."""
    given = flags(moon_dataset, out, "--mixed_precision=bf16", *more)
    asked = complete(parse(script, given, "test"))[0]
    config, samples = planned(ModelConfig(source="nowhere", family="sdxl"), 1024)
    model = replace(asked.model, source="nowhere", family="sdxl")
    config = replace(config, model=model, values=asked.values)
    return Plan(
        label="",
        config=config,
        samples=tuple(samples),
        prompts=(),
        state=None,
        steps=1,
        epochs=1,
        memory=None,  # type: ignore[arg-type]
        seed_drawn=False,
        notes=(),
        warnings=(),
        lock=None,
    )


@pytest.mark.parametrize(
    ("free", "changes"), [(16, ()), (5, CHANGES[:6]), (3, CHANGES), (1, CHANGES)]
)
def test_a_run_that_does_not_fit_is_made_to_fit(
    free: int, changes: tuple[str, ...], moon_dataset: Path, tmp_path: Path
) -> None:
    plans, lines = fitted([plan_of("coinage", moon_dataset, tmp_path)], free * GB)
    assert lines == [f"to save memory: {change}" for change in changes]
    assert (needed_memory(plans).total <= free * GB) == (free > 1)
    model = plans[0].config.model
    assert model.low_memory == model.fp8_unet == model.gradient_checkpointing == bool(changes)
    assert model.streamed == (changes == CHANGES)
    assert plans[0].config.data.cache_latents == bool(changes)


def test_the_scripts_of_sd_scripts_only_advise(moon_dataset: Path, tmp_path: Path) -> None:
    plan = plan_of("sd", moon_dataset, tmp_path)
    assert fitted([plan], 5 * GB) == ([plan], [])
    asked = replace(plan, config=in_low_memory(plan.config)[0])
    assert fitted([asked], 5 * GB) == ([asked], [])
    plans, lines = fitted([asked], 3 * GB)
    assert lines == [f"to save memory: {CHANGES[-1]}"]
    assert plans[0].config.model.streamed


def test_nothing_is_changed_where_nothing_is_known_or_8_bits_do_not_go(
    moon_dataset: Path, tmp_path: Path
) -> None:
    plan = plan_of("coinage", moon_dataset, tmp_path)
    assert fitted([plan], None) == ([plan], [])
    exact = replace(
        plan, config=replace(plan.config, model=replace(plan.config.model, precision="no"))
    )
    assert fitted([exact], 5 * GB) == ([exact], [])


def test_the_flag_turns_on_all_of_it_once(moon_dataset: Path, tmp_path: Path) -> None:
    config, findings = complete(
        parse("sd", flags(moon_dataset, tmp_path, "--low_memory", "--mixed_precision=bf16"), "test")
    )
    assert [note for note in findings.notes if "to save memory" in note] == [
        f"to save memory: {change}" for change in CHANGES[:6]
    ]
    assert in_low_memory(config) == (config, [])
    varied = config_for(
        moon_dataset, tmp_path, "--low_memory", "--mixed_precision=bf16", "--color_aug"
    )
    assert not varied.data.cache_latents, "each use of an image is encoded"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ((), "--low_memory needs --mixed_precision"),
        (("--mixed_precision=bf16", "--torch_compile"), "--low_memory and --torch_compile"),
    ],
)
def test_what_it_does_not_go_with(
    more: tuple[str, ...], what: str, moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=what):
        config_for(moon_dataset, tmp_path, "--low_memory", *more)
