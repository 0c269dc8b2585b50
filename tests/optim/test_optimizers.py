"""Every optimizer and schedule by name, with the real packages."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from coinage.cli.parse import parse
from coinage.config import NormMode, OptimConfig
from coinage.errors import ConfigError, Findings
from coinage.optim.factory import averaged, choose_optimizer, make_schedule, steps_of
from coinage.optim.row_lengths import hold_lengths
from coinage.optim.table import (
    OPTIMIZERS,
    find_optimizer,
    optimizer_problems,
    remark_on_optimizer,
    warmup_problems,
)
from coinage.settings.discover import complete
from coinage.settings.idle_flags import notes
from tests.helpers import config_for, flags, rows_of, trained

OTHERS = (
    "SGD",
    "RMSprop",
    "bitsandbytes.optim.AdEMAMix",
    "pytorch_optimizer.CAME",
    "torch.optim.NAdam",
)


@pytest.mark.parametrize("name", [name for name in (*OPTIMIZERS, *OTHERS) if name != "directional"])
def test_every_optimizer_moves_the_rows_downhill(name: str) -> None:
    torch.manual_seed(0)
    rate = 1.0 if "dadapt" in name or name == "prodigy" else 0.01
    config = OptimConfig(name=name, learning_rate=rate, relative_step=name == "adafactor")
    target = torch.randn(4, 16)
    rows = torch.nn.Parameter(torch.zeros(4, 16))
    optimizer = choose_optimizer(config)([rows])
    schedule = make_schedule(config, optimizer, 60)
    for _ in range(60):
        (rows - target).square().mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with averaged(optimizer, [rows]):
        assert (rows - target).square().mean() < target.square().mean()
    assert torch.isfinite(rows).all()


def test_a_schedule_free_optimizer_is_saved_at_its_average_and_trains_on_to_the_bit() -> None:
    rows = torch.nn.Parameter(torch.zeros(2, 8))
    optimizer = choose_optimizer(OptimConfig(name="AdamWScheduleFree", learning_rate=0.1))([rows])
    for step in range(5):
        (rows - 1 - step).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained_at = rows.detach().clone()
    with averaged(optimizer, [rows]):
        saved = rows.detach().clone()
    assert not torch.equal(saved, trained_at)
    assert torch.equal(rows.detach(), trained_at)
    assert optimizer.param_groups[0]["train_mode"]


def test_previews_and_saves_change_nothing_of_a_schedule_free_run(
    moon_dataset: Path, tmp_path: Path
) -> None:
    names = ("--optimizer_type=AdamWScheduleFree", "--learning_rate=0.01", "--max_train_steps=6")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 2\n")
    _, plain = trained(moon_dataset, tmp_path / "a", *names)
    busy = (f"--sample_prompts={prompts}", "--sample_every_n_steps=1", "--save_every_n_steps=1")
    _, watched = trained(moon_dataset, tmp_path / "b", *names, *busy)
    assert torch.equal(rows_of(plain), rows_of(watched))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--optimizer_type=no_such_package.Adam"], "needs the package no_such_package"),
        (["--optimizer_type=Lion", "--use_8bit_adam"], "exclude each other"),
        (["--use_lion_optimizer", "--use_8bit_adam"], "exclude each other"),
        (["--lr_scheduler=adafactor"], "is for --optimizer_type AdaFactor"),
        (["--lr_scheduler=reduce_lr_on_plateau"], "waits for a measure"),
        (
            ["--lr_scheduler_type=CosineAnnealingLR", "--lr_warmup_steps=5"],
            "does nothing with --lr_scheduler_type",
        ),
        (
            ["--optimizer_type=AdaFactor", "--lr_warmup_steps=5", "--lr_scheduler=linear"],
            "has no warm-up",
        ),
    ],
)
def test_wrong_choices_are_told_before_anything_is_loaded(
    given: list[str], message: str, moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        complete(parse("sd", flags(moon_dataset, tmp_path, *given), "test"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinage.optim.class_paths.find_module", lambda _: None)
    (problem,) = optimizer_problems("Prodigy")
    assert "prodigyopt" in problem.what
    assert problem.hint == "pip install prodigyopt"


@pytest.mark.parametrize("name", ["os.path.join", "pathlib.Path", "AdmW", "LBFGS"])
def test_only_optimizers_are_taken(name: str) -> None:
    with pytest.raises(ConfigError, match="is not an optimizer"):
        choose_optimizer(OptimConfig(name=name))


def test_old_spellings(moon_dataset: Path, tmp_path: Path) -> None:
    config, _ = complete(parse("sd", flags(moon_dataset, tmp_path, "--use_lion_optimizer"), "test"))
    assert find_optimizer(config.optim.name).path == "lion_pytorch.Lion"


def test_adafactor_finds_its_own_rate_unless_told(moon_dataset: Path, tmp_path: Path) -> None:
    def optim(*more: str) -> OptimConfig:
        return complete(
            parse("sd", flags(moon_dataset, tmp_path, "--optimizer_type=AdaFactor", *more), "test")
        )[0].optim

    rows = [torch.nn.Parameter(torch.ones(2, 3))]
    own = choose_optimizer(optim())(rows)
    assert own.param_groups[0]["lr"] is None
    fixed = optim(
        "--optimizer_args", "relative_step=False", "scale_parameter=False", "--learning_rate=0.5"
    )
    assert choose_optimizer(fixed)(rows).param_groups[0]["lr"] == 0.5
    assert optim("--optimizer_args", "relative_step=False", "warmup_init=True").relative_step


def test_a_rate_that_is_multiplied_is_told() -> None:
    found = Findings()
    remark_on_optimizer(OptimConfig(name="Prodigy", learning_rate=1e-4), found)
    assert "use --learning_rate 1.0" in found.warnings[0].what


def test_optimizers_by_name() -> None:
    rows = [torch.nn.Parameter(torch.ones(2, 3))]
    for name in ("AdamW", "adamw8bit", "PagedAdamW8bit"):
        assert type(choose_optimizer(OptimConfig(name=name))(rows)) is torch.optim.AdamW
    sgd = choose_optimizer(OptimConfig(name="SGD", arguments=(("momentum", 0.5),)))(rows)
    assert sgd.param_groups[0]["momentum"] == 0.5
    with pytest.raises(ConfigError, match=r"did you mean `AdamW"):
        choose_optimizer(OptimConfig(name="AdmW"))(rows)
    with pytest.raises(ConfigError, match="do not fit SGD"):
        choose_optimizer(OptimConfig(name="SGD", arguments=(("betas", 1),)))(rows)


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant_with_warmup", 0.5, [0, 0.5, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0, [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
        ("cosine_with_restarts", 0, [1, 0.5, 1, 0.5]),
        ("polynomial", 0, [1, 0.5625, 0.25, 0.0625]),
        (
            "cosine_with_min_lr",
            0,
            [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 2 * i / 4)) for i in range(4)],
        ),
        ("inverse_sqrt", 1, [0, 1, 1 / math.sqrt(1.5), 1 / math.sqrt(2)]),
        ("warmup_stable_decay", 1, [0.1, 1, 1, 0.1 + 0.9 * 0.5 * (1 + math.cos(0))]),
    ],
)
def test_learning_rate_schedules(name: str, warmup: float, expected: list[float]) -> None:
    config = OptimConfig(
        schedule=name,
        warmup=warmup,
        learning_rate=1.0,
        cycles=2,
        power=2,
        timescale=2,
        min_rate=0.1,
        decay=1,
    )
    optimizer = choose_optimizer(config)([torch.nn.Parameter(torch.ones(1))])
    schedule = make_schedule(config, optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected, abs=1e-6)
    assert [steps_of(w, 200) for w in (0, 10, 0.1)] == [0, 10, 20]


def test_schedules_by_class_and_by_rules() -> None:
    def rates(config: OptimConfig) -> list[float]:
        optimizer = choose_optimizer(config)([torch.nn.Parameter(torch.ones(1))])
        schedule = make_schedule(config, optimizer, 4)
        found = []
        for _ in range(4):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    rules = OptimConfig(
        learning_rate=1.0,
        schedule="piecewise_constant",
        schedule_arguments=(("step_rules", "1:1,0.5:3,0.1"),),
    )
    assert rates(rules) == pytest.approx([1, 0.5, 0.5, 0.1])
    own = OptimConfig(
        learning_rate=1.0,
        schedule_class="StepLR",
        schedule_arguments=(("step_size", 2), ("gamma", 0.5)),
    )
    assert rates(own) == pytest.approx([1, 1, 0.5, 0.5])
    dotted = OptimConfig(
        learning_rate=1.0,
        schedule_class="torch.optim.lr_scheduler.ExponentialLR",
        schedule_arguments=(("gamma", 0.1),),
    )
    assert rates(dotted) == pytest.approx([1, 0.1, 0.01, 0.001])
    with pytest.raises(
        ConfigError, match="--lr_scheduler_type NoSuchLR is not a learning-rate schedule"
    ):
        rates(OptimConfig(schedule_class="NoSuchLR"))
    for wrong in (
        OptimConfig(schedule_class="StepLR"),
        OptimConfig(schedule="cosine", schedule_arguments=(("colour", 1),)),
        OptimConfig(schedule="piecewise_constant"),
    ):
        with pytest.raises(ConfigError, match="--lr_scheduler_args do not fit"):
            rates(wrong)


@pytest.mark.parametrize(("name", "wrong"), [("DAdaptSGD", True), ("DAdaptAdam", False)])
def test_an_optimizer_that_cannot_begin_at_rate_0_has_no_warm_up(name: str, wrong: bool) -> None:
    found = [problem.what for problem in warmup_problems(name, 0.1)]
    assert found == (["--lr_warmup_steps: DAdaptSGD cannot begin at a rate of 0"] if wrong else [])
    assert not warmup_problems(name, 0)


def test_it_is_told_before_the_model_is_loaded(moon_dataset: Path, tmp_path: Path) -> None:
    given = ("--optimizer_type=DAdaptSGD", "--lr_scheduler=linear", "--lr_warmup_steps=2")
    with pytest.raises(ConfigError, match="cannot begin at a rate of 0"):
        config_for(moon_dataset, tmp_path, *given)


def test_lengths_are_held_and_directions_stay() -> None:
    start = [torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])]
    grown = torch.tensor([[0.0, 20.0], [0.0, 0.1], [1.0, 0.0]])
    lengths = {"none": [20.0, 0.1, 1.0], "clip": [8.0, 0.1, 0.0], "target": [5.0, 0.5, 0.0]}
    for mode in get_args(NormMode):
        rows = grown.clone()
        hold_lengths([rows], start, mode)
        assert rows.norm(dim=1).tolist() == pytest.approx(lengths[mode])
        assert torch.equal(rows[:2, 0], torch.zeros(2)), "the first two point as before"


@pytest.mark.parametrize(("mode", "most"), [("clip", 1.6), ("target", 1.0)])
def test_a_run_holds_lengths_and_goes_on_to_the_bit(
    mode: str, most: float, moon_dataset: Path, tmp_path: Path
) -> None:
    given = (
        f"--norm_mode={mode}",
        "--learning_rate=0.1",
        "--max_train_steps=12",
        "--save_every_n_steps=6",
        "--save_state",
    )
    run, word = trained(moon_dataset, tmp_path / "a", *given)
    length = rows_of(word).norm() / run.start[0].norm()
    assert length == pytest.approx(most, rel=1e-4)
    _, plain = trained(moon_dataset, tmp_path / "b", "--learning_rate=0.1", "--max_train_steps=12")
    assert rows_of(plain).norm() > 2 * rows_of(word).norm()
    _, again = trained(
        moon_dataset,
        tmp_path / "a",
        *given,
        f"--resume={tmp_path / 'a' / 'zibu-step00000006-state'}",
    )
    assert torch.equal(rows_of(again), rows_of(word))


def test_lengths_are_not_held_where_that_is_the_optimizers_own_affair(
    moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--norm_mode clip cannot be used with AdamWScheduleFree"):
        config_for(moon_dataset, tmp_path, "--optimizer_type=AdamWScheduleFree", "--norm_mode=clip")
    told = notes(
        parse(
            "sd",
            flags(moon_dataset, tmp_path, "--optimizer_type=Directional", "--norm_mode=clip"),
            "test",
        )
    )
    assert told == ["--norm_mode has no effect: Directional keeps the lengths anyway"]
