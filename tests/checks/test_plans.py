"""What the checks give back, and that they leave no trace."""

import json
import shutil
from pathlib import Path

import pytest

from coinage.checks import check, make_plans
from coinage.checks.output import folder_problems
from coinage.cli.train import train_command
from coinage.config import TrainConfig
from coinage.demo.run import MODEL
from coinage.errors import ConfigError, Findings
from tests.helpers import config_for, flags


def test_a_check_makes_no_folder_and_keeps_no_lock(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path / "out", "--logging_dir", str(tmp_path / "log"))
    findings = check(config)
    assert findings.ok
    assert not list(tmp_path.iterdir())
    (plan,) = make_plans([config])
    assert not list(tmp_path.iterdir())
    plan.start()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "log"}
    assert (tmp_path / "out" / ".zibu.lock").exists()
    plan.release()
    assert not (tmp_path / "out" / ".zibu.lock").exists()


def test_a_plan_has_what_was_asked_and_what_was_found(moon_dataset: Path, tmp_path: Path) -> None:
    (plan,) = make_plans([config_for(moon_dataset, tmp_path, "--max_train_epochs=2")])
    assert (plan.steps, plan.epochs, len(plan.samples)) == (40, 2, 8)
    assert plan.memory.total > 0
    assert not plan.seed_drawn
    assert plan.config.loop.max_epochs == 2


def test_the_findings_of_a_check_can_be_read() -> None:
    config = TrainConfig.from_mapping(
        {
            "pretrained_model_name_or_path": "no/such/model",
            "token_string": "two words",
            "output_dir": "out",
            "train_data_dir": "nowhere",
        }
    )
    findings = check(config)
    assert not findings.ok
    text = str(findings)
    assert text.startswith("error: ")
    assert "nowhere" in text


def test_several_words_are_named_in_what_is_found(moon_dataset: Path, tmp_path: Path) -> None:
    configs = [
        config_for(moon_dataset, tmp_path, f"--token_string={token}") for token in ("zibu", "Zibu")
    ]
    with pytest.raises(ConfigError, match=r"they are the same\n  --> word 1 \(zibu\), word 2 \(Zi"):
        make_plans(configs)


def test_a_folder_is_probed_where_the_nearest_one_is(tmp_path: Path) -> None:
    assert folder_problems(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("x")
    (problem,) = folder_problems(tmp_path / "file")
    assert problem.what == "--output_dir: cannot write there: this is a file, not a folder"
    (problem,) = folder_problems(tmp_path / "file" / "below")
    assert f"{tmp_path / 'file'} is a file, not a folder" in problem.what
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_dry_run_says_that_the_schedule_needs_another_model(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    file = model / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    given = flags(moon_dataset, tmp_path / "out", f"--pretrained_model_name_or_path={model}")
    for prediction, expected in (("epsilon", 1), ("v_prediction", 0)):
        file.write_text(json.dumps(settings | {"prediction_type": prediction}), encoding="utf-8")
        assert train_command("sd", [*given, "--zero_terminal_snr", "--dry_run"]) == 0
        told = capsys.readouterr().err
        assert told.count("needs a model that predicts v") == expected


def test_wandb_without_a_key_is_an_error_before_the_model(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = config_for(moon_dataset, tmp_path / "out", "--log_with=wandb")

    def errors() -> list[str]:
        return [problem.what for problem in check(config).errors]

    assert errors() == ["--log_with wandb: no API key of W&B was found"]
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password 0123\n")
    assert errors() == []
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert errors() == []


def test_findings_are_shown_as_blocks() -> None:
    findings = Findings()
    assert findings.ok
    assert str(findings) == "nothing was found"
    findings.note("a note")
    findings.warn("odd", "here")
    findings.error("wrong", hint="mend it")
    assert str(findings) == "error: wrong\nhint: mend it\nwarning: odd\n  --> here\nnote: a note"
    assert not findings.ok
