"""Training on the demo model: only the rows move, and equal runs are equal to the bit."""

from pathlib import Path

import pytest
import safetensors
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coinage.checks import make_plans
from coinage.checks.compiler import compiler_problems
from coinage.cli.parse import parse
from coinage.config import WordConfig
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.worlds import MODELS
from coinage.embeddings.install import install_word
from coinage.embeddings.reading import read
from coinage.errors import CoinageError, ConfigError, TrainingError
from coinage.models.families import ModelFamily
from coinage.optim.factory import choose_optimizer, make_schedule
from coinage.seeding import generator_for
from coinage.settings.discover import complete
from coinage.training.batches import Batch
from coinage.training.gradients import accumulate
from coinage.training.run import Run, StepInput
from coinage.training.step import forward
from coinage.training.updates import update
from tests.helpers import TAUGHT, config_for, flags, prepared, rows_of, trained


def frozen_state(run: Run) -> dict[str, torch.Tensor]:
    found = {}
    for i, module in enumerate(run.parts.modules()):
        found |= {
            f"{i}.{name}": p.detach().clone()
            for name, p in module.named_parameters()
            if ".words." not in name
        }
        found |= {f"{i}.{name}": b.detach().clone() for name, b in module.named_buffers()}
    return found


def test_only_the_rows_change(moon_dataset: Path, tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}
    run, word = trained(
        moon_dataset,
        tmp_path,
        "--cache_latents",
        change=lambda run: before.update(frozen_state(run)),
    )
    after = frozen_state(run)
    assert any("table" in name for name in after)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    start = run.parts.embeddings[0].table[
        run.parts.tokenizers[0].encode("shape", add_special_tokens=False)
    ]
    assert (rows_of(word) - start).norm() > 0.01
    trainable = [
        p for module in run.parts.modules() for p in module.parameters() if p.requires_grad
    ]
    assert [id(p) for p in trainable] == [id(run.parts.rows()[0])]


def test_equal_runs_write_equal_bytes(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of zibu --w 64 --h 64 --s 2 --d 1\n")
    previews = [
        f"--sample_prompts={prompts}",
        "--sample_every_n_steps=1",
        "--max_data_loader_n_workers=0",
    ]
    trained(moon_dataset, tmp_path / "a", "--cache_latents")
    # Neither previews nor readers may change a run
    trained(moon_dataset, tmp_path / "b", "--cache_latents", *previews)
    trained(moon_dataset, tmp_path / "c", "--cache_latents", "--seed=1")
    one, two, three = (read(tmp_path / x / "zibu.safetensors") for x in "abc")
    assert (tmp_path / "a" / "zibu.safetensors").read_bytes() == (
        tmp_path / "b" / "zibu.safetensors"
    ).read_bytes()
    assert torch.equal(rows_of(one), rows_of(two))
    assert not torch.equal(rows_of(one), rows_of(three))


def test_rows_train_as_a_whole_table_would(moon_dataset: Path, tmp_path: Path) -> None:
    """AdamW on the rows alone is AdamW on the whole table with the old rows put back (clipping off)."""
    options = (
        "--max_grad_norm=0",
        "--num_vectors_per_token=2",
        "--max_train_steps=5",
        "--learning_rate=1e-2",
    )
    _, word = trained(moon_dataset, tmp_path, *options)
    run = prepared(moon_dataset, tmp_path, *options)
    encoder = run.parts.text_encoders[0]
    embedding = run.parts.embeddings[0]
    size = len(embedding.table)
    table = torch.nn.Embedding.from_pretrained(embedding.weight.detach().clone(), freeze=False)
    encoder.set_input_embeddings(table)
    original = table.weight.detach()[:size].clone()
    run.optimizer = choose_optimizer(run.config.optim)([table.weight])
    run.schedule = make_schedule(run.config.optim, run.optimizer, run.total_steps)
    for group in run.epoch_inputs(0):
        accumulate([run], [group])
        update(run)
        with torch.no_grad():
            table.weight[:size] = original
        if run.step == run.total_steps:
            break
    difference = (table.weight.detach()[size:] - rows_of(word)).abs().max().item()
    assert difference <= 1e-6
    assert (table.weight.detach()[size:] - embedding.rows).abs().max() > 1e-3


def test_accumulation_equals_a_larger_batch(moon_dataset: Path, tmp_path: Path) -> None:
    text = moon_dataset.read_text(encoding="utf-8")
    results = []
    for batch, groups in ((4, 1), (2, 2), (1, 4)):
        config = tmp_path / f"b{batch}.toml"
        config.write_text(text.replace("batch_size = 4", f"batch_size = {batch}"), encoding="utf-8")
        options = (
            f"--gradient_accumulation_steps={groups}",
            "--cache_latents",
            "--max_train_steps=4",
            "--learning_rate=1e-2",
        )
        _, word = trained(config, tmp_path / "out", *options)
        results.append(rows_of(word))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-5)


