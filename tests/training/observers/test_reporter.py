"""Every run keeps a page that tells what happened."""

import shlex
from pathlib import Path

import pytest
import torch

from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.errors import CoinageError, TrainingError
from coinage.report.command import command_of
from coinage.report.page import read_report
from coinage.settings.discover import complete
from coinage.system.shell import quoted
from coinage.terminal.messages import WarningCollector
from coinage.training import loop
from coinage.training.run import Run
from tests.helpers import config_for, flags, trained


def test_a_run_has_its_page(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (
        "--num_vectors_per_token=2",
        "--sample_every_n_steps=3",
        "--validation_split=0.25",
        "--learning_rate=10",
    )
    secrets = ("--huggingface_token=hf_geheim", "--wandb_api_key=ganzgeheim")
    assert train_command("sd", flags(moon_dataset, tmp_path, *given, *secrets)) == 0
    assert f"look at {tmp_path / 'zibu-report.html'}" in capsys.readouterr().err
    page = tmp_path / "zibu-report.html"
    assert "geheim" not in page.read_text()
    record = read_report(page)
    assert (record.status, record.step, record.total_steps, record.token) == (
        "finished",
        3,
        3,
        "zibu",
    )
    assert record.curves.step == [1, 2, 3]
    assert [
        len(values) for values in (record.rows, record.curves.norms[0], record.curves.angles[0])
    ] == [2, 2, 2]
    assert record.bands == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert [row.first[0][0] for row in record.rows] == ["shape", "shape"]
    assert [step for step, _ in record.measured] == [0, 1, 2, 3]
    assert record.image_count == 6
    assert len(record.images) == 8
    assert all(
        ("zibu", True) in image.caption and image.thumbnail.startswith("data:image/jpeg")
        for image in record.images
    )
    assert sum("held out" in image.marks for image in record.images) == 2
    assert [tool.tool for tool in record.tools if tool.same] == [tool.tool for tool in record.tools]
    assert any("times the length of the model's words" in text for text in record.warnings)
    (shot,) = record.shots
    assert (shot.step, len(shot.pictures), None in shot.pictures) == (3, 5, False)
    assert record.prompts[2].of == 1
    told = dict(entry for _, group in record.settings for entry in group)
    assert (told["--learning_rate"], told["--num_vectors_per_token"]) == ("10.0", "2")
    python, program, *words = shlex.split(record.command.replace("\\\n", ""))
    assert (python, program) == ("python", "train_textual_inversion.py")
    assert record.images_learned == 12
    again, first = (
        complete(parse("sd", own, "test"))[0]
        for own in (words, flags(moon_dataset, tmp_path, *given))
    )
    assert again == first


def test_the_page_shows_where_the_word_acts(moon_dataset: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 1 --d 1\nred --w 64 --h 64 --s 1 --d 1\n")
    given = (f"--sample_prompts={prompts}", "--sample_every_n_steps=3")
    pictures, rows = [], []
    for name, more in (("with", ["--show_word"]), ("without", [])):
        rows.append(trained(moon_dataset, tmp_path / name, *given, *more)[0].rows)
        pictures.append([path.read_bytes() for path in (tmp_path / name / "sample").iterdir()])
    assert sorted(pictures[0]) == sorted(pictures[1]), "the previews are the same"
    assert torch.equal(rows[0][0], rows[1][0])
    (shot,) = read_report(tmp_path / "with" / "zibu-report.html").shots
    assert (shot.heat[0] or "").startswith("data:image/png;base64,")
    assert shot.heat[1:] == [None]
    (shot,) = read_report(tmp_path / "without" / "zibu-report.html").shots
    assert shot.heat == []


def test_a_run_that_goes_on_has_one_page(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 1 --d 1\nzibu, red --w 64 --h 64 --s 1 --d 1\n")
    given = ("--max_train_steps=6", "--sample_every_n_steps=2", f"--sample_prompts={prompts}")
    real = loop.update

    def update(run: Run) -> None:
        real(run)
        run.progress.stop_signal = 15 if run.step == 2 else 0

    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", update)
        trained(moon_dataset, tmp_path, *given)
    before = read_report(tmp_path / "zibu-report.html")
    assert (before.status, before.step) == ("stopped", 3)
    trained(moon_dataset, tmp_path, *given, "--resume=latest")
    record = read_report(tmp_path / "zibu-report.html")
    assert (record.status, record.curves.step) == ("finished", [1, 2, 3, 4, 5, 6])
    assert [shot.step for shot in record.shots] == [2, 4, 6]
    assert record.shots[0] == before.shots[0]
    assert (record.began, record.seconds > before.seconds) == (before.began, True)
    assert (before.images_learned, record.images_learned) == (12, 24)
    assert "--resume" not in record.command


def test_a_run_that_fails_tells_why(moon_dataset: Path, tmp_path: Path) -> None:
    def spoil_later(run: Run) -> None:
        run.parts.denoiser.conv_out.register_forward_hook(
            lambda *_: torch.tensor(float("nan")) if run.step == 2 else None
        )

    with pytest.raises(TrainingError):
        trained(moon_dataset, tmp_path / "a", change=spoil_later)
    record = read_report(tmp_path / "a" / "zibu-report.html")
    assert (record.status, record.step) == ("failed", 2)
    assert "the loss of step 3 is nan" in record.problem

    def spoil(run: Run) -> None:
        run.parts.vae.encoder.conv_out.weight.data.fill_(float("nan"))

    with pytest.raises(CoinageError):
        trained(moon_dataset, tmp_path / "b", change=spoil)
    record = read_report(tmp_path / "b" / "zibu-report.html")
    assert (record.status, record.step, record.curves.step) == ("failed", 0, [])
    assert "the VAE makes no finite latents" in record.problem


def test_a_page_that_cannot_be_written_is_told_once(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.training.observers.reporter.MIN_INTERVAL", 0.0)
    monkeypatch.setattr("coinage.training.observers.reporter.WRITING_SHARE", 1e9)
    (tmp_path / "zibu-report.html" / "in the way").mkdir(parents=True)
    with WarningCollector() as warned:
        run, _ = trained(moon_dataset, tmp_path)
    assert run.step == 3
    (text,) = warned.texts
    assert text.startswith("cannot write the file")
    assert text.endswith("the run continues without its report")


def test_a_full_gpu_is_told_also_where_the_page_has_no_room(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was learned is saved."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def spoil(run: Run) -> None:
        def hook(*_: object) -> None:
            if run.step == 2:
                monkeypatch.setattr("coinage.models.vocabulary.Vocabulary.nearest", full)
                full()

        run.parts.denoiser.conv_in.register_forward_hook(hook)

    with (
        WarningCollector() as warned,
        pytest.raises(TrainingError, match="the GPU's memory is full"),
    ):
        trained(moon_dataset, tmp_path, change=spoil)
    assert any("the run continues without its report" in text for text in warned.texts)
    assert (tmp_path / "zibu-step00000002.safetensors").is_file()


def test_a_page_that_cannot_be_begun_is_told_once(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise IndexError("of a library")

    monkeypatch.setattr("coinage.training.observers.reporter.shown_images", broken)
    with WarningCollector() as warned:
        run, _ = trained(moon_dataset, tmp_path)
    assert run.step == 3
    assert warned.texts == ["of a library\nthe run continues without its report"]


def test_a_page_does_not_say_that_an_interrupted_run_goes_on(
    moon_dataset: Path, tmp_path: Path
) -> None:
    def interrupt(run: Run) -> None:
        def hook(*_: object) -> None:
            if run.step == 2:
                raise KeyboardInterrupt

        run.parts.denoiser.conv_in.register_forward_hook(hook)

    with pytest.raises(KeyboardInterrupt):
        trained(moon_dataset, tmp_path, change=interrupt)
    assert read_report(tmp_path / "zibu-report.html").status == "stopped"


def test_prompts_that_change_get_places_of_their_own(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "zibu --w 64 --h 64 --s 1 --d 9007199254740993\na red zibu --w 64 --h 64 --s 1 --d 2\n"
    )
    real = loop.update

    def update(run: Run) -> None:
        real(run)
        if run.step == 2:
            file.write_text("a blue zibu --w 64 --h 64 --s 1 --d 2\n")

    monkeypatch.setattr(loop, "update", update)
    trained(moon_dataset, tmp_path, f"--sample_prompts={file}", "--sample_every_n_steps=1")
    record = read_report(tmp_path / "zibu-report.html")
    assert [asked.text for asked in record.prompts] == ["zibu", "a red zibu", "a blue zibu"]
    assert record.prompts[0].seed == 9007199254740993
    assert [[picture is not None for picture in shot.pictures] for shot in record.shots] == [
        [True, True],
        [False, False, True],
        [False, False, True],
    ]


def test_warnings_that_are_not_printed_are_on_the_page(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train_command(
            "sd", flags(moon_dataset, tmp_path, "--learning_rate=10", "--console_log_level=ERROR")
        )
        == 0
    )
    assert "warning" not in capsys.readouterr().err
    assert any(
        "times the length of the model's words" in text
        for text in read_report(tmp_path / "zibu-report.html").warnings
    )


def test_a_command_as_shells_take_it(moon_dataset: Path, tmp_path: Path) -> None:
    assert quoted(["--token_string=<it's>"], "posix") == """'--token_string=<it'"'"'s>'"""
    assert quoted(["--token_string=<it's>", "--init_word=a&b", r"--output_dir=C:\out\x"], "nt") == (
        r"""'--token_string=<it''s>' '--init_word=a&b' --output_dir=C:\out\x"""
    )
    config = config_for(moon_dataset, tmp_path)
    assert command_of(config, 2).startswith(
        "accelerate launch --num_processes=2 train_textual_inversion.py \\\n"
    )


def test_a_damaged_log_is_read_as_far_as_it_is_good(moon_dataset: Path, tmp_path: Path) -> None:
    trained(moon_dataset, tmp_path, "--max_train_steps=4", "--save_every_n_steps=2", "--save_state")
    log = tmp_path / "zibu-log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"\xff\xfe\n" + lines[1] + lines[2] + b'{"step": 4')
    state = tmp_path / "zibu-step00000002-state"
    trained(moon_dataset, tmp_path, "--max_train_steps=4", f"--resume={state}")
    assert log.read_bytes().splitlines(keepends=True) == [lines[0], b"\xff\xfe\n", *lines[1:]]
    assert read_report(tmp_path / "zibu-report.html").curves.step == [1, 2, 3, 4]


def test_a_log_that_is_deleted_is_told(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.update

    def update(run: Run) -> None:
        real(run)
        (tmp_path / "zibu-log.jsonl").unlink(missing_ok=True)

    monkeypatch.setattr(loop, "update", update)
    with WarningCollector() as warned:
        trained(moon_dataset, tmp_path)
    (text,) = warned.texts
    assert text.startswith("cannot write the log; training continues")
