"""`--train_encoders`: one of SDXL's halves learns, and the other one stays as it starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.cli.words import build_words
from coinage.config import TrainConfig
from coinage.embeddings.inspection import inspect_file, read_model
from coinage.embeddings.reading import open_file
from coinage.embeddings.word import Word, load_word
from coinage.errors import ConfigError
from coinage.models.facts import FACTS
from coinage.report.measures import mean_angles
from coinage.report.record import Record, Row
from coinage.settings.discover import complete
from coinage.training.processes import ALONE
from coinage.training.run import Run
from coinage.training.search.init_word import THOROUGH, Search
from coinage.training.session import train_plans
from coinage.training.setup import prepare
from tests.helpers import flags, trained

KEYS = ("clip_l", "clip_g")
OTHER = {"l": "clip_g", "g": "clip_l"}


def config_of(
    models: Path, dataset: Path, out: Path, *more: str, family: str = "sdxl"
) -> TrainConfig:
    given = [
        *flags(dataset, out),
        f"--pretrained_model_name_or_path={models / family}",
        "--mixed_precision=no",
        *more,
    ]
    return complete(parse("sdxl" if family == "sdxl" else "sd", given, "test"))[0]


def learned(models: Path, dataset: Path, out: Path, *more: str) -> tuple[Run, Word]:
    return trained(dataset, out, config=config_of(models, dataset, out, *more))


@pytest.mark.parametrize(
    ("family", "choice", "learns"),
    [
        ("sdxl", "both", (True, True)),
        ("sdxl", "l", (True, False)),
        ("sdxl", "g", (False, True)),
        ("sd1", "l", (True,)),
        ("sd2", "both", (True,)),
    ],
)
def test_where_a_word_learns(family: str, choice: str, learns: tuple[bool, ...]) -> None:
    assert FACTS[family].learns_in(choice) == learns


@pytest.mark.parametrize(("choice", "steps"), [("l", 2), ("g", 21)])
def test_one_half_learns_and_the_other_stays_as_it_starts(
    choice: str,
    steps: int,
    models: Path,
    moon_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For so many steps that the first look at them would complain, with lengths held and measured."""
    run, word = learned(
        models,
        moon_dataset,
        tmp_path,
        f"--train_encoders={choice}",
        f"--max_train_steps={steps}",
        "--norm_mode=target",
        "--validation_split=0.2",
        "--save_precision=float",
    )
    for key, row, start in zip(KEYS, run.rows, run.start, strict=True):
        assert torch.equal(row.detach(), start) == (key == OTHER[choice])
        assert row.requires_grad == (key != OTHER[choice])
    assert len(run.optimizer.state) == 1
    assert "no gradient" not in caplog.text
    assert not any("vector" in record.message for record in caplog.records if record.levelno >= 30)
    file = load_word(run.config.output_file)
    assert list(file.vectors) == list(word.vectors) == list(KEYS)
    assert file.metadata["ti.trained_encoders"] == f"clip_{choice}"
    angles = [m.angle for m in run.results.measurements.values()]
    last = run.last.angles
    assert angles[-1] == pytest.approx(max(last), rel=1e-6)
    assert min(last) < 1e-3