def test_a_group_is_the_mean_over_its_samples(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path)
    (group, *_) = run.epoch_inputs(0)
    (batch,) = group.batches
    accumulate([run], [group])
    whole = run.last.loss
    assert run.parts.rows()[0].grad is not None
    gradient = run.parts.rows()[0].grad.clone()
    run.optimizer.zero_grad()
    cuts = (slice(0, 3), slice(3, 4))
    pieces = [
        Batch(
            batch.moments[cut],
            batch.captions[cut],
            batch.generators[cut],
            batch.weights[cut],
            batch.sizes[cut],
        )
        for cut in cuts
    ]
    for generator, item in zip(batch.generators, _positions(run), strict=True):
        generator.manual_seed(item)
    accumulate([run], [StepInput(pieces, group.sample_count)])
    split = run.last.loss
    assert split == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(run.parts.rows()[0].grad, gradient, rtol=1e-4, atol=1e-8)


def _positions(run: Run) -> list[int]:
    from coinage.data.batches import plan_epoch
    from coinage.seeding import key_for

    first = plan_epoch(run.samples, [4], run.config.loop.seed, 0)[0]
    return [key_for(run.config.loop.seed, "noise", 0, item.position) for item in first]


def test_two_images_are_overfitted(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, CONCEPTS["moon"], "zibu", seed=0)
    for i in range(3, 9):
        (tmp_path / "images" / f"{i:02d}.png").unlink()
    dataset.write_text(
        dataset.read_text(encoding="utf-8").replace("num_repeats = 10", "num_repeats = 2"),
        encoding="utf-8",
    )
    run = prepared(
        dataset,
        tmp_path / "out",
        TAUGHT,
        "--learning_rate=2e-2",
        "--min_timestep=400",
        "--max_timestep=700",
    )

    def fixed_loss() -> float:
        """The loss of both images, eight fixed draws each."""
        (group,) = run.epoch_inputs(0)
        moments = torch.cat([group.batches[0].moments] * 8)
        captions = [*group.batches[0].captions] * 8
        with torch.no_grad():
            batch = Batch(
                moments,
                captions,
                [generator_for("fixed", i) for i in range(len(captions))],
                torch.ones(len(captions)),
                torch.zeros(len(captions), 6),
            )
            return float(
                forward(run.family, run.parts, batch, run.config.noise, run.loss).per_sample.mean()
            )

    before = fixed_loss()
    for epoch in range(40):
        for group in run.epoch_inputs(epoch):
            accumulate([run], [group])
            update(run)
    assert fixed_loss() < 0.9 * before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_float32_rows(
    moon_dataset: Path, tmp_path: Path, precision: str
) -> None:
    run, word = trained(
        moon_dataset,
        tmp_path,
        f"--mixed_precision={precision}",
        "--max_train_steps=2",
        "--gradient_checkpointing",
    )
    assert run.dtype == torch.bfloat16  # fp16 is bf16 on a CPU
    assert run.parts.denoiser.dtype == torch.bfloat16
    assert run.parts.rows()[0].dtype == torch.float32
    assert torch.isfinite(rows_of(word)).all()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_lower_linear_layers_change_no_bit(
    family: str, moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = flags(
        moon_dataset,
        tmp_path,
        f"--pretrained_model_name_or_path={MODELS / family}",
        "--mixed_precision=bf16",
        "--cache_latents",
    )
    config = complete(parse("coinage", argv, "test"))[0]
    run, lowered = trained(moon_dataset, tmp_path, config=config)
    sizes = [
        sum(p.numel() * p.element_size() for p in encoder.parameters())
        for encoder in run.parts.text_encoders
    ]
    monkeypatch.setattr("coinage.models.placement.lower_linear_layers", lambda parts, dtype: None)
    run, plain = trained(moon_dataset, tmp_path, config=config)
    assert all(torch.equal(rows, plain.vectors[key]) for key, rows in lowered.vectors.items())
    for encoder, size in zip(run.parts.text_encoders, sizes, strict=True):
        assert size < 0.75 * sum(p.numel() * p.element_size() for p in encoder.parameters())


def test_files_at_steps_epochs_and_end(moon_dataset: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "# a comment\n\nzibu --w 64 --h 64 --s 1 --d 42\na red zibu --w 64 --h 64 --s 1 --n bad --l 2\n"
    )
    options = (
        "--max_train_steps=4",
        "--save_every_n_steps=2",
        f"--sample_prompts={prompts}",
        "--sample_at_first",
    )
    trained(
        moon_dataset,
        tmp_path / "o",
        *options,
        "--sample_every_n_steps=3",
        "--output_name=w",
        f"--logging_dir={tmp_path / 'logs'}",
    )
    names = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert names == [
        "sample",
        "w-log.jsonl",
        "w-report.html",
        "w-step00000002.safetensors",
        "w-step00000004.safetensors",
        "w.safetensors",
    ]
    previews = sorted(p.name for p in (tmp_path / "o" / "sample").iterdir())
    stems = [(p[: p.index("_0", 3) + 3], p.endswith("_42.png")) for p in previews]
    steps = ("000003", "000004", "e000000")  # the last step is drawn whatever the interval
    assert stems == [(f"w_{step}_0{number}", number == 0) for step in steps for number in (0, 1)]
    with safetensors.safe_open(
        tmp_path / "o" / "w-step00000002.safetensors", framework="pt"
    ) as file:
        header = file.metadata()
    assert header["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert (header["ti.step"], header["modelspec.resolution"], header["ti.token_string"]) == (
        "2",
        "64x64",
        "zibu",
    )
    assert header["modelspec.trigger_phrase"] == "w-step00000002"
    (events,) = (tmp_path / "logs").glob("*/textual_inversion")
    data = EventAccumulator(str(events)).Reload()
    assert [e.step for e in data.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.value for e in data.Scalars("lr")] == pytest.approx([5e-3] * 4)


def test_epoch_saves_leave_the_last_epoch_to_the_final_file(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, CONCEPTS["moon"], "zibu", seed=0)
    dataset.write_text(
        dataset.read_text(encoding="utf-8").replace("num_repeats = 10", "num_repeats = 1"),
        encoding="utf-8",
    )
    run, _ = trained(
        dataset,
        tmp_path / "o",
        "--max_train_epochs=3",
        "--save_every_n_epochs=1",
        "--save_model_as=pt",
        "--cache_latents",
    )
    assert (run.total_steps, run.step, run.progress.epoch) == (6, 6, 3)
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "zibu-000001.pt",
        "zibu-000002.pt",
        "zibu-log.jsonl",
        "zibu-report.html",
        "zibu.pt",
    ]


