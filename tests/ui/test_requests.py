"""What the page asks a run for does not change what it learns."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.ui.job import PREVIEW, SAVE, STOP, ask, is_asked
from coinage.ui.previews import list_previews, picture, write_prompts
from coinage.ui.progress import ProgressFile
from coinage.ui.requests import Requests
from coinage.ui.workspace import WordFolder
from tests.helpers import trained

STEPS = "--max_train_steps=4"


class Asking(Observer):
    """Asks for something after the second step, as the page does."""

    priority = 0

    def __init__(self, folder: WordFolder, *whats: str) -> None:
        self._folder, self._whats = folder, whats

    def stepped(self, run: Run) -> None:
        if run.step == 2:
            for what in self._whats:
                ask(self._folder, what)


def word_folder(tmp_path: Path) -> WordFolder:
    folder = WordFolder(tmp_path / "word")
    folder.path.mkdir()
    return folder


def prompt_flags(tmp_path: Path) -> list[str]:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of zibu --w 64 --h 64 --s 2 --d 1\n", encoding="utf-8")
    return [f"--sample_prompts={prompts}", "--sample_every_n_steps=1000"]


def test_a_stop_is_not_lost_when_no_signal_comes(moon_dataset: Path, tmp_path: Path) -> None:
    folder = word_folder(tmp_path)

    def beside(_: Run, observers: Sequence[Observer]) -> Sequence[Observer]:
        return [Asking(folder, STOP), Requests(folder, observers)]

    run, _ = trained(moon_dataset, folder.output, STEPS, beside=beside)
    assert run.step == 3  # the step that was at hand


def test_previews_and_saves_on_request_leave_the_run_as_it_is(
    moon_dataset: Path, tmp_path: Path
) -> None:
    folder = word_folder(tmp_path)

    def beside(_: Run, observers: Sequence[Observer]) -> Sequence[Observer]:
        write_prompts(folder, observers)
        return [Asking(folder, PREVIEW, SAVE), Requests(folder, observers)]

    flags = [STEPS, *prompt_flags(tmp_path)]
    _, asked = trained(moon_dataset, folder.output, *flags, beside=beside)
    _, plain = trained(moon_dataset, tmp_path / "plain", STEPS)
    assert not is_asked(folder, PREVIEW)
    assert not is_asked(folder, SAVE)
    assert (folder.output / "zibu-step00000002.safetensors").is_file()
    assert (folder.output / "zibu-step00000002-state").is_dir()
    for key, rows in plain.vectors.items():
        assert torch.equal(rows, asked.vectors[key])
    previews = list_previews(folder, None)
    assert [preview["step"] for preview in previews] == [2, 4]  # the last at its end, as always
    assert {preview["text"] for preview in previews} == {"a photo of zibu"}
    assert picture(folder, previews[0]["file"]) is not None
    assert picture(folder, "../job.json") is None
    assert list_previews(folder, 4e9) == []  # a run that begins later has none yet


def test_without_prompts_a_preview_on_request_is_one_warning(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = word_folder(tmp_path)
    trained(
        moon_dataset, folder.output, STEPS,
        beside=lambda *_: [Asking(folder, PREVIEW, SAVE), Requests(folder, ())],
    )  # fmt: skip
    assert caplog.text.count("no previews can be drawn: the run has no prompts") == 1
    assert not is_asked(folder, PREVIEW)


def test_a_save_that_fails_ends_no_run_and_is_not_asked_for_again(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = word_folder(tmp_path)
    (folder.output / "zibu-step00000002.safetensors").mkdir(parents=True)
    run, _ = trained(
        moon_dataset, folder.output, STEPS,
        beside=lambda _, observers: [Asking(folder, PREVIEW, SAVE), Requests(folder, observers)],
    )  # fmt: skip
    assert run.complete
    assert "the run continues; earlier files are unchanged" in caplog.text
    assert not is_asked(folder, SAVE)


def test_the_progress_of_a_run_is_written_at_most_once_a_second(
    moon_dataset: Path, tmp_path: Path
) -> None:
    folder, seconds = word_folder(tmp_path), 0.0
    written: list[dict[str, object]] = []

    class Reading(Observer):
        priority = 2000

        def stepped(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
            nonlocal seconds
            seconds += 0.4
            written.append(json.loads(folder.progress.read_bytes()))

    progress = ProgressFile(folder, now=lambda: seconds)
    assert json.loads(folder.progress.read_bytes()) == {"phase": "loading"}
    flags = ["--max_train_steps=8", *prompt_flags(tmp_path)]

    def beside(run: Run, observers: Sequence[Observer]) -> Sequence[Observer]:
        progress.loaded([run])
        return [*progress.beside(observers), Reading()]

    trained(moon_dataset, folder.output, *flags, beside=beside)
    assert [entry["step"] for entry in written] == [0, 0, 0, 4, 4, 4, 7, 8]
    last = json.loads(folder.progress.read_bytes())
    assert last["phase"] == "verifying"
    assert last["seconds_left"] == 0
    assert written[3]["phase"] == "training"
    assert written[3]["seconds_left"] == pytest.approx(4 * 0.4)
    assert 0 < last["loss"] < 2
    assert 0 < last["angle"] < 180


def test_a_disk_that_takes_no_progress_ends_no_run(tmp_path: Path) -> None:
    folder = word_folder(tmp_path)
    folder.progress.mkdir()
    ProgressFile(folder).enter("training")
    assert folder.progress.is_dir()
