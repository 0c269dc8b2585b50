"""Settings that are tried side by side, and the run that is made with the best."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import TrainConfig, WordConfig
from coinage.data import latents
from coinage.data.images import View
from coinage.embeddings.reading import read
from coinage.errors import ConfigError
from coinage.report.page import read_report
from coinage.runs.choice import choice_of
from coinage.settings.discover import complete
from coinage.settings.idle_flags import notes
from coinage.training.evaluation import evaluation_set
from coinage.training.gradients import accumulate
from coinage.training.loop import train, train_together
from coinage.training.run import Run
from coinage.training.search import autopilot
from coinage.training.search.autopilot import (
    AS_CONFIGURED,
    TrialSettings,
    candidates,
    choose,
    cost,
    halved,
    on_trial,
    renamed,
    rounds,
    with_the_best,
)
from coinage.training.setup import prepare_all, prepare_on
from coinage.training.updates import update
from tests.helpers import TAUGHT, config_for, flags, prepared, rows_of

Patch = pytest.MonkeyPatch
STARTS = [("circle", 0.3, 0.1), ("", 0.4, 0.2), ("red", 0.5, 0.3), ("dog", 0.6, 0.4)]


# Rounds of two steps
SHORT = TrialSettings(least_round_steps=2, draws=4)


@pytest.fixture
def another(monkeypatch: Patch) -> None:
    """Have one setting tried beside a run that learns nothing: it differs in all that may differ."""

    def variants(config: TrainConfig, *_: object, **__: object) -> Iterator[TrainConfig]:
        word = replace(config.word, num_vectors=2, init_word="shape")
        other = replace(
            config,
            word=word,
            optim=replace(config.optim, learning_rate=1e-2),
            loop=replace(config.loop, seed=7),
        )
        yield replace(other, loop=replace(other.loop, chosen="another"))

    monkeypatch.setattr(autopilot, "variants", variants)


BAD = (
    TAUGHT,
    "--learning_rate=1e-9",
    "--init_word=circle",
    "--max_train_steps=6",
    "--sample_every_n_steps=0",
)
WINNER = (
    TAUGHT,
    "--learning_rate=1e-2",
    "--max_train_steps=6",
    "--seed=7",
    "--num_vectors_per_token=2",
    "--init_word=shape",
)


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_candidates_are_those_that_promise_most(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path, "--init_word=auto", "--learning_rate=0.5")
    config = replace(config, word=replace(config.word, init_word="circle"))
    found = candidates(config, STARTS, 9)
    names = [one.loop.chosen for one in found]
    assert names[:4] == [AS_CONFIGURED, "init word red", "learning rate 2", "learning rate 0.125"]
    assert [name.split()[0] for name in names[4:7]] == ["seed"] * 3
    assert names[7:] == ["2 vectors", "init word dog"]
    assert len({one.loop.seed for one in found}) == 4
    assert [one.word.num_vectors for one in found] == [1, 1, 1, 1, 1, 1, 1, 2, 1]
    for name, one in zip(names, found, strict=True):
        plain = replace(one, word=config.word, optim=config.optim, loop=config.loop)
        assert plain == config, name
    assert [one.loop.chosen for one in candidates(config, STARTS, 8, ["zibu1"])][
        7
    ] == "init word dog"
    turning = config_for(
        moon_dataset, tmp_path, "--optimizer_type=Directional", "--learning_rate=0.5"
    )
    assert not any("rate" in one.loop.chosen for one in candidates(turning, STARTS, 9)), (
        "its rate is an angle that fits every model"
    )
    told = notes(
        parse(
            "sd",
            flags(moon_dataset, tmp_path, "--optimizer_type=Directional", "--autopilot=4"),
            "test",
        )
    )
    assert told == ["--autopilot does not help with Directional; use it with other optimizers"]


def test_candidates_of_a_file_or_without_a_rate_are_fewer_kinds(
    moon_dataset: Path, tmp_path: Path
) -> None:
    config = config_for(moon_dataset, tmp_path, "--learning_rate=0")
    of_file = replace(config, word=replace(config.word, init_file=Path("word.pt")))
    assert [one.loop.chosen.split()[0] for one in candidates(of_file, STARTS, 4)] == [
        "as",
        "seed",
        "seed",
        "seed",
    ]
    repeated = replace(of_file, word=replace(of_file.word, init_fit="repeat"))
    assert candidates(repeated, STARTS, 5)[4].loop.chosen == "2 vectors"
    many = replace(config, word=replace(config.word, num_vectors=19))
    assert candidates(many, [], 5)[4].loop.chosen.startswith("seed")


def test_rounds_halve_and_are_a_tenth_of_the_run_at_most() -> None:
    assert rounds(4, 1600) == [(4, 80), (2, 80)]
    assert rounds(8, 1600) == [(8, 53), (4, 53), (2, 53)]
    assert rounds(5, 1600) == [(5, 53), (3, 53), (2, 53)]
    assert rounds(2, 300) == [(2, 20)]
    assert rounds(8, 4) == [(8, 1), (4, 1), (2, 1)]
    assert cost(4, 1600, 4) == pytest.approx((4 + 2) * (80 + 4) / 1600)


def test_only_the_whole_word_is_renamed(moon_dataset: Path, tmp_path: Path) -> None:
    sample = make_plans([config_for(moon_dataset, tmp_path)])[0].samples[0]
    rules = replace(sample.subset.captions, prefix="my zibu", suffix=None)
    sample = replace(
        sample,
        caption="zibu zibu1 on zibus, zibu2 Zibu",
        subset=replace(sample.subset, captions=rules, class_tokens="zibu"),
    )
    (one,) = renamed([sample], WordConfig(token="zibu", num_vectors=2), "<a>")
    assert one.caption == "<a> <a>1 on zibus, zibu2 Zibu"
    assert (one.subset.captions.prefix, one.subset.captions.suffix, one.subset.class_tokens) == (
        "my <a>",
        None,
        "<a>",
    )


def test_candidates_learn_and_are_measured_as_if_alone(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path, "--cache_latents", "--max_train_steps=6")
    run.latents.cache(4, lambda _: None)
    tried = halved(on_trial(run, candidates(run.config, [], 3), [], SHORT), SHORT)
    assert sorted(one.run.step for one in tried) == [2, 4, 4]
    assert tried[2].run.step == 2, "dropped first"
    winner = tried[0].run
    alone = prepared(moon_dataset, tmp_path, "--cache_latents")
    (alone,) = with_settings(alone, winner.config)
    for _, step_input in zip(range(winner.step), alone.step_inputs(), strict=False):
        accumulate([alone], [step_input])
        update(alone)
    torch.testing.assert_close(winner.rows_to_save(), alone.rows_to_save(), rtol=0, atol=1e-5)


def with_settings(run: Run, config: TrainConfig) -> list[Run]:
    config = replace(
        config, word=replace(config.word, token="zibu"), loop=replace(config.loop, max_steps=6)
    )
    return prepare_on(run.parts, run.dtype, [config], [run.samples], run.processes, [run.latents])


def test_more_draws_can_be_measured(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path)
    batches = evaluation_set(run, 32)
    timesteps = torch.cat([batch.timesteps for batch in batches if batch.timesteps is not None])
    assert len(timesteps) == len(set(timesteps.tolist())) == 32
    run.samples = [replace(sample, held_out=i < 2) for i, sample in enumerate(run.samples)]
    assert [len(batch.captions) for batch in evaluation_set(run, 6)] == [3, 3]


@pytest.mark.usefixtures("another")
@pytest.mark.parametrize("cached", [("--cache_latents",), pytest.param((), marks=pytest.mark.slow)])
def test_the_run_is_that_of_the_winners_settings_to_the_bit(
    cached: Sequence[str],
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded = [0]
    plain_encode = latents.encode

    def counting(
        vae: object, views: Sequence[View], paths: Sequence[object]
    ) -> list[latents.Latent]:
        encoded[0] += len(views)
        return plain_encode(vae, views, paths)  # type: ignore[arg-type]

    monkeypatch.setattr(latents, "encode", counting)
    assert (
        train_command(
            "sd",
            flags(moon_dataset, tmp_path / "plain", *WINNER, "--sample_every_n_steps=0", *cached),
        )
        == 0
    )
    alone, encoded[0] = encoded[0], 0
    assert (
        train_command("sd", flags(moon_dataset, tmp_path / "best", *BAD, "--autopilot=2", *cached))
        == 0
    )
    images = len(make_plans([config_for(moon_dataset, tmp_path)])[0].samples)
    assert encoded[0] == alone + (0 if cached else images), "once for all candidates"
    found, plain = (tmp_path / name / "zibu.safetensors" for name in ("best", "plain"))
    assert torch.equal(rows_of(read(found)), rows_of(read(plain)))
    assert header_of(found)["ti.autopilot"] == "another"
    assert "ti.autopilot" not in header_of(plain)
    assert "tried   another 0." in capsys.readouterr().err
    choice = json.loads((tmp_path / "best" / "zibu-autopilot.json").read_text())
    assert [name for name, _ in choice["ranking"]] == ["another", AS_CONFIGURED]
    page = tmp_path / "best" / "zibu-report.html"
    assert read_report(page).tried == [tuple(entry) for entry in choice["ranking"]]
    assert f"another {choice['ranking'][0][1]:.4f}, {AS_CONFIGURED} 0." in page.read_text(
        encoding="utf-8"
    )


@pytest.mark.usefixtures("another")
def test_a_run_that_goes_on_is_not_searched_again(
    moon_dataset: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = [
        *flags(
            moon_dataset,
            tmp_path,
            *BAD,
            "--autopilot=2",
            "--cache_latents",
            "--save_state",
            "--save_every_n_steps=3",
        )
    ]
    assert train_command("sd", [*half, "--resume=latest"]) == 0
    whole = rows_of(read(tmp_path / "zibu.safetensors"))
    monkeypatch.setattr(autopilot, "choose", lambda *_: pytest.fail("it is searched again"))
    state = tmp_path / "zibu-step00000003-state"
    capsys.readouterr()
    assert train_command("sd", [*half, f"--resume={state}"]) == 0
    told = capsys.readouterr().err
    assert "warning: --resume" not in told
    assert "2 vectors from shape" in told
    assert [name for name, _ in read_report(tmp_path / "zibu-report.html").tried] == [
        "another",
        AS_CONFIGURED,
    ]
    assert torch.equal(rows_of(read(tmp_path / "zibu.safetensors")), whole)
    assert header_of(tmp_path / "zibu.safetensors")["ti.autopilot"] == "another"
    kept = tmp_path / "zibu-autopilot.json"
    kept.write_text("{}")
    assert train_command("sd", [*half, f"--resume={state}"]) == 2
    assert "the choice cannot be read" in capsys.readouterr().err
    kept.unlink()
    assert train_command("sd", [*half, "--resume=latest"]) == 2
    assert "zibu-autopilot.json, which holds the choice, is not there" in capsys.readouterr().err


def test_settings_that_cannot_learn_lose(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(
        moon_dataset,
        tmp_path,
        TAUGHT,
        "--cache_latents",
        "--max_train_steps=200",
        "--learning_rate=1e-2",
    )
    run.latents.cache(4, lambda _: None)
    still = replace(run.config, optim=replace(run.config.optim, learning_rate=0.0))
    first, last = halved(on_trial(run, [still, run.config], []))
    assert (first.run.config.optim.learning_rate, last.run.config.optim.learning_rate) == (1e-2, 0)
    assert first.loss < last.loss


def test_settings_that_diverge_have_lost_and_leave_the_others_alone(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT, "--cache_latents", "--max_train_steps=40")
    run.latents.cache(4, lambda _: None)
    good = replace(run.config, loop=replace(run.config.loop, chosen="good"))
    wild = replace(
        good,
        optim=replace(good.optim, name="SGD", learning_rate=1e38, max_grad_norm=0),
        loop=replace(good.loop, chosen="wild"),
    )
    first, last = halved(on_trial(run, [wild, good], [], SHORT), SHORT)
    assert (first.name, last.name) == ("good", "wild")
    assert math.isinf(last.loss)
    alone = halved(on_trial(run, [good, good], [], SHORT), SHORT)
    torch.testing.assert_close(
        first.run.rows_to_save(), alone[0].run.rows_to_save(), rtol=0, atol=1e-5
    )


@pytest.mark.usefixtures("another")
def test_each_word_has_settings_of_its_own_beside_the_others(
    moon_dataset: Path, tmp_path: Path
) -> None:
    one = config_for(moon_dataset, tmp_path, *BAD, "--autopilot=2", "--cache_latents")
    two = replace(
        one,
        word=replace(one.word, token="wopo", output_name="wopo"),
        loop=replace(one.loop, autopilot=None),
    )
    samples = make_plans([one])[0].samples
    both = [
        samples,
        [
            replace(sample, caption=sample.caption.replace("zibu", "wopo") + " beside a zibu")
            for sample in samples
        ],
    ]
    runs = with_the_best(prepare_all([one, two], both, torch.device("cpu"), [None, None]), SHORT)
    assert [run.config.loop.chosen for run in runs] == ["another", ""]
    assert [len(run.rows[0]) for run in runs] == [2, 1]
    assert [word.token for word in train_together(runs, [[], []])] == ["zibu", "wopo"]
    assert not (tmp_path / "wopo-autopilot.json").exists()
    assert with_the_best(runs) == runs, "once"


def test_held_out_images_stay_those_of_the_given_seed(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path, "--validation_split=0.3")
    other = replace(config, loop=replace(config.loop, seed=11, chosen="seed 11"))
    chosen = choice_of(other, config.loop.seed, []).applied(config)
    assert chosen.loop.seed == 11
    assert [s.held_out for s in make_plans([chosen])[0].samples] == [
        s.held_out for s in make_plans([config])[0].samples
    ]


@pytest.mark.usefixtures("another")
def test_choosing_tells_the_word_where_there_are_others(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(moon_dataset, tmp_path, *BAD, "--autopilot=2", "--cache_latents")
    caplog.set_level("INFO", logger="coinage")
    config = choose(run, [WordConfig(token="wopo", init_word="dog")], SHORT)
    assert config.word.token == "zibu"
    assert any(text.startswith("zibu: another 0.") for text in caplog.messages)
    (made,) = prepare_on(
        run.parts, run.dtype, [config], [run.samples], run.processes, [run.latents]
    )
    assert train(made, []).num_vectors == 2


def test_a_dry_run_tells_what_it_would_cost(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train_command(
            "sd",
            flags(moon_dataset, tmp_path, "--max_train_steps=1600", "--autopilot=4", "--dry_run"),
        )
        == 0
    )
    assert (
        "4 settings would be tried before the first step, which adds 32 % to the work of the run"
        in capsys.readouterr().err
    )


def test_one_is_no_choice(moon_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--autopilot 1 must be at least 2"):
        complete(parse("sd", flags(moon_dataset, tmp_path, "--autopilot=1"), "test"))
