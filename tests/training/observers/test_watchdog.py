"""Faults that would make a run useless are caught within its first steps, and what was learned is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coinage.cli.parse import parse
from coinage.demo.worlds import MODELS
from coinage.embeddings.reading import read
from coinage.errors import TrainingError
from coinage.generate import draw
from coinage.models.relaid import Layouts, RelaidLinear, relay_weights
from coinage.models.vae import placed, widened
from coinage.settings.discover import complete
from coinage.text.prompts import Prompt
from coinage.training import loop
from coinage.training.observers.watchdog import PATIENCE, Watchdog, checksums
from coinage.training.run import Run
from tests.helpers import flags, prepared, trained

LONG = f"--max_train_steps={PATIENCE + 5}"


def blind_attention(run: Run) -> None:
    """A UNet that does not read the text."""
    for name, parameter in run.parts.denoiser.named_parameters():
        if ".attn2.to_v." in name:
            parameter.zero_()


def test_a_unet_that_ignores_the_text_stops_the_run(moon_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=f"no gradient has reached the word in {PATIENCE} steps"
    ):
        trained(moon_dataset, tmp_path, LONG, "--cache_latents", change=blind_attention)
    assert (tmp_path / f"zibu-step{PATIENCE:08d}.safetensors").is_file(), (
        "and what there is, is kept"
    )


def test_a_word_that_no_caption_holds_stops_the_run(moon_dataset: Path, tmp_path: Path) -> None:
    """Where the checks of captions were fooled."""

    def forget(run: Run) -> None:
        run.samples = [
            replace(sample, caption=sample.caption.replace("zibu", "shape"))
            for sample in run.samples
        ]

    with pytest.raises(TrainingError, match="no gradient has reached the word"):
        trained(moon_dataset, tmp_path, LONG, "--cache_latents", change=forget)


def test_one_vector_that_is_cut_off_is_named(moon_dataset: Path, tmp_path: Path) -> None:
    def second_is_dead(run: Run) -> None:
        run.parts.rows()[0].register_hook(lambda gradient: gradient * torch.tensor([[1.0], [0.0]]))

    with pytest.raises(TrainingError, match="vector 2 of emb_params"):
        trained(
            moon_dataset,
            tmp_path,
            LONG,
            "--cache_latents",
            "--num_vectors_per_token=2",
            change=second_is_dead,
        )


def test_it_may_only_warn_and_short_runs_end(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = trained(
        moon_dataset,
        tmp_path / "a",
        LONG,
        "--cache_latents",
        "--on_problem=warn",
        change=blind_attention,
    )
    assert run.step == PATIENCE + 5
    trained(
        moon_dataset,
        tmp_path / "b",
        "--max_train_steps=2",
        "--cache_latents",
        change=blind_attention,
    )
    assert caplog.text.count("no gradient has reached the word") == 2
    assert (tmp_path / "b" / "zibu.safetensors").is_file()


FAULTS: dict[str, Callable[[Run], None]] = {
    "the text encoder": lambda run: (
        run.parts.text_encoders[0].get_submodule("final_layer_norm").weight.fill_(float("nan"))
    ),
    "the UNet": lambda run: run.parts.denoiser.conv_out.weight.fill_(float("nan")),
    "the transformer": lambda run: run.parts.denoiser.proj_out.weight.fill_(float("nan")),
    "the word's own vectors": lambda run: run.parts.rows()[0].data.fill_(float("nan")),
}


@pytest.mark.parametrize("where", FAULTS)
def test_where_numbers_stop_being_finite_is_told_and_what_was_learned_is_kept(
    where: str, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = flags(moon_dataset, tmp_path, "--cache_latents")
    if where == "the transformer":
        given.append(f"--pretrained_model_name_or_path={MODELS / 'flux'}")
    config = complete(parse("coinage", given, "test"))[0]
    real = loop.update
    learned = []

    def update(run: Run) -> None:
        real(run)
        if run.step == 2:
            learned.append(run.parts.rows()[0].detach().clone())
            with torch.no_grad():
                FAULTS[where](run)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(
        TrainingError, match=f"the loss of step 3 is nan: {where} gives numbers that are not finite"
    ):
        trained(moon_dataset, tmp_path, config=config)
    if where != "the word's own vectors":
        kept = read(tmp_path / "zibu-step00000002.safetensors").vectors
        assert torch.equal(next(iter(kept.values())), learned[0])
        assert (tmp_path / "zibu-step00000002-state" / "state.json").is_file()


def test_a_word_that_few_captions_hold_is_waited_for(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps without it prove nothing, where an epoch has more; an epoch without it does."""

    def vary(caption: str, _rules: object, _token: str, _rng: object, step: int, *_: object) -> str:
        return caption if step >= first else "a circle"

    monkeypatch.setattr("coinage.training.batches.vary", vary)
    dataset = tmp_path / "dataset.toml"
    # 40 steps an epoch
    dataset.write_text(moon_dataset.read_text().replace("batch_size = 4", "batch_size = 2"))
    first = PATIENCE + 5
    run, _ = trained(
        dataset, tmp_path / "a", f"--max_train_steps={PATIENCE + 10}", "--cache_latents"
    )
    assert run.step == PATIENCE + 10
    first = 10_000
    with pytest.raises(TrainingError, match="no gradient has reached the word in 40 steps"):
        trained(dataset, tmp_path / "b", "--max_train_steps=50", "--cache_latents")