def test_weights_continue_an_earlier_word(moon_dataset: Path, tmp_path: Path) -> None:
    _, word = trained(moon_dataset, tmp_path, "--num_vectors_per_token=2", "--save_model_as=pt")
    again = prepared(
        moon_dataset, tmp_path, "--num_vectors_per_token=2", f"--weights={tmp_path / 'zibu.pt'}"
    )
    assert torch.equal(again.parts.rows()[0].detach(), rows_of(word))
    with pytest.raises(
        CoinageError, match="this file has 2 vectors, but --num_vectors_per_token is 3"
    ):
        prepared(
            moon_dataset, tmp_path, "--num_vectors_per_token=3", f"--weights={tmp_path / 'zibu.pt'}"
        )


def test_weights_are_fitted_as_asked(moon_dataset: Path, tmp_path: Path) -> None:
    _, word = trained(moon_dataset, tmp_path, "--num_vectors_per_token=2", "--max_train_steps=1")
    given, rows = f"--weights={tmp_path / 'zibu.safetensors'}", rows_of(word)
    for count, fit, due in ((1, "truncate", rows[:1]), (5, "repeat", rows[[0, 1, 0, 1, 0]])):
        run = prepared(
            moon_dataset,
            tmp_path / "o",
            given,
            f"--num_vectors_per_token={count}",
            f"--weights_fit={fit}",
        )
        assert torch.equal(run.parts.rows()[0].detach(), due)
        other = "repeat" if fit == "truncate" else "truncate"
        with pytest.raises(CoinageError, match=f"--weights_fit {fit}"):
            prepared(
                moon_dataset,
                tmp_path / "o",
                given,
                f"--num_vectors_per_token={count}",
                f"--weights_fit={other}",
            )


