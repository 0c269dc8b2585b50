"""How long a run will take, as earlier ones tell."""

import os
from pathlib import Path

import pytest
import tomli_w

from coinage.ui.speeds import Speed, known_speed
from coinage.ui.workspace import WordFolder, Workspace, write_json

SETTINGS = {"pretrained_model_name_or_path": "/m/a", "resolution": "64", "train_batch_size": 4}


def run_of(workspace: Workspace, word: str, when: int, speed: object, **more: object) -> None:
    folder = WordFolder(workspace.words / word)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.run_settings.write_text(tomli_w.dumps({**SETTINGS, **more}))
    write_json(folder.progress, {"images_per_second": speed})
    os.utime(folder.progress, (when, when))


def known(workspace: Workspace, **more: object) -> Speed | None:
    return known_speed(workspace, tomli_w.dumps({**SETTINGS, "seed": 3, **more}))


def test_the_newest_run_of_the_same_model_and_size_tells(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert known(workspace) is None
    run_of(workspace, "old", 10, 8.0, seed=1)
    run_of(workspace, "new", 20, 16.0, token_string="new")
    run_of(workspace, "large", 30, 1.0, resolution="512")
    run_of(workspace, "twice", 40, 4.0, gradient_accumulation_steps=2)
    run_of(workspace, "small", 50, 2.0, low_memory=True)
    assert known(workspace) == Speed(0.25, "new")
    assert known(workspace, low_memory=True) == Speed(2.0, "small")
    assert known(workspace, resolution="512") == Speed(4.0, "large")
    assert known(workspace, gradient_accumulation_steps=2) == Speed(2.0, "twice")
    assert known(workspace, pretrained_model_name_or_path="/m/b") is None


@pytest.mark.parametrize("speed", [None, 0, -1.0, "fast", [1]])
def test_a_run_that_was_not_measured_tells_nothing(tmp_path: Path, speed: object) -> None:
    workspace = Workspace(tmp_path)
    run_of(workspace, "a", 10, speed)
    assert known(workspace) is None
    folder = WordFolder(workspace.words / "b")
    folder.path.mkdir()
    write_json(folder.progress, {"images_per_second": 1.0})  # without settings
    assert known(workspace) is None
