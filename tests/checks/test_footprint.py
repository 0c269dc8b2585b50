"""What a run needs on a GPU, told before the model is loaded."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coinage.checks.advice import Planned
from coinage.checks.footprint import (
    CONTEXT,
    ENCODED,
    ENCODING,
    GB,
    Footprint,
    activations,
    footprint,
    phases,
    weights,
)
from coinage.checks.memory import free_memory_problem
from coinage.cli.train import train_command
from coinage.config import ModelConfig, Precision, SaveConfig, TrainConfig, WordConfig
from coinage.data.buckets import cover
from coinage.data.sample import Sample
from coinage.data_config import DataConfig, DatasetConfig, ImageRules, SubsetConfig
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.facts import FACTS, ModelSizes
from coinage.models.families import FAMILIES
from coinage.models.placement import DTYPES, lower_linear_layers
from coinage.models.sizes import model_sizes
from coinage.text.prompts import Prompt
from tests.helpers import TAUGHT, config_for, flags
from tests.tiny_models import FAMILY_NAMES

MODELS = st.builds(
    ModelConfig,
    source=st.just("nowhere"),
    family=st.sampled_from(FAMILY_NAMES),
    precision=st.sampled_from(["no", "fp16", "bf16"]),
    full_precision_vae=st.booleans(),
    low_precision_text=st.booleans(),
    gradient_checkpointing=st.booleans(),
    max_token_length=st.sampled_from([75, 150, 225]),
)


def planned(
    model: ModelConfig, side: int = 512, batch: int = 1, **data: object
) -> tuple[TrainConfig, list[Sample]]:
    """A run over eight square pictures."""
    subset = SubsetConfig(images=ImageRules())
    dataset = DatasetConfig(resolution_wh=(side, side), batch_size=batch, subsets=(subset,))
    config = TrainConfig(
        model=model,
        word=WordConfig(token="zibu", num_vectors=2),
        data=DataConfig(datasets=(dataset,), **data),  # type: ignore[arg-type]
        save=SaveConfig(output_dir=Path("out")),
    )
    sample = Sample(
        Path("0.png"),
        "zibu",
        subset,
        0,
        (2 * side, 2 * side),
        cover((2 * side, 2 * side), (side, side)),
    )
    return config, [sample] * 8


def total(model: ModelConfig, side: int = 512, batch: int = 1, **data: object) -> int:
    return footprint(*insert_sizes(planned(model, side, batch, **data))).total


def insert_sizes(
    run: tuple[TrainConfig, list[Sample]],
) -> tuple[TrainConfig, ModelSizes, list[Sample]]:
    return run[0], FACTS[run[0].model.family].released, run[1]


@given(MODELS, st.integers(4, 20), st.integers(1, 7))
def test_more_pixels_and_larger_batches_need_more(
    model: ModelConfig, steps: int, batch: int
) -> None:
    def of_steps(side: int, batch: int) -> int:
        found = phases(*insert_sizes(planned(model, side, batch)))
        return next(phase.total for phase in found if not phase.when)

    side = 64 * steps
    for more in ((side + 64, batch), (side, batch + 1)):
        assert of_steps(side, batch) < of_steps(*more)
        # The first look at a model is of one size, and more than a step of small pictures
        assert total(model, side, batch) <= total(model, *more)


@given(MODELS, st.integers(4, 24), st.integers(1, 8))
def test_each_way_to_save_memory_saves_some_or_nothing(
    model: ModelConfig, steps: int, batch: int
) -> None:
    side, sizes = 64 * steps, FACTS[model.family].released
    now = total(model, side, batch)
    assert total(model, side, batch, cache_latents=True) <= now
    full = replace(model, gradient_checkpointing=False)
    pixels, chunks = side * side, model.max_token_length // 75
    some, most = (
        activations(m, sizes, pixels, batch, chunks)
        for m in (replace(full, gradient_checkpointing=True), full)
    )
    assert some < most / 2
    low, eight = (replace(model, precision="bf16", fp8_unet=on) for on in (False, True))
    assert (
        weights(eight, sizes) < weights(low, sizes) < weights(replace(model, precision="no"), sizes)
    )
    assert (
        total(eight, side, batch)
        < total(low, side, batch)
        <= total(replace(low, precision="no"), side, batch)
    )


@pytest.mark.parametrize(("form", "precision"), [("{0}", "no"), ("{0}.safetensors", "bf16")])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_sizes_and_weights_are_those_of_the_loaded_model(
    models: Path, small_configs: None, family: str, form: str, precision: Precision
) -> None:
    low = precision != "no"
    source, tokenizers = str(models / form.format(family)), models / "tokenizers"
    model = ModelConfig(
        source=source, family=family, tokenizer_cache=tokenizers, precision=precision, fp8_unet=low
    )
    parts = FAMILIES[family].load(model, DTYPES[precision])
    lower_linear_layers(parts, DTYPES[precision])
    if low:
        keep_in_eight_bits(parts.denoiser)
    sizes = model_sizes(model)
    assert sizes.from_model
    assert sizes.unet == sum(p.numel() for p in parts.denoiser.parameters())
    assert sizes.text == sum(
        p.numel() for encoder in parts.text_encoders for p in encoder.parameters()
    )
    assert sizes.vae == sum(p.numel() for p in parts.vae.parameters())
    kept = [p for module in (*parts.text_encoders, parts.denoiser) for p in module.parameters()]
    assert weights(model, sizes) == sum(p.numel() * p.element_size() for p in kept)
    whole = weights(replace(model, low_precision_text=True), sizes) - weights(model, sizes)
    assert whole == (-2 * sizes.text_kept if low else 0)


def test_a_vae_of_its_own_is_counted(models: Path, tmp_path: Path) -> None:
    model = ModelConfig(source=str(models / "sd1"), family="sd1")
    own = model_sizes(model).vae
    for vae in (
        models / "sd2",
        models / "sd2" / "vae",
        models / "sd2.safetensors",
        models / "sd2" / "vae" / "diffusion_pytorch_model.safetensors",
    ):
        assert model_sizes(replace(model, vae=str(vae))).vae == own
    missing = model_sizes(replace(model, vae="owner/name"))
    assert (missing.vae, missing.from_model) == (FACTS["sd1"].released.vae, False)


def test_variants_are_counted_once_and_fp16_alone_too(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models / "sd1", tmp_path / "sd1")
    model = ModelConfig(source=str(folder), family="sd1")
    sizes = model_sizes(model)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert model_sizes(model) == sizes
    file.unlink()
    assert model_sizes(model) == sizes


@pytest.mark.parametrize("source", ["{0}.ckpt", "nobody/nothing"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_has_no_header_is_taken_as_the_released_model(
    models: Path, family: str, source: str
) -> None:
    path = str(models / source.format(family)) if "ckpt" in source else source
    sizes = model_sizes(ModelConfig(source=path, family=family))
    assert sizes == FACTS[family].released
    config, samples = planned(ModelConfig(source=path, family=family))
    assert footprint(config, sizes, samples).shown().endswith("(estimated from the released model)")


def test_sizes_of_the_released_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from random_models import RELEASED as CONFIGS
    from random_models import meta_part, part_names

    kept = ("norm", "embedding", "shared", "attention_bias")
    for family, facts in FACTS.items():
        sizes = facts.released
        parts = {
            name: dict(meta_part(CONFIGS / family, name).named_parameters())
            for name in part_names(CONFIGS / family)
        }
        text = {
            f"{name} {key}": p
            for name in parts
            if name.startswith("text")
            for key, p in parts[name].items()
        }
        unet = meta_part(CONFIGS / family, facts.denoiser)
        assert sizes.unet == sum(p.numel() for p in unet.state_dict().values())
        keep_in_eight_bits(unet)
        whole = [p.numel() for p in unet.parameters() if p.dtype != torch.int8]
        whole += [t.numel() for name, t in unet.named_buffers() if name.endswith("pos_embed")]
        assert sizes.unet_small == sum(whole)
        assert sizes.text == sum(p.numel() for p in text.values())
        assert sizes.text_kept == sum(
            p.numel() for key, p in text.items() if any(word in key for word in kept)
        )
        assert sizes.vae == sum(p.numel() for p in parts["vae"].values())


def test_the_phase_that_needs_most_counts() -> None:
    model = ModelConfig(
        source="nowhere", family="sdxl", precision="bf16", gradient_checkpointing=True
    )
    config, sizes, samples = insert_sizes(planned(model, 768, cache_latents=True))
    plain = footprint(config, sizes, samples)
    assert plain.when == "", "images are encoded before the rest is on the GPU"
    encoded = {phase.when: phase for phase in phases(config, sizes, samples)}[ENCODED]
    assert encoded.model == 2 * sizes.vae
    uncached = footprint(*insert_sizes(planned(model, 768)))
    assert uncached.when == "while images are encoded"
    drawn = footprint(config, sizes, samples, [Prompt(text="zibu")])
    assert drawn.when == "while previews are drawn"
    small = [Prompt(text="zibu", width=64, height=64)]
    assert drawn.total > plain.total == footprint(config, sizes, samples, small).total
    many = replace(config, data=replace(config.data, vae_batch_size=99))
    assert footprint(many, sizes, samples).when == ""
    large = replace(many.data, datasets=planned(model, 1024)[0].data.datasets)
    (_, largest) = planned(model, 1024)
    found = footprint(replace(many, data=large), sizes, largest)
    assert found.when == "while images are encoded"
    assert found.activations == 8 * 1024**2 * ENCODING
    overflowing = replace(config, model=replace(model, precision="fp16"))
    half = {phase.when: phase for phase in phases(overflowing, sizes, samples)}[ENCODED]
    assert half.activations == 2 * encoded.activations, "SDXL's own VAE may need float32 then"


def test_recorded_steps_keep_their_memory() -> None:
    config, sizes, samples = insert_sizes(
        planned(ModelConfig(source="nowhere"), cache_latents=True)
    )
    recorded = replace(config, model=replace(config.model, cuda_graphs=True))
    prompts = [Prompt(text="zibu")]
    without, kept = (
        {phase.when: phase.activations for phase in phases(one, sizes, samples, prompts)}
        for one in (config, recorded)
    )
    drawn = "while previews are drawn"
    assert kept[drawn] == without[drawn] + without[""]
    assert kept[""] == without[""]


def test_a_batch_is_no_larger_than_its_bucket() -> None:
    config, sizes, samples = insert_sizes(planned(ModelConfig(source="nowhere"), batch=8))
    assert footprint(config, sizes, samples[:3]).total == total(
        ModelConfig(source="nowhere"), batch=3
    )


def test_the_line() -> None:
    found = Footprint(int(2.6 * GB), int(4.9 * GB), int(0.4 * GB))
    assert found.shown() == "about 7.9 GB of GPU memory: model 2.6, activations 4.9, the rest 0.4"


def test_a_dry_run_tells_the_memory(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(moon_dataset, tmp_path / "o", TAUGHT, "--dry_run")
    assert train_command("sd", given) == 0
    config = config_for(moon_dataset, tmp_path / "o", TAUGHT)
    text = capsys.readouterr().err
    shown = "about 0.7 GB of GPU memory: model 0.0, activations 0.0, the rest 0.6"
    on_cpu = "no GPU here: the run would use the CPU (on a GPU it would take about 0.7 GB)"
    assert (shown if torch.cuda.is_available() else on_cpu) in text
    assert ("GPU memory" in text) == torch.cuda.is_available()
    assert model_sizes(config.model).unet < FACTS["sd1"].released.unet / 100
    assert "are free" not in text


def test_a_gpu_that_is_too_small_is_a_warning_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    config, samples = planned(ModelConfig(source="nowhere", family="sdxl"), 1024, 4)
    run = [Planned(config, samples)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * GB - CONTEXT, 8 * GB))
    problem = free_memory_problem(run, torch.device("cuda"))
    assert problem
    assert problem.what.startswith("the GPU has 8.0 GB free, but the run needs about ")
    assert problem.hint.startswith("--mixed_precision bf16, --gradient_checkpointing, ")
    assert free_memory_problem(run, torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80 * GB, 80 * GB))
    assert free_memory_problem(run, torch.device("cuda")) is None

    def fail(_: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert free_memory_problem(run, torch.device("cuda")) is None