def test_an_update_without_any_gradient_goes_on_in_fp16(moon_dataset: Path, tmp_path: Path) -> None:
    """Such as one of regularisation images whose encodings are kept, or of a process without a batch."""
    run = prepared(moon_dataset, tmp_path)
    run.scaler = torch.amp.GradScaler("cpu", enabled=True)
    before = run.parts.rows()[0].detach().clone()
    accumulate([run], [StepInput([], 4)])
    update(run)
    assert torch.isfinite(run.parts.rows()[0]).all()
    # Only weight decay
    torch.testing.assert_close(run.parts.rows()[0].detach(), before, rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(moon_dataset: Path, tmp_path: Path) -> None:
    def poison(run: Run) -> None:
        with torch.no_grad():
            run.parts.rows()[0].fill_(float("nan"))

    with pytest.raises(TrainingError, match="the loss of step 1 is nan"):
        trained(moon_dataset, tmp_path, change=poison)
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_vocabulary_is_checked_again_once_the_tokenizer_is_there(
    moon_dataset: Path, tmp_path: Path
) -> None:
    parts = prepared(moon_dataset, tmp_path).parts
    with pytest.raises(ConfigError, match="circle is already in the model's vocabulary"):
        install_word(parts, WordConfig(token="circle", init_word="shape"), ["emb_params"])


@pytest.mark.parametrize("extra", [1, -1])
def test_new_ids_follow_the_text_encoders_rows(
    moon_dataset: Path, tmp_path: Path, extra: int
) -> None:
    """A tokenizer may lack tokens that the table has rows for; it may not have more."""
    run = prepared(moon_dataset, tmp_path)
    tokenizer, size = run.parts.tokenizers[0], len(run.parts.embeddings[0].table)

    class Resized:
        def __len__(self) -> int:
            return size + extra

        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer, name)

    run.parts.tokenizers = (Resized(),)  # type: ignore[assignment]
    if extra > 0:
        with pytest.raises(
            CoinageError,
            match=f"the tokenizer has {size + 1} tokens, and the text encoder {size} rows",
        ):
            install_word(run.parts, run.config.word, ["emb_params"])
    else:
        assert install_word(run.parts, run.config.word, ["emb_params"]).first_id == size


def test_a_word_that_is_cut_off_is_told(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, CONCEPTS["moon"], "zibu", seed=0)
    files = sorted((tmp_path / "images").glob("*.txt"))
    files[0].write_text("red " * 80 + "zibu")
    (warning,) = make_plans([config_for(dataset, tmp_path / "out")])[0].warnings
    assert "1 of 8 captions is longer than 75 tokens, and the word zibu is cut off" in warning.what
    assert not make_plans([config_for(dataset, tmp_path / "out", "--max_token_length=150")])[
        0
    ].warnings
    with pytest.raises(ConfigError, match="1 of 8 captions is longer"):
        make_plans([config_for(dataset, tmp_path / "out", "--require_token")])[0]
    for file in files:
        file.write_text("red " * 80 + "zibu")
    files[1].write_text("red")
    with pytest.raises(
        ConfigError, match=r"7 of 8 captions are longer[\s\S]*1 of 8 captions does not contain"
    ):
        make_plans([config_for(dataset, tmp_path / "out")])[0]
    files[1].write_text("red " * 80 + "zibu")
    with pytest.raises(ConfigError, match="8 of 8 captions are longer"):
        make_plans([config_for(dataset, tmp_path / "out")])[0]