def test_a_half_alone_takes_the_step_that_it_takes_first_beside_the_other(
    models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    """Without clipping, which is by the length of both, AdamW's first step is the same."""
    more = ("--max_train_steps=1", "--max_grad_norm=0")
    _, both = learned(models, moon_dataset, tmp_path / "both", *more)
    for choice in OTHER:
        run, word = learned(
            models, moon_dataset, tmp_path / choice, *more, f"--train_encoders={choice}"
        )
        key = f"clip_{choice}"
        assert torch.equal(word.vectors[key], both.vectors[key])
        assert not torch.equal(word.vectors[OTHER[choice]], both.vectors[OTHER[choice]])
        assert run.last.grad_norm > 0


def test_inspect_does_not_call_the_half_that_stays_untaught(
    models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    run, _ = learned(models, moon_dataset, tmp_path, "--train_encoders=l")
    path = run.config.output_file
    compared = read_model(str(models / "sdxl"))
    assert not inspect_file(path, open_file(path), compared)["warnings"]
    word = load_word(path)
    bare = Word(word.vectors, word.token)
    (warning,) = bare.inspect(models / "sdxl")["warnings"]
    assert warning.startswith("clip_g, vector 1: is the word 'shape' itself")


@pytest.mark.parametrize("optimizer", ["AdamW", "Directional"])
def test_a_resumed_run_ends_with_the_same_bytes(
    optimizer: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    more = ("--train_encoders=g", f"--optimizer_type={optimizer}", "--save_every_n_steps=2")
    whole, _ = learned(models, moon_dataset, tmp_path / "a", *more, "--max_train_steps=4")
    learned(models, moon_dataset, tmp_path / "b", *more, "--max_train_steps=2", "--save_state")
    resumed, config = ("--resume=latest", "--max_train_steps=4"), None
    config = config_of(models, moon_dataset, tmp_path / "b", *more, *resumed)
    (plan,) = make_plans([config])
    assert plan.state is not None
    (ended,) = train_plans([plan], ALONE, torch.device("cpu"))
    for a, b in zip(whole.rows, ended.run.rows, strict=True):
        assert torch.equal(a, b)
    for other in ("both", "l"):
        changed = config_of(
            models, moon_dataset, tmp_path / "b", *more, *resumed, f"--train_encoders={other}"
        )
        with pytest.raises(ConfigError, match="train_encoders was 'g' and is"):
            make_plans([changed])


def test_an_older_state_is_of_both(models: Path, moon_dataset: Path, tmp_path: Path) -> None:
    more = ("--max_train_steps=2", "--save_state")
    learned(models, moon_dataset, tmp_path, *more)
    resumed = (*more, "--resume=latest")
    make_plans([config_of(models, moon_dataset, tmp_path, *resumed)])
    with pytest.raises(ConfigError, match="train_encoders was 'both' and is 'l'"):
        make_plans([config_of(models, moon_dataset, tmp_path, *resumed, "--train_encoders=l")])


def test_each_of_several_words_has_its_own_choice(
    models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    tables = "".join(
        f'[[words]]\ntoken_string = "{token}"\ntrain_encoders = "{choice}"\n'
        f'dataset_config = "{moon_dataset.as_posix()}"\n'
        f'caption_templates = "{(tmp_path / "templates.txt").as_posix()}"\n'
        for token, choice in (("zibu", "l"), ("wug", "g"), ("dax", "both"))
    )
    (tmp_path / "templates.txt").write_text("a photo of {}")
    (file := tmp_path / "run.toml").write_text(tables)
    given = [
        f"--config_file={file}",
        f"--pretrained_model_name_or_path={models / 'sdxl'}",
        f"--output_dir={tmp_path / 'out'}",
        "--init_word=shape",
        "--max_train_steps=2",
        "--mixed_precision=no",
        "--learning_rate=5e-3",
        "--seed=0",
    ]
    configs, labels = build_words(parse("sdxl", given, "test"))
    done = train_plans(make_plans(configs, labels), ALONE, torch.device("cpu"))
    assert done[0].run.word_count == 3
    for one, stays in zip(done, ("clip_g", "clip_l", ""), strict=True):
        for key, start in zip(KEYS, one.run.start, strict=True):
            assert torch.equal(one.word.vectors[key], start) == (key == stays)


def test_a_search_for_the_init_word_turns_the_half_that_learns(
    models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    config = config_of(models, moon_dataset, tmp_path, "--init_word=auto", "--train_encoders=g")
    run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
    search = Search(run, replace(THOROUGH, draws=1, steps=1, step_draws=1))
    starts = [search.rows("shape")]
    ((still, turned),) = search._learned(starts)
    torch.testing.assert_close(still, starts[0][0])
    assert (turned - starts[0][1]).norm() > 0.01 * turned.norm()
    run.begin_from("circle", [])
    assert torch.equal(run.rows[0], search.rows("circle")[0])
    assert run.trained_rows == run.rows[1:]


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_model_with_one_encoder_has_no_choice(
    family: str, models: Path, moon_dataset: Path, tmp_path: Path
) -> None:
    v2 = ["--v2"] if family == "sd2" else []
    config = config_of(models, moon_dataset, tmp_path, "--train_encoders=l", *v2, family=family)
    (plan,) = make_plans([config])
    told = f"--train_encoders l: {FACTS[family].display_name} has one text encoder"
    assert [note for note in plan.notes if told in note] == [
        f"{told}, in which the word learns anyway"
    ]
    run = prepare(config, plan.samples, torch.device("cpu"))
    assert run.trained_rows == run.rows
    config = config_of(models, moon_dataset, tmp_path, "--train_encoders=g", *v2, family=family)
    with pytest.raises(ConfigError, match=r"--train_encoders g: .* has one text encoder") as raised:
        make_plans([config])
    assert len(raised.value.problems) == 1


def test_the_reports_mean_angle_is_of_what_learns() -> None:
    record = Record(rows=[Row(key="clip_l", number=1), Row(key="clip_g", number=1, learns=False)])
    record.curves.angles = [[10.0, 0.0], [20.0, 0.0], [None, 0.0]]
    assert mean_angles(record) == [10.0, 20.0, None]