def test_a_warm_up_from_nothing_is_no_rounding(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rates that float32 itself rounds away, as the first of a long warm-up may be."""
    given = (
        "--lr_scheduler=constant_with_warmup",
        "--lr_warmup_steps=16000",
        "--learning_rate=1e-5",
    )

    def begin(run: Run) -> None:
        run.parts.rows()[0].data += 1.0  # as large as the words of some models
        run.optimizer.register_step_post_hook(
            lambda *_: setattr(run.progress, "stop_signal", 2 * (run.step >= PATIENCE))
        )

    run, _ = trained(
        moon_dataset,
        tmp_path,
        "--cache_latents",
        "--max_train_steps=20000",
        "--sample_every_n_steps=0",
        *given,
        change=begin,
    )
    assert run.step > PATIENCE
    assert not [
        record
        for record in caplog.records
        if record.levelname == "WARNING" and record.name == "coinage"
    ]


@pytest.fixture(scope="module")
def runs(moon_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One with 32-bit weights, one with 16- and 8-bit ones."""
    out = tmp_path_factory.mktemp("runs")
    return {
        "no": prepared(moon_dataset, out),
        "fp8": prepared(moon_dataset, out, "--mixed_precision=bf16", "--full_bf16", "--fp8_base"),
    }


@settings(deadline=None, max_examples=25)
@given(kind=st.sampled_from(["no", "fp8"]), data=st.data())
def test_any_changed_weight_changes_a_checksum(
    kind: str, data: st.DataObject, runs: dict[str, Run]
) -> None:
    run = runs[kind]
    part = data.draw(st.sampled_from(range(len(run.parts.modules()))))
    rows = {id(row) for row in run.parts.rows()}
    module = run.parts.modules()[part]
    tensor = data.draw(
        st.sampled_from([t for t in (*module.parameters(), *module.buffers()) if id(t) not in rows])
    )
    bits = tensor.data.view(
        {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    ).view(-1)
    at, bit = (
        data.draw(st.integers(0, len(bits) - 1)),
        data.draw(st.integers(0, 8 * tensor.element_size() - 2)),
    )
    before = checksums(run)
    bits[at] ^= 1 << bit
    after = checksums(run)
    bits[at] ^= 1 << bit
    names = ["text encoder 1", "the VAE", "the UNet"]
    assert [name for name in names if before[name] != after[name]] == [names[part]]
    assert checksums(run) == before


def test_weights_in_another_layout_are_watched_too(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path)
    assert relay_weights(run.parts.denoiser)
    watchdog = Watchdog("stop")
    watchdog.started(run)
    watchdog.finished(run)
    layer = next(m for m in run.parts.denoiser.modules() if isinstance(m, RelaidLinear))
    layer.layouts = Layouts.of_weight(layer.weight * 1.001)
    with pytest.raises(TrainingError, match="the weights of the UNet changed"):
        watchdog.finished(run)


def test_a_vae_that_computes_in_a_wider_precision_is_no_alarm(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, "--mixed_precision=bf16")
    watchdog = Watchdog("stop")
    watchdog.started(run)
    assert widened(run.parts.vae, run.parts.device)
    watchdog.finished(run)
    next(run.parts.denoiser.parameters()).data.add_(1)
    with pytest.raises(TrainingError, match="the weights of the UNet changed"):
        watchdog.finished(run)


@pytest.mark.parametrize(
    "more", [(), ("--mixed_precision=bf16",), ("--mixed_precision=bf16", "--fp8_base")]
)
def test_pictures_and_latents_change_no_weight(
    more: tuple[str, ...], moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, *more)
    before = checksums(run)
    assert (
        len(
            list(
                draw(
                    run.family,
                    run.parts,
                    [Prompt(text="a zibu", width=64, height=64, steps=2)],
                    autocast=run.autocast(),
                )
            )
        )
        == 1
    )
    assert checksums(run) == before
    next(run.epoch_inputs(0))
    with placed(run.parts.vae, run.parts.device, torch.float32):
        pass
    assert checksums(run) == before


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--num_vectors_per_token=3",),
        ("--gradient_accumulation_steps=2",),
        ("--optimizer_type=Lion",),
    ],
)
def test_a_healthy_run_raises_no_alarm(
    more: tuple[str, ...], moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(moon_dataset, tmp_path, LONG, "--cache_latents", *more)
    assert "no gradient" not in caplog.text
