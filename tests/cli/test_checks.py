"""What can be known to be wrong before a model is loaded: each kind as a table of inputs."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file

from coinage.checks import Plan, make_plans
from coinage.checks.compiler import compiler_problems
from coinage.checks.model import settings_problems, vae_problems
from coinage.checks.optimizer_trial import optimizer_trial
from coinage.checks.word import tokenizer_of
from coinage.checks.word_file import weights_problems
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import ModelConfig, OptimConfig, WordConfig
from coinage.demo.run import MODEL
from coinage.demo.worlds import MODELS
from coinage.errors import ConfigError, Findings, Problem
from coinage.optim.class_paths import find_module, import_problems, names_in
from coinage.runs.names import endings, length_problems, sign_problem
from coinage.settings.discover import complete
from coinage.settings.flags import BY_DEST, FLAGS
from coinage.settings.pairs import read_pairs
from coinage.settings.ranges import RANGES, sound_values
from coinage.text.init_words import check_init_word
from tests.helpers import TAUGHT, captured, config_for, flags

NUMBERS = [flag for flag in FLAGS if flag.kind in ("int", "float", "ratio") and not flag.choices]


def refused(dataset: Path, out: Path, *more: str) -> list[Problem]:
    """What is wrong with a command, known from its flags."""
    with pytest.raises(ConfigError) as caught:
        config_for(dataset, out, *more)
    return list(caught.value.problems)


def test_every_number_has_a_range_and_its_default_lies_in_it() -> None:
    assert {flag.dest for flag in NUMBERS} == set(RANGES)
    assert all(flag.default is None or flag.default in RANGES[flag.dest] for flag in NUMBERS)


@pytest.mark.parametrize("name", RANGES)
def test_a_number_beyond_its_range_is_told_once_and_replaced(name: str) -> None:
    allowed, default = RANGES[name], BY_DEST[name].default
    args = parse("sd", [], "test")
    for value in (allowed.least, allowed.most):
        setattr(args, name, value if not allowed.above or value != allowed.least else allowed.most)
        assert sound_values(args)[1] == []
    whole = BY_DEST[name].kind == "int"
    wrong = (
        [allowed.least - 1, allowed.most + 1]
        if whole
        else [allowed.least - 1e-3, allowed.most * 2 + 1]
    )
    wrong += [] if whole else [float("nan"), float("inf"), float("-inf")]
    wrong += [allowed.least] if allowed.above else []
    for value in wrong:
        setattr(args, name, value)
        sound, problems = sound_values(args)
        assert [problem.what.split()[:2] for problem in problems] == [[f"--{name}", str(value)]]
        assert getattr(sound, name) == default


@pytest.mark.parametrize(
    "given",
    [
        "--save_last_n_steps_state=-1", "--save_last_n_epochs_state=0", "--noise_offset=nan",
        "--noise_offset=inf",
        "--ip_noise_gamma=1e300", "--adaptive_noise_scale=nan", "--min_snr_gamma=nan",
        "--min_snr_gamma=1e39", "--huber_scale=inf",
        "--v_pred_like_loss=nan", "--learning_rate=inf", "--max_grad_norm=nan",
        "--lr_scheduler_power=nan", "--lr_scheduler_power=-1",
        "--lr_scheduler_min_lr_ratio=1e400", "--lr_scheduler_min_lr_ratio=-1", "--lr_scheduler_num_cycles=0",
        "--lr_scheduler_num_cycles=1180591620717411303424", "--lr_scheduler_timescale=0",
        "--prior_loss_weight=nan", "--seed=-2",
        "--seed=9223372036854775808", "--ddp_timeout=-1", "--ddp_timeout=1180591620717411303424",
        "--max_data_loader_n_workers=99999999999", "--autopilot=9223372036854775808",
        "--autopilot=1", "--token_warmup_step=nan",
        "--min_bucket_reso=-5", "--validation_split=nan",
    ],
)  # fmt: skip
def test_nonsense_is_one_error_that_names_the_flag(
    given: str, moon_dataset: Path, tmp_path: Path
) -> None:
    (problem,) = refused(moon_dataset, tmp_path, given)
    assert problem.what.startswith(given.split("=", maxsplit=1)[0])


def test_a_seed_of_minus_one_is_drawn_and_told(moon_dataset: Path, tmp_path: Path) -> None:
    config, found = complete(parse("sd", flags(moon_dataset, tmp_path, "--seed=-1"), "test"))
    other, _ = complete(parse("sd", flags(moon_dataset, tmp_path, "--seed=-1"), "test"))
    assert config.loop.seed != other.loop.seed
    assert min(config.loop.seed, other.loop.seed) >= 0
    assert found.notes == ["--seed -1: a seed is drawn, as AUTOMATIC1111 does"]


ODD = "x\udcff"  # bytes that are not UTF-8, as Python hands them over


@pytest.mark.parametrize(
    "flag",
    ["caption_prefix", "caption_suffix", "init_word", "output_name", "output_dir", "token_string"],
)
def test_bytes_that_are_no_text(flag: str, moon_dataset: Path, tmp_path: Path) -> None:
    problems = refused(moon_dataset, tmp_path, f"--{flag}={ODD}")
    assert [problem.what for problem in problems] == [rf"--{flag} x\udcff is not text in UTF-8"]


@pytest.mark.parametrize("flag", [flag.dest for flag in FLAGS if flag.path and not flag.sdxl_only])
@pytest.mark.parametrize("script", ["sd", "coinage"])
def test_a_name_that_no_file_can_have_is_not_found(
    flag: str, script: str, moon_dataset: Path, tmp_path: Path
) -> None:
    given = [
        word
        for word in flags(moon_dataset, tmp_path)
        if not word.startswith("--dataset_config" if flag == "train_data_dir" else "-x")
    ]
    for value, why in (("a" * 300, "the path is too long"), ("a\0b", "the path holds a tab")):
        with pytest.raises(ConfigError) as caught:
            complete(parse(script, [*given, f"--{flag}={value}"], "test"))
        assert f"--{flag}: {why}" in str(caught.value)


PAIRS: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "one each": (
        ["weight_decay=0.01", "betas=0.9,0.99"],
        {"weight_decay": 0.01, "betas": (0.9, 0.99)},
    ),
    "blanks": (["weight_decay=0.01 betas=0.9,0.99"], {"weight_decay": 0.01, "betas": (0.9, 0.99)}),
    "brackets": (["milestones=[2, 4] gamma=0.5"], {"milestones": [2, 4], "gamma": 0.5}),
    "brackets that the shell has split": (
        ["milestones=[2,", "4]", "gamma=0.5"],
        {"milestones": [2, 4], "gamma": 0.5},
    ),
    "a comma behind": (["T_max=175,", "eta_min=1e-6"], {"T_max": 175, "eta_min": 1e-6}),
    "commas": (["T_max=175,eta_min=1e-6"], {"T_max": 175, "eta_min": 1e-6}),
    "semicolons": (["a=1;b=2;"], {"a": 1, "b": 2}),
    "after a tuple": (["betas=0.9,0.99,eps=1e-8"], {"betas": (0.9, 0.99), "eps": 1e-8}),
    "around the sign": (["a", "=", "1", "b = 2"], {"a": 1, "b": 2}),
    "small letters": (
        ["a=true", "b=false c=none", "d=None"],
        {"a": True, "b": False, "c": None, "d": None},
    ),
    "a text": (
        ["step_rules=1:1,0.5:3,0.1", "mode=exp_range"],
        {"step_rules": "1:1,0.5:3,0.1", "mode": "exp_range"},
    ),
    "a text in quotes": (["mode='a b=c' d=1"], {"mode": "a b=c", "d": 1}),
    "nothing": ([], {}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_arguments_are_read(name: str) -> None:
    given, expected = PAIRS[name]
    problems: list[Problem] = []
    assert dict(read_pairs(given, "--optimizer_args", problems)) == expected
    assert problems == []


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (["0.01"], "'0.01' is not key=value"),
        (["0.01 a=1"], "'0.01' is not key=value"),
        (["a="], "has no value"),
        (["a=1 0.01"], "'a=1 0.01' is not one value"),
        (["a=hello world"], "'a=hello world' is not one value"),
        (["a=[1, 2", "b=3"], "'a=[1, 2 b=3' is not one value"),
        (["a='b"], "is not one value"),
    ],
)
def test_arguments_that_cannot_be_read(given: list[str], wrong: str) -> None:
    problems: list[Problem] = []
    read_pairs(given, "--optimizer_args", problems)
    assert f"--optimizer_args: {wrong}" in problems[0].what or wrong in problems[0].what


def test_a_settings_file_gives_a_text_or_a_list(moon_dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    for text in (
        '"weight_decay=0.5 betas=0.9,0.99"',
        '["weight_decay=0.5", "betas=0.9,0.99"]',
        '["weight_decay=0.5, betas=(0.9, 0.99)"]',
    ):
        file.write_text(f"optimizer_args = {text}\n", encoding="utf-8")
        config = config_for(moon_dataset, tmp_path / "o", f"--config_file={file}")
        assert dict(config.optim.arguments) == {"weight_decay": 0.5, "betas": (0.9, 0.99)}


def optim(name: str = "AdamW", schedule: str = "constant", **given: Any) -> OptimConfig:
    """Settings with `arguments` and `schedule_arguments` as dictionaries."""
    pairs = {key: tuple(given.pop(key, {}).items()) for key in ("arguments", "schedule_arguments")}
    return OptimConfig(name=name, schedule=schedule, **pairs, **given)


def by_class(kind: str, **given: Any) -> OptimConfig:
    return optim(schedule_class=kind, schedule_arguments=given)


TRIED: list[tuple[OptimConfig, str]] = [
    (by_class("ReduceLROnPlateau"), "waits for a measure"),
    (
        by_class("builtins.print"),
        "--lr_scheduler_type builtins.print is not a learning-rate schedule",
    ),
    (
        by_class("torch.optim.AdamW"),
        "--lr_scheduler_type torch.optim.AdamW is not a learning-rate schedule",
    ),
    (by_class("NoSuchLR"), "--lr_scheduler_type NoSuchLR is not a learning-rate schedule"),
    (
        by_class("some_package.Rex"),
        "--lr_scheduler_type some_package.Rex needs the package some_package",
    ),
    (by_class("StepLR"), "do not fit StepLR: it needs step_size"),
    (by_class("StepLR", step_size=0), "--lr_scheduler_args step_size=0 does not fit StepLR"),
    (
        by_class("CosineAnnealingLR", T_max=0),
        "--lr_scheduler_args T_max=0 does not fit CosineAnnealingLR",
    ),
    (
        by_class("CosineAnnealingLR", T_max="175 eta_min"),
        "T_max='175 eta_min', and it must be a number",
    ),
    (by_class("CosineAnnealingLR", T_max=(175,)), "T_max=(175,), and it must be a number"),
    (by_class("MultiStepLR", milestones="[2, 4] gamma=0.5"), "milestones"),
    (
        by_class("ExponentialLR", gamma=10.0),
        "gamma=10.0 does not fit ExponentialLR: the learning rate of the last step",
    ),
    (
        by_class("ExponentialLR", gamma=-1),
        "gamma=-1 does not fit ExponentialLR: the learning rate of step 2 would be -",
    ),
    (by_class("ExponentialLR", gamma=float("inf")), "gamma=inf, and it must be a finite number"),
    (by_class("OneCycleLR", max_lr=0.1, total_steps=100), "total_steps=100 do not fit OneCycleLR"),
    (optim(schedule="inverse_sqrt", timescale=0), "do not fit inverse_sqrt: division by zero"),
    (
        optim(schedule="polynomial", power=-1),
        "--lr_scheduler polynomial cannot be used in a run of 1600 steps",
    ),
    (optim(schedule_arguments={"nosuch": 5}), "do not fit constant: it has no argument nosuch"),
    (optim(schedule="cosine", schedule_arguments={"num_cycle": 2}), "did you mean `num_cycles`"),
    (optim(schedule="piecewise_constant"), "do not fit piecewise_constant: it needs step_rules"),
    (optim(arguments={"capturable": True}), "--optimizer_args capturable=True does not fit AdamW"),
    (
        optim(arguments={"differentiable": True}),
        "--optimizer_args differentiable=True does not fit AdamW",
    ),
    pytest.param(
        optim(arguments={"foreach": 5}),
        "foreach=5, and it must be True or False",
        marks=pytest.mark.skipif(Version(torch.__version__) < Version("2.8"), reason="it takes 5"),
    ),
    (
        optim(arguments={"weight_decay": "0.01 betas"}),
        "weight_decay='0.01 betas', and it must be a number",
    ),
    (optim(arguments={"weight_decay": (0.01,)}), "weight_decay=(0.01,), and it must be a number"),
    (optim(arguments={"betas": 0.9}), "betas=0.9, and it must be numbers such as (0.9, 0.999)"),
    (optim(arguments={"d_coef": 1}), "do not fit AdamW: it has no argument d_coef"),
    (optim(arguments={"betta": 1}), "did you mean `betas`"),
    (optim("Prodigy", arguments={"slice_p": 0}), "slice_p=0, and it must be at least 1"),
    (optim("Prodigy", arguments={"d_coef": -1}), "d_coef=-1, and it must be above 0"),
    (
        optim("AdamWScheduleFree", arguments={"warmup_steps": "abc"}),
        "warmup_steps='abc', and it must be a number",
    ),
    (optim("AdamWScheduleFree", arguments={"r": "abc"}), "r='abc', and it must be a number"),
    (
        optim("pytorch_optimizer.AdaHessian"),
        "--optimizer_type pytorch_optimizer.AdaHessian cannot learn a word by step()",
    ),
    (optim("pytorch_optimizer.LOMO"), "--optimizer_type pytorch_optimizer.LOMO cannot be used"),
    (optim("Adamm"), "--optimizer_type Adamm is not an optimizer"),
    (optim("SparseAdam"), "--optimizer_type SparseAdam is not an optimizer"),
    (optim("torch.nn.Linear"), "--optimizer_type torch.nn.Linear is not an optimizer"),
]


@pytest.mark.parametrize(
    ("config", "message"), TRIED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_would_fail_in_the_run_is_found_on_a_toy(config: OptimConfig, message: str) -> None:
    problems = optimizer_trial(config, 1600)
    assert len(problems) == 1
    assert message in str(problems[0])


@pytest.mark.parametrize("total", [1, 2, 3, 1600, 100_000])
def test_what_works_passes_at_any_length(total: int) -> None:
    given = [
        optim(), optim(schedule="cosine", warmup=0.1),
        optim(schedule="warmup_stable_decay", decay=0.2), by_class("StepLR", step_size=2),
        by_class("MultiStepLR", milestones=(2, 4)),
        by_class("OneCycleLR", max_lr=0.1, total_steps=total), optim("Lion"),
        by_class(
            "transformers.optimization.get_cosine_schedule_with_warmup",
            num_warmup_steps=1,
            num_training_steps=total,
        ),
    ]  # fmt: skip
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert [optimizer_trial(config, total) for config in given] == [[]] * len(given)
    assert torch.equal(torch.get_rng_state(), before), (
        "a trial draws nothing from the run's own numbers"
    )


OWN = """
import pathlib
import torch
pathlib.Path(__file__).with_name("ran").touch()
class Signish(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for row in group["params"]:
                row.grad.sign_()
        return super().step(closure)
"""


def test_modules_of_the_working_directory_are_not_run_unless_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_optimizer.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # As `python -m` and a script have it
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    config = OptimConfig(name="my_own_optimizer.Signish", learning_rate=0.1)
    (problem,) = optimizer_trial(config, 3)
    assert (
        problem.what == "--optimizer_type my_own_optimizer.Signish needs "
        "the package my_own_optimizer, which is not installed"
    )
    assert "PYTHONPATH=." in problem.hint
    assert "pip" not in problem.hint
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("PYTHONPATH", ".")
    (missing,) = optimizer_trial(OptimConfig(name="my_own_optimizer.Signich"), 3)
    assert "did you mean `Signish`" in missing.hint
    assert not (tmp_path / "ran").exists(), "its file says that there is no such class"
    assert optimizer_trial(config, 3) == []
    assert (tmp_path / "ran").exists()
    found = Findings()
    monkeypatch.delitem(sys.modules, "my_own_optimizer")
    checked_remarks(config, found)
    assert found.notes == [
        f"--optimizer_type my_own_optimizer.Signish: its code comes from {tmp_path / 'my_own_optimizer.py'}"
    ]


def checked_remarks(config: OptimConfig, found: Findings) -> None:
    from coinage.optim.table import remark_on_optimizer

    remark_on_optimizer(config, found)


def test_what_a_file_holds_is_known_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packed"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('run')\n")
    (package / "inner.py").write_text(
        "from torch.optim import Adam as Own\nOther = Own\ndef late(): pass\n"
    )
    (package / "open.py").write_text("from torch.optim import *\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    spec = find_module("packed.inner")
    assert spec is not None
    assert names_in(spec) == {"Own", "Other", "late"}
    assert import_problems("--x", "packed.inner.Own", "packed.inner.Own", "it") == []
    assert (
        "there is no Adam in packed.inner"
        in import_problems("--x", "a", "packed.inner.Adam", "it")[0].what
    )
    assert import_problems("--x", "packed.open.Adam", "packed.open.Adam", "it") == [], (
        "known only to who runs it"
    )
    assert find_module("packed.nowhere") is None


def plan_for(dataset: Path, out: Path, *more: str) -> Plan:
    return make_plans([config_for(dataset, out, *more)])[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--max_train_epochs=1 --lr_scheduler=cosine --lr_warmup_steps=100",
         "100 does not fit in 20 steps (--max_train_epochs 1)"),
        ("--max_train_steps=1600 --lr_scheduler=cosine --lr_warmup_steps=1600",
         "--lr_warmup_steps 1600 does not fit in 1,600 steps"),
        ("--max_train_epochs=2 --lr_scheduler=warmup_stable_decay --lr_decay_steps=40",
         "--lr_decay_steps 40 does not fit in 40 steps"),
        ("--max_train_steps=20 --lr_scheduler=warmup_stable_decay --lr_decay_steps=15 --lr_warmup_steps=15",
         "together are 30"),
    ],
)  # fmt: skip
def test_a_schedule_must_fit_in_the_runs_true_length(
    given: str, message: str, moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_for(moon_dataset, tmp_path, *given.split())
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_what_fits_and_what_never_comes(moon_dataset: Path, tmp_path: Path) -> None:
    long = ("--max_train_epochs=200", "--lr_scheduler=cosine", "--lr_warmup_steps=2000")
    assert plan_for(moon_dataset, tmp_path, *long).warnings == ()
    late = (
        "--save_every_n_steps=21",
        "--validate_every_n_steps=30",
        "--sample_every_n_epochs=2",
        "--token_warmup_step=50",
    )
    warned = [
        warning.what
        for warning in plan_for(moon_dataset, tmp_path, "--max_train_epochs=1", *late).warnings
    ]
    length = "20 steps (--max_train_epochs 1)"
    assert warned == [
        f"--save_every_n_steps 21 is more than the run's {length}, so it never happens",
        f"--validate_every_n_steps 30 is more than the run's {length}, so it never happens",
        "--sample_every_n_epochs 2 is more than the run's 1 epoch, so it never happens",
        f"token_warmup_step 50 is more than the run's {length}: not all tags are ever used",
    ]
    assert (
        plan_for(moon_dataset, tmp_path, "--max_train_steps=21", "--save_every_n_steps=21").warnings
        == ()
    )


@pytest.mark.parametrize("letter", ["a", "ミ"])
def test_a_name_may_be_as_long_as_the_longest_of_its_files(
    letter: str, moon_dataset: Path, tmp_path: Path
) -> None:
    given = (
        "--save_state",
        "--save_every_n_steps=2",
        "--sample_sampler=ddim",
        "--sample_every_n_steps=0",
    )
    ending = max(endings(config_for(moon_dataset, tmp_path, *given)), key=len)
    assert ending == "-step00000000.safetensors"
    room = os.pathconf(tmp_path, "PC_NAME_MAX") - len(ending)
    name = letter * (room // len(letter.encode()))
    assert plan_for(moon_dataset, tmp_path, *given, f"--output_name={name}")
    with pytest.raises(
        ConfigError, match=r"--output_name is too long: with -step00000000\.safetensors behind it"
    ):
        plan_for(moon_dataset, tmp_path, *given, f"--output_name={name}{letter}")


def test_what_stands_behind_a_name_is_what_the_run_writes(
    moon_dataset: Path, tmp_path: Path
) -> None:
    given = (
        "--save_every_n_steps=1",
        "--save_every_n_epochs=1",
        "--save_state",
        "--keep_best",
        "--validate_every_n_steps=1",
    )
    config = config_for(moon_dataset, tmp_path, *given, "--max_train_steps=25", "--autopilot=2")
    behind = {ending.replace("0", "9") for ending in endings(config)}
    assert {
        f"{when}{kind}"
        for when in ("", "-step99999999", "-999999")
        for kind in (".safetensors", "-state")
    } <= behind
    assert {"-best.safetensors", "-log.jsonl", "-report.html", "-autopilot.json"} <= behind
    assert length_problems("a" * 10, [".pt"], Path("C" * 300), 255, 259)[0].what.startswith(
        "--output_dir and --output_name are too long"
    )


INIT_WORDS: list[tuple[str, int, str]] = [
    ("shape", 1, ""),
    (
        "green ring shape",
        1,
        "warning: `green ring shape` is 3 tokens; with 1 vector only `green` is used",
    ),
    (
        "green ring shape",
        2,
        "warning: `green ring shape` is 3 tokens; with 2 vectors only `green`, `ring` are used",
    ),
    ("green ring shape", 3, ""),
    ("green ring", 4, "note: `green ring` is 2 tokens for 4 vectors: they are taken in turn"),
    ("shape", 4, "note: `shape` is 1 token for 4 vectors: each starts from it"),
    ("\u3000", 1, "error: `\u3000` has no tokens"),
]


@pytest.mark.parametrize(("text", "vectors", "expected"), INIT_WORDS)
def test_what_an_init_word_comes_to(text: str, vectors: int, expected: str) -> None:
    found = Findings()
    tokenizer = tokenizer_of(str(MODEL), found)
    assert tokenizer
    check_init_word(
        WordConfig(token="zibu", num_vectors=vectors, init_word=text), [tokenizer, tokenizer], found
    )
    told = [f"error: {one.what}" for one in found.errors] + [
        f"warning: {one.what}" for one in found.warnings
    ]
    assert [*told, *(f"note: {note}" for note in found.notes)] == (
        [expected.replace(": ", ": --init_word: ", 1)] if expected else []
    )


def test_a_word_that_the_model_does_not_know_whole() -> None:
    found = Findings()
    tokenizer = tokenizer_of(str(MODEL), found)
    assert tokenizer
    check_init_word(WordConfig(token="zibu", init_word="qwertyzzz"), [tokenizer], found)
    assert "only `q" in found.warnings[0].what
    assert found.warnings[0].what.startswith("--init_word: `qwertyzzz` is ")
    assert "tokens (`q" in found.warnings[0].what


def test_both_tokenizers_of_sdxl_are_asked(tmp_path: Path, moon_dataset: Path) -> None:
    model = shutil.copytree(MODELS / "sdxl", tmp_path / "model")
    merges = (model / "tokenizer_2" / "merges.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in merges if "".join(line.split()) != "shape</w>"]
    assert len(kept) < len(merges)
    (model / "tokenizer_2" / "merges.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    given = [
        word for word in flags(moon_dataset, tmp_path / "o") if not word.startswith("--pretrained")
    ]
    config, _ = complete(
        parse("sdxl", [*given, f"--pretrained_model_name_or_path={model}"], "test")
    )
    (plan,) = make_plans([config])
    (warning,) = (one.what for one in plan.warnings if "--init_word" in one.what)
    assert "`shape` is" in warning
    assert "tokens" in warning


def word_file(
    path: Path,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    width: int = 0,
    rows: int = 1,
) -> Path:
    wide = load_file(MODEL / "text_encoder" / "model.safetensors")[
        "text_model.embeddings.token_embedding.weight"
    ].shape[1]
    made = torch.full((rows, width or wide), 0.5)
    save_file({"emb_params": change(made) if change else made}, path)
    return path


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, ""),
        (
            {"width": 768},
            (
                "--weights: this file has vectors for emb_params "
                "768 wide, and the model takes emb_params 128 wide"
            ),
        ),
        ({"rows": 4}, "--weights: this file has 4 vectors, but --num_vectors_per_token is 1"),
        ({"change": lambda rows: rows * float("nan")}, "finite"),
        ({"change": torch.zeros_like}, "--weights: the file holds only zeros"),
    ],
)
def test_the_words_file_is_measured_before_the_model(
    made: dict[str, Any], message: str, moon_dataset: Path, tmp_path: Path
) -> None:
    file = word_file(tmp_path / "word.safetensors", **made)
    config = config_for(moon_dataset, tmp_path, TAUGHT, f"--weights={file}")
    found = weights_problems(config.word, config.model)
    assert [message in problem.what for problem in found] == ([True] if message else [])


def test_a_words_file_of_another_family(tmp_path: Path, moon_dataset: Path) -> None:
    file = word_file(tmp_path / "word.safetensors")
    config = config_for(moon_dataset, tmp_path, f"--weights={file}")
    model = ModelConfig(source=str(MODELS / "sdxl"), family="sdxl")
    assert [problem.what for problem in weights_problems(config.word, model)] == [
        (
            "--weights: this file has vectors for emb_params 128 wide, "
            "and the model takes clip_l 128 wide and clip_g 64 wide"
        )
    ]


def test_what_a_vae_can_be(tmp_path: Path) -> None:
    def told(path: object) -> str:
        return "".join(
            problem.what for problem in vae_problems(ModelConfig(source="x", vae=str(path)))
        )

    (tmp_path / "empty").mkdir()
    tiny = shutil.copytree(MODEL / "vae", tmp_path / "tiny")
    (tiny / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    bare = shutil.copytree(
        MODEL / "vae", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")
    )
    torch.save({"state_dict": {"decoder.conv_in.weight": torch.zeros(1)}}, tmp_path / "vae.pt")
    (tmp_path / "text.pt").write_text("text")
    for good in (
        MODEL,
        MODEL / "vae",
        MODEL / "vae" / "diffusion_pytorch_model.safetensors",
        tmp_path / "vae.pt",
        "owner/name",
    ):
        assert told(good) == ""
    assert "no VAE in this folder" in told(tmp_path / "empty")
    assert "AutoencoderTiny" in told(tiny)
    assert "no weights" in told(bare)
    assert "the file does not contain a VAE" in told(
        MODEL / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert "the file does not contain a VAE" in told(tmp_path / "text.pt")
    assert "not found" in told(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--clip_skip=50", "--clip_skip 50: the text encoder has "),
        ("--scale_v_pred_loss_like_noise_pred", "is for models that predict v"),
    ],
)
def test_flags_against_the_models_settings(
    given: str, message: str, moon_dataset: Path, tmp_path: Path
) -> None:
    (problem,) = settings_problems(config_for(moon_dataset, tmp_path, given))
    assert message in problem.what


def test_a_compiler_that_torch_has_not(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path, "--torch_compile", "--dynamo_backend=fx2trt")
    (problem,) = compiler_problems(config)
    assert problem.what == "--dynamo_backend fx2trt is not available in this version of torch"


BOTH = (
    "--optimizer_type=Adamm",
    "--optimizer_args betta=1",
    "--optimizer_args capturable=True",
    "--lr_scheduler_type=StepLR --lr_scheduler_args step_size=0",
    "--clip_skip=50",
    "--weights={tmp}/word.safetensors",
    "--vae={tmp}",
    "--max_train_epochs=1 --lr_scheduler=cosine --lr_warmup_steps=100",
    "--output_name=" + 250 * "a",
    "--seed=-2 --learning_rate=nan",
    "--torch_compile --dynamo_backend=fx2trt",
)


@pytest.mark.parametrize("given", BOTH)
def test_a_dry_run_refuses_what_a_run_refuses(
    given: str, moon_dataset: Path, tmp_path: Path
) -> None:
    word_file(tmp_path / "word.safetensors", width=768)
    more = flags(moon_dataset, tmp_path / "out", *given.format(tmp=tmp_path).split(" "))
    real, dry = (
        captured(lambda own=own: train_command("sd", own)) for own in (more, [*more, "--dry_run"])
    )
    assert real.returncode == dry.returncode == 2
    assert real.stderr == dry.stderr
    assert "error: " in dry.stderr
    assert "loading" not in real.stderr


def test_a_dry_run_says_what_a_run_says(moon_dataset: Path, tmp_path: Path) -> None:
    given = (
        "--init_word=green ring",
        "--save_every_n_steps=500",
        "--optimizer_type=Prodigy",
        "--max_train_steps=1",
        "--on_problem=warn",
    )
    more = flags(moon_dataset, tmp_path / "out", *given)
    dry, real = (
        captured(lambda own=own: train_command("sd", own)) for own in ([*more, "--dry_run"], more)
    )
    assert real.returncode == dry.returncode == 0
    head = real.stderr.partition("loading")[0].splitlines()[:-1]
    assert dry.stderr.splitlines()[: len(head)] == head
    assert [line for line in head if line.startswith("warning")] == [
        (
            "warning: --learning_rate 0.005: Prodigy sets its own "
            "rate, and this is a factor of it: use --learning_rate 1.0"
        ),
        "warning: --init_word: `green ring` is 2 tokens; with 1 vector only `green` is used",
        "warning: --save_every_n_steps 500 is more than the run's 1 step, so it never happens",
    ]


@pytest.mark.parametrize("name", ["nul", "CON", "aux.zibu", "com1", "lpt\u00b2", "prn "])
def test_names_of_devices_are_refused_on_windows(name: str) -> None:
    problem = sign_problem(name, windows=True)
    assert problem
    assert "is the name of a device on Windows" in problem.what
    assert sign_problem(name, windows=False) is None


@pytest.mark.parametrize("name", ["nulx", "console", "com", "com10", "zibu.nul", "auxiliary"])
def test_other_names_are_taken_on_windows(name: str) -> None:
    assert sign_problem(name, windows=True) is None


@pytest.mark.parametrize(
    "given",
    [
        "heavy_tail --noising_weight=1.8",
        "heavy_tail --noising_weight=-1.1",
        "logit_normal --noising_weight=-1",
        "beta --noising_weight=0.5",
        "sigmoid --noising_weight=900 --noising_bias=5",
        "inverted_parabola --noising_weight=2 --noising_bias=1.6",
    ],
)
def test_distributions_that_are_none(given: str, moon_dataset: Path, tmp_path: Path) -> None:
    kind, *more = given.split()
    (problem,) = refused(moon_dataset, tmp_path, f"--timestep_distribution={kind}", *more)
    assert problem.what.startswith(f"--timestep_distribution {kind} ")


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ("--noising_weight=1", "--noising_weight has no effect with"),
        ("--noising_bias=0.1 --timestep_distribution=heavy_tail --noising_weight=1", "--noising_bias has no"),
        ("--timestep_distribution=sigmoid", "--timestep_distribution is as uniform"),
        ("--unmasked_weight=1", "--unmasked_weight is 1: masks have no effect"),
        ("--unmasked_probability=1", "--unmasked_probability is 1: no mask is ever used"),
        (
            "--masked_prior_preservation_weight=1 --unmasked_weight=1",
            "--masked_prior_preservation_weight has no effect: no mask hides anything",
        ),
    ],
)  # fmt: skip
def test_distributions_and_masks_that_do_nothing_are_told(
    given: str, note: str, moon_dataset: Path, tmp_path: Path
) -> None:
    words = flags(moon_dataset, tmp_path, *given.split())
    _, found = complete(parse("sd", words, "test"))
    assert [text for text in found.notes if text.startswith(note)]