def test_a_rate_that_teaches_nothing_is_told(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(moon_dataset, tmp_path, "--learning_rate=1e-6")
    assert "the word can hardly change" in caplog.text
    caplog.clear()
    prepared(moon_dataset, tmp_path, "--learning_rate=1e-2", "--max_train_steps=100")
    assert "hardly" not in caplog.text


def test_a_preview_that_fails_does_not_stop_the_run(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 72 --h 64 --s 2\nzibu --w 64 --h 64 --s 1000 --ss dpmsingle\n")

    class Failing:
        """The run's family, but for its pipeline."""

        def __init__(self, family: ModelFamily) -> None:
            self._family = family

        def __getattr__(self, name: str) -> object:
            return getattr(self._family, name)

        def pipeline(self, *_: object) -> None:
            raise IndexError("from a sampler")

    def broken(run: Run) -> None:
        run.family = Failing(run.family)  # type: ignore[assignment]

    run, _ = trained(
        moon_dataset,
        tmp_path,
        f"--sample_prompts={prompts}",
        "--sample_every_n_steps=2",
        change=broken,
    )
    assert run.step == 3
    assert caplog.text.count("failed; training continues: from a sampler") == 4, (
        "two prompts, at step 2 and at the end"
    )


def test_checkpointing_computes_activations_twice(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so learns the same to the bit."""
    calls: list[str] = []

    def count(run: Run) -> None:
        for block in (
            run.parts.denoiser.up_blocks[-1].resnets[0],
            run.parts.text_encoders[0].get_submodule("encoder.layers.0.mlp"),
        ):
            block.register_forward_pre_hook(lambda module, _: calls.append(type(module).__name__))

    learned, counts = [], []
    for more in ((), ("--gradient_checkpointing",)):
        # Nothing is remembered of an earlier check
        monkeypatch.setenv("COINAGE_CACHE", str(tmp_path / f"cache of {len(counts)}"))
        calls.clear()
        learned.append(rows_of(trained(moon_dataset, tmp_path, *more, change=count)[1]))
        counts.append({name: calls.count(name) for name in set(calls)})
    assert torch.equal(learned[0], learned[1])
    # Three steps; a check of the model with two gradients, and a forward pass without one
    once, twice = 3 + 3, 2 * (3 + 2) + 1
    assert counts == [
        {"ResnetBlock2D": once, "CLIPMLP": once},
        {"ResnetBlock2D": twice, "CLIPMLP": twice},
    ]


def test_the_last_layer_is_the_same_as_none_skipped(moon_dataset: Path, tmp_path: Path) -> None:
    learned = [
        rows_of(trained(moon_dataset, tmp_path, *more)[1]) for more in ((), ("--clip_skip=1",))
    ]
    assert torch.equal(learned[0], learned[1])


def test_another_vae(moon_dataset: Path, tmp_path: Path) -> None:
    import shutil

    from coinage.demo.run import MODEL

    shutil.copytree(MODEL / "vae", tmp_path / "root")
    shutil.copytree(MODEL / "vae", tmp_path / "nested" / "vae")
    for folder in ("root", "nested"):
        run = prepared(
            moon_dataset,
            tmp_path / "out",
            f"--vae={tmp_path / folder}",
            "--mixed_precision=bf16",
            "--no_half_vae",
        )
        assert run.parts.vae.dtype == torch.float32
    with pytest.raises(ConfigError, match="--vae: not found"):
        prepared(moon_dataset, tmp_path / "out", f"--vae={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="--vae: there is no VAE in this folder"):
        prepared(moon_dataset, tmp_path / "out", f"--vae={tmp_path / 'empty'}")
    (tmp_path / "root" / "diffusion_pytorch_model.safetensors").write_text("x")
    with pytest.raises(CoinageError, match="--vae: cannot load a VAE"):
        prepared(moon_dataset, tmp_path / "out", f"--vae={tmp_path / 'root'}")


def test_scheduler_settings_that_are_not_supported(moon_dataset: Path, tmp_path: Path) -> None:
    import json
    import shutil

    from coinage.demo.run import MODEL

    shutil.copytree(MODEL, tmp_path / "model")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "trained_betas": [0.1], "prediction_type": "sample"}))
    with pytest.raises(CoinageError, match=r"trained_betas = \[0.1\], prediction_type = 'sample'"):
        prepared(
            moon_dataset, tmp_path / "out", f"--pretrained_model_name_or_path={tmp_path / 'model'}"
        )


def test_saving_precision_and_ratio(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, CONCEPTS["moon"], "zibu", seed=0)
    dataset.write_text(
        dataset.read_text(encoding="utf-8").replace("num_repeats = 10", "num_repeats = 1"),
        encoding="utf-8",
    )
    options = (
        "--max_train_epochs=4",
        "--save_n_epoch_ratio=2",
        "--save_precision=fp16",
        "--metadata_author=me",
        "--cache_latents",
    )
    trained(dataset, tmp_path / "o", *options)
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "zibu-000002.safetensors",
        "zibu-log.jsonl",
        "zibu-report.html",
        "zibu.safetensors",
    ]
    with safetensors.safe_open(tmp_path / "o" / "zibu.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.author"] == "me"
        assert file.get_tensor("emb_params").dtype == torch.float16


def test_low_precision_reaches_the_frozen_parts_alone(moon_dataset: Path, tmp_path: Path) -> None:
    run, word = trained(moon_dataset, tmp_path / "a", "--mixed_precision=bf16", "--full_bf16")
    assert run.parts.embeddings[0].table.dtype == torch.bfloat16
    assert {
        p.dtype
        for encoder in run.parts.text_encoders
        for p in encoder.parameters()
        if not p.requires_grad
    } == {torch.bfloat16}
    assert {row.dtype for row in run.parts.rows()} == {torch.float32}
    _, plain = trained(moon_dataset, tmp_path / "b", "--mixed_precision=bf16")
    assert torch.nn.functional.cosine_similarity(rows_of(word), rows_of(plain)).min() > 0.98


@pytest.mark.slow
def test_a_unet_in_eight_bits_trains_much_the_same(moon_dataset: Path, tmp_path: Path) -> None:
    given = ("--mixed_precision=bf16", "--max_train_steps=20")
    run, word = trained(
        moon_dataset, tmp_path / "a", *given, "--fp8_base", "--gradient_checkpointing"
    )
    plain_run, plain = trained(moon_dataset, tmp_path / "b", *given)
    sizes = [
        sum(p.numel() * p.dtype.itemsize for p in r.parts.denoiser.parameters())
        for r in (run, plain_run)
    ]
    assert sizes[0] < 0.52 * sizes[1]
    start = rows_of(prepared(moon_dataset, tmp_path / "c", *given).embedding())
    moved, expected = rows_of(word) - start, rows_of(plain) - start
    assert torch.nn.functional.cosine_similarity(moved, expected).min() > 0.99
    assert run.parts.dtype == torch.bfloat16


# torch's compiler looks at it
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_unet_trains_the_same(moon_dataset: Path, tmp_path: Path) -> None:
    _, word = trained(moon_dataset, tmp_path / "a", "--torch_compile", "--dynamo_backend=eager")
    _, plain = trained(moon_dataset, tmp_path / "b")
    torch.testing.assert_close(rows_of(word), rows_of(plain), rtol=0, atol=1e-5)
    config = config_for(
        moon_dataset, tmp_path / "c", "--torch_compile", "--dynamo_backend=nvprims_nvfuser"
    )
    (problem,) = compiler_problems(config)
    assert (
        problem.what == "--dynamo_backend nvprims_nvfuser is not available in this version of torch"
    )


@pytest.mark.parametrize(
    "given",
    [
        ["--full_fp16"],
        ["--full_bf16", "--mixed_precision=fp16"],
        ["--fp8_base"],
        ["--full_fp16", "--full_bf16", "--mixed_precision=bf16"],
    ],
)
def test_precisions_that_do_not_go_together(
    given: list[str], moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--mixed_precision|exclude each other"):
        config_for(moon_dataset, tmp_path, *given)
