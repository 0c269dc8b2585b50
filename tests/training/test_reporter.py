"""Every run keeps a page that tells what happened."""

import shlex
from pathlib import Path

import pytest
import torch

from coinage.cli.build import build
from coinage.cli.kohya import train_command
from coinage.cli.parse import parse
from coinage.errors import CoinageError, TrainingError
from coinage.report.page import read
from coinage.training import loop
from coinage.training.reporter import WarningsKept
from coinage.training.setup import Run
from tests.helpers import flags, trained


def test_a_run_has_its_page(moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--num_vectors_per_token=2", "--sample_every_n_steps=3", "--validation_split=0.25", "--learning_rate=10")
    secrets = ("--huggingface_token=hf_geheim", "--wandb_api_key=ganzgeheim")
    assert train_command("sd", flags(moon_dataset, tmp_path, *given, *secrets)) == 0
    assert f"look at {tmp_path / 'zibu-report.html'}" in capsys.readouterr().err
    page = tmp_path / "zibu-report.html"
    assert "geheim" not in page.read_text()
    record = read(page)
    assert (record.status, record.step, record.total_steps, record.token) == ("finished", 3, 3, "zibu")
    assert record.curves.step == [1, 2, 3]
    assert [len(values) for values in (record.rows, record.curves.norms[0], record.curves.angles[0])] == [2, 2, 2]
    assert record.bands == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert [row.first[0][0] for row in record.rows] == ["shape", "shape"]
    assert [step for step, _ in record.measured] == [0, 1, 2, 3]
    assert record.image_count == 6
    assert len(record.images) == 8
    assert all(("zibu", True) in image.caption and image.thumbnail.startswith("data:image/jpeg") for image in record.images)
    assert sum("held out" in image.marks for image in record.images) == 2
    assert [tool.tool for tool in record.tools if tool.same] == [tool.tool for tool in record.tools]
    assert any("times as long as the model's words" in text for text in record.warnings)
    (shot,) = record.shots
    assert (shot.step, len(shot.pictures), None in shot.pictures) == (3, 5, False)
    assert record.prompts[2].of == 1
    told = dict(entry for _, group in record.settings for entry in group)
    assert (told["--learning_rate"], told["--num_vectors_per_token"]) == ("10.0", "2")
    program, *words = shlex.split(record.command.replace("\\\n", ""))
    assert program == "train_textual_inversion.py"
    again, first = (build(parse("sd", own, "test"))[0] for own in (words, flags(moon_dataset, tmp_path, *given)))
    assert again == first


def test_a_run_that_goes_on_has_one_page(moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--max_train_steps=6", "--sample_every_n_steps=2")
    real = loop.update

    def update(run: Run) -> None:
        real(run)
        run.stop = 15 if run.step == 2 else 0

    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", update)
        trained(moon_dataset, tmp_path, *given)
    before = read(tmp_path / "zibu-report.html")
    assert (before.status, before.step) == ("stopped", 3)
    trained(moon_dataset, tmp_path, *given, "--resume=latest")
    record = read(tmp_path / "zibu-report.html")
    assert (record.status, record.curves.step) == ("finished", [1, 2, 3, 4, 5, 6])
    assert [shot.step for shot in record.shots] == [2, 4, 6]
    assert record.shots[0] == before.shots[0]
    assert (record.began, record.seconds > before.seconds) == (before.began, True)


def test_a_run_that_fails_tells_why(moon_dataset: Path, tmp_path: Path) -> None:
    def spoil_later(run: Run) -> None:
        run.parts.denoiser.conv_out.register_forward_hook(lambda *_: torch.tensor(float("nan")) if run.step == 2 else None)

    with pytest.raises(TrainingError):
        trained(moon_dataset, tmp_path / "a", change=spoil_later)
    record = read(tmp_path / "a" / "zibu-report.html")
    assert (record.status, record.step) == ("failed", 2)
    assert "the loss of step 3 is nan" in record.problem

    def spoil(run: Run) -> None:
        run.parts.vae.encoder.conv_out.weight.data.fill_(float("nan"))

    with pytest.raises(CoinageError):
        trained(moon_dataset, tmp_path / "b", change=spoil)
    record = read(tmp_path / "b" / "zibu-report.html")
    assert (record.status, record.step, record.curves.step) == ("failed", 0, [])
    assert "the VAE makes no finite latents" in record.problem


def test_a_page_that_cannot_be_written_is_told_once(moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinage.training.reporter.LEAST_INTERVAL", 0.0)
    monkeypatch.setattr("coinage.training.reporter.SHARE", 1e9)
    (tmp_path / "zibu-report.html" / "in the way").mkdir(parents=True)
    with WarningsKept() as warned:
        run, _ = trained(moon_dataset, tmp_path)
    assert run.step == 3
    (text,) = warned.found
    assert text.startswith("cannot write the file")
    assert text.endswith("training goes on without its report")
